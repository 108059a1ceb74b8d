"""The training loop: control flow from top to bottom, nothing hidden.

Under torchrun each process takes its share of every batch through the head; features and logits are gathered before the
objective, which sees the whole batch, and the head's gradients are added up. Losses know nothing of it.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from embedscope import distributed
from embedscope.errors import InputError
from embedscope.finetuning.augmenting import Augmentation
from embedscope.finetuning.optimization import Schedule, build_optimizer
from embedscope.finetuning.sampling import build_sampler
from embedscope.finetuning.validation import criterion, validate
from embedscope.losses.expression import Objective, build
from embedscope.progress import untracked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from embedscope.finetuning.config import TrainingConfig
    from embedscope.finetuning.material import Material
    from embedscope.progress import Track


class DivergedError(InputError):
    """An objective, or what it made of the weights, that is not finite."""


class Training:
    """A head in training: `run` it, and take the head of the best epoch.

    The seed decides the start and the batches of each epoch, so that trainings with different objectives are paired. Where no
    term of the objective reaches the logits, the classifier learns by cross-entropy on the embedding, which gets no gradient
    from it: a linear probe, as `probe` in the log.

    Attributes:
        head: as it is after the last epoch; after `run`, with the weights of the best one, in evaluation mode.
        log: one line per epoch: epoch, objective, each term by name, learning_rate at its start, and val_loss, val_accuracy,
            val_macro_f1 and the criterion on the validation rows.
        epoch: that was run last.
        best_epoch: whose weights are kept: the best on the validation rows of those with all terms, the later of equals; the
            last one without validation rows.
        best_value: of the criterion there, as it is, whichever its direction; None without validation rows.
        best_state: the head's tensors there, None before the first epoch.
        warnings: what a user should know, a sentence each.
    """

    def __init__(self, material: Material, config: TrainingConfig, objective: str, seed: int) -> None:
        self.material, self.config, self.objective, self.seed = material, config, objective, seed
        device = material.labels.device
        torch.manual_seed(seed)
        self.head = material.build(config, seed).to(device).train()
        self.criterion = build(objective, material.num_classes, self.head.width, self.head.loss_widths).to(device)
        groups = material.groups(self.head, self.criterion, config)
        self._optimizer = build_optimizer(config.optimizer, groups, config.learning_rate, config.weight_decay)
        self._schedule = Schedule(config.schedule, self._optimizer, config.epochs)
        self._sampler = build_sampler(config.sampler, material.labels.cpu().numpy(), config.batch_size, seed)
        self._augment = None if config.augment is None else Augmentation(config.augment, len(material.labels), seed)
        self._probes = not self._reaches_logits()
        self._criterion, self._sign = criterion(config.select_by)
        self._complete = max(start for _, start in self.criterion.schedule)  # the epoch from which on all terms count
        # Whether the loss of each step is looked at: on a GPU that waits for all that is under way, which a network hides.
        self._looks = material.subject is not None or device.type == "cpu"
        self._average = None if config.ema is None else _copied(self.head)
        self._steps = 0
        self._stale = 0  # epochs since the validation got better
        self._negative = 0.0
        self.log: list[dict[str, float]] = []
        self.epoch, self.best_epoch = 0, 0
        self.best_value: float | None = None
        self.best_state: dict[str, Tensor] | None = None

    def run(self, track: Track, after_epoch: Callable[[], None]) -> None:
        """Train to the last epoch, or until the validation has not got better for `patience` epochs.

        Epochs before the last term is switched on neither count as the best nor towards `patience`. DivergedError at the
        step at which the objective is not finite (of a head on a GPU, at the end of that epoch), with the terms that are not;
        `best_state` is what was good before.
        """
        left = range(self.epoch + 1, self.config.epochs + 1)
        name = f"training {self.objective} (seed {self.seed})"
        within = self.material.subject is not None  # an epoch of a network is long: its progress is shown, with its speed
        for epoch in left if within else track(left, name, len(left)):
            if self.config.patience is not None and self._stale >= self.config.patience:
                break
            rate = self._optimizer.param_groups[0]["lr"]
            means = self._run_epoch(epoch, track if within else untracked, f"{name}, epoch {epoch} of {self.config.epochs}")
            with self._averaged():
                found = validate(self.head, self.material, self._criterion)
                self.log.append({"epoch": epoch, **means, "learning_rate": rate, **found})
                self.epoch = epoch
                self._keep(found.get(f"val_{self._criterion}"))
            after_epoch()
        if self.best_state is not None:
            self.head.load_state_dict(self.best_state)
        self.head.eval()

    @property
    def warnings(self) -> list[str]:
        """What a user should know of the last epoch."""
        if not self._negative:
            return []
        return [
            f"b(i) of the soft silhouette was negative for {self._negative:.0%} of the samples in the last epoch, where "
            f"the gradient can push a sample away from its own class; lower tau_s, or use softmin='lme'"
        ]

    def state_dict(self) -> dict[str, Any]:
        """All that changes from epoch to epoch; with it, another process continues as this one would have."""
        cuda = self.material.labels.device.type == "cuda"
        return {
            "head": self.head.state_dict(),
            "criterion": self.criterion.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if cuda else None,
            "best_state": self.best_state,
            "average": self._average,
            "steps": self._steps,
            "counts": [self.epoch, self.best_epoch, self._stale],
            "best_value": self.best_value,
            "negative": self._negative,
            "log": self.log,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.head.load_state_dict(state["head"])
        self.criterion.load_state_dict(state["criterion"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"])
        self.best_state, self.best_value = state["best_state"], state["best_value"]
        self.epoch, self.best_epoch, self._stale = state["counts"]
        self._negative, self.log = state["negative"], state["log"]
        self._steps = state["steps"]
        for name, tensor in (self._average or {}).items():
            tensor.copy_(state["average"][name])

    def _run_epoch(self, epoch: int, track: Track, description: str) -> dict[str, float]:
        """Go through the batches once; return the means of the objective and its terms."""
        self.criterion.start_epoch(epoch, self.config.epochs)
        batches = list(self._sampler.batches(epoch))
        values, names = [], ["objective"]
        read = track(self._read(batches), description, sum(map(len, batches)), size=lambda pair: len(pair[0]))
        for step, (batch, rows) in enumerate(read, 1):
            loss, terms = self._forward(batch, rows)
            values.append(torch.stack([value.detach().double() for value in terms.values()]))
            names = list(terms)
            if self._looks and not math.isfinite(loss.item()):
                self._check_finite(values[-1:], names, f"epoch {epoch}, step {step} of {len(batches)}")
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._add_gradients_up()
            if self.config.clip is not None:
                nn.utils.clip_grad_norm_(self.head.parameters(), self.config.clip)
            self._optimizer.step()
            self._schedule.after_step(epoch - 1 + step / len(batches))
            self._take_into_average()
        found = torch.stack(values).cpu()
        self._check_finite(values, names, f"epoch {epoch}")
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.head.parameters()):
            raise DivergedError(f"{self.objective}: the weights are not finite after epoch {epoch}; lower the learning rate")
        sizes = torch.tensor([len(batch) for batch in batches], dtype=torch.float64)
        means = dict(zip(names, ((sizes @ found) / sizes.sum()).tolist(), strict=True))
        self._negative = means.pop("negative", 0.0)
        return means

    def _check_finite(self, values: Sequence[Tensor], names: Sequence[str], when: str) -> None:
        """Raise DivergedError with the terms of the first of some batches that are not finite."""
        found = torch.stack(list(values)).cpu()
        broken = ~torch.isfinite(found)
        if broken.any():
            guilty = self._guilty(dict(zip(names, found[broken.any(dim=1).nonzero()[0, 0]].tolist(), strict=True)))
            raise DivergedError(
                f"{self.objective} is not finite in {when}: {', '.join(guilty)}; lower the learning rate or the weight"
            )

    def _guilty(self, values: dict[str, float]) -> list[str]:
        """Name the terms that are not finite, or not any more when they are weighted."""
        weights = {name: weight for name, (weight, _) in zip(self.criterion.names, self.criterion.schedule, strict=True)}
        terms = {name: torch.tensor(value) for name, value in values.items() if name not in ("objective", "negative")}
        found = [name for name, value in terms.items() if not torch.isfinite(value * weights.get(name, 1.0))]
        return found or ["their sum"]

    def _read(self, batches: Sequence[np.ndarray[Any, Any]]) -> Iterator[tuple[np.ndarray[Any, Any], Any]]:
        """Give each batch with this process's share of its rows."""
        if self.material.inputs is not None:
            return self.material.inputs.read(batches, _own)
        device = self.material.labels.device
        return ((batch, self.material.features[_own(batch).to(device)]) for batch in batches)

    def _forward(self, batch: np.ndarray[Any, Any], rows: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute what is minimized on a batch, of which this process has some rows, and what is logged of it."""
        whole = torch.from_numpy(batch)
        device = self.material.labels.device
        if self._augment is not None:
            rows = self._augment(rows, _own(batch), self.criterion.epoch)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.config.amp):
            embedding, logits = self.head(rows)
        probed = self.head.probe(embedding) if self._probes else None
        embedding, logits = distributed.all_gather_rows(embedding, len(batch)), distributed.all_gather_rows(logits, len(batch))
        whole = whole.to(device)
        labels = self.material.labels[whole]
        weights = None if self.material.weights is None else self.material.weights[whole]
        layer = self.head.loss_rows
        if layer is not None:
            layer = distributed.all_gather_rows(layer[0], len(batch)), distributed.all_gather_rows(layer[1], len(batch))
        objective = loss = self.criterion(embedding, labels, logits, weights, layer)
        terms = {"objective": objective, **self.criterion.terms}
        if probed is not None:
            terms["probe"] = nn.functional.cross_entropy(distributed.all_gather_rows(probed, len(batch)), labels)
            loss = loss + terms["probe"]
        negative = [share for each in self.criterion.losses if (share := getattr(each, "negative_share", None)) is not None]
        if negative:
            terms["negative"] = torch.stack([share.to(device) for share in negative]).max()
        return loss, terms

    def _take_into_average(self) -> None:
        """Move the averaged weights and statistics towards those of this step, by more in the first steps."""
        if self._average is None or self.config.ema is None:
            return
        self._steps += 1
        share = 1 - min(self.config.ema, self._steps / (9 + self._steps))
        for name, tensor in self.head.state_dict().items():
            if tensor.is_floating_point():
                self._average[name].lerp_(tensor, share)
            else:
                self._average[name].copy_(tensor)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the averaged weights into the head for a while, if there are any."""
        if self._average is None:
            yield
            return
        trained = _copied(self.head)
        self.head.load_state_dict(self._average)
        try:
            yield
        finally:
            self.head.load_state_dict(trained)

    def _add_gradients_up(self) -> None:
        """Make every process's gradients those of the full batch: the head's are sums over rows, the objective's are whole."""
        if distributed.world_size() > 1:
            distributed.all_reduce([p.grad for p in self.head.parameters() if p.grad is not None])
            distributed.all_reduce([p.grad for p in self.criterion.parameters() if p.grad is not None], mean=True)

    def _reaches_logits(self) -> bool:
        """Whether any term has a gradient in the logits, tried on drawn rows, so that a term that starts later counts too."""
        classes = self.material.num_classes
        generator = torch.Generator().manual_seed(0)
        device = self.material.labels.device
        labels = torch.arange(4 * min(classes, 16)) % min(classes, 16)
        rows = torch.randn(len(labels), self.head.width, generator=generator).to(device)
        logits = torch.randn(len(labels), classes, generator=generator).to(device).requires_grad_()
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            trial: Objective = build(self.objective, classes, rows.shape[1]).to(device)
            for each in (each for each, (weight, _) in zip(trial.losses, trial.schedule, strict=True) if weight):
                value = each(rows.clone().requires_grad_(), labels.to(device), logits)
                (gradient,) = torch.autograd.grad(value, logits, allow_unused=True)
                if gradient is not None and bool((gradient != 0).any()):
                    return True
        return False

    def _keep(self, value: float | None) -> None:
        """Keep the head if no epoch before was better."""
        if value is None or self.epoch < self._complete:
            better, best, value = True, True, None
        else:
            best = self.best_value is None or self._sign * value >= self._sign * self.best_value
            better = self.best_value is None or self._sign * value > self._sign * self.best_value
            self._schedule.after_epoch(self._sign * value)
        self._stale = 0 if better else self._stale + 1
        if best:
            self.best_epoch, self.best_value = self.epoch, value
            self.best_state = _copied(self.head)


def _copied(head: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in head.state_dict().items()}


def _own(batch: np.ndarray[Any, Any]) -> Tensor:
    """Give this process's share of the positions of a batch."""
    return torch.from_numpy(batch)[distributed.share(len(batch))]
