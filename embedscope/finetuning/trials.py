"""One trial after the other: train, keep what came out, measure. What was done before an interruption is not done again."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope import distributed
from embedscope.finetuning.banks import Chosen
from embedscope.finetuning.inputs import InputBank
from embedscope.finetuning.measuring import knn_accuracy, macro_f1, measured, primary_name, searched
from embedscope.finetuning.training import DivergedError, Training
from embedscope.finetuning.validation import apply
from embedscope.ops.paired import bootstrap_of_rows
from embedscope.store import typed
from embedscope.store.results import Trial
from embedscope.store.runs import HEAD, MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from embedscope.finetuning.config import TrainingConfig
    from embedscope.finetuning.material import Material
    from embedscope.finetuning.splitting import Parts
    from embedscope.progress import Track
    from embedscope.store.heads import HeadNotes
    from embedscope.store.provenance import Provenance
    from embedscope.store.runs import RunWriter

# A training that is under way is kept at most so often.
_SECONDS_BETWEEN_STATES = 10.0


@dataclass(frozen=True)
class Outcome:
    """The outcome of a training; its head is in the run.

    Attributes:
        epochs: trained.
        best_epoch: whose weights were kept.
        validation: the criterion there, or None without validation rows.
        seconds: spent.
        warnings: what a user should know.
        diverged: why it ended before its time, or None.
    """

    epochs: int
    best_epoch: int
    validation: float | None
    seconds: float
    warnings: tuple[str, ...] = ()
    diverged: str | None = None


class Trials:
    """The trainings of a run, each kept in the run directory as it ends.

    Args:
        parts: the rows of one split.
        material: the same, as training takes them.
        config: how to train, with the seed of the split.
        writer: of the run; the first process alone writes.
        notes: what a head's file says beside its tensors, but for objective, seed and epoch.
        provenance: what the stores say, but for the head.
        memory: bytes that rows may take.
        track: reports progress over epochs.
        temporary: whether the run directory is removed if the run fails, so that messages promise nothing that was kept.
        split: number of the split, from 0.
    """

    def __init__(
        self,
        parts: Parts,
        material: Material,
        config: TrainingConfig,
        writer: RunWriter,
        *,
        notes: HeadNotes,
        provenance: Provenance,
        memory: int,
        track: Track,
        temporary: bool = False,
        split: int = 0,
    ) -> None:
        self.temporary = temporary
        self.parts, self.material, self.config = parts, material, config
        self._writer, self._notes, self._provenance = writer, notes, provenance
        self._memory, self._track, self._split = memory, track, split
        self._primary = primary_name(config.primary)
        self._device = material.labels.device
        self._classes = np.unique(parts.train.labels)
        codes = material.labels.cpu().numpy()
        self._searched = searched(codes, config.seed)
        self._known_codes = codes[self._searched]

    def directories(self, folder: str) -> list[str]:
        """Name the folders of the trials of an objective, whose own is given."""
        split = f"/split-{self._split}" if self._split else ""
        return [f"{folder}{split}/trial-{number}" for number in range(self.config.trials)]

    def before(self) -> dict[str, float | None]:
        """Measure the held-out rows as they came in, and write them if they are those of the first split."""

        def found() -> dict[str, float | None]:
            test = self.parts.test
            return {
                **measured(test, self.config.metrics, self._primary, self._device, self._memory),
                "knn_accuracy": knn_accuracy(self._known[:], self._known_codes, test.features, self._test),
                "macro_f1": None,
                "accuracy": None,
            }

        if self._split:
            return self._noted(f"before/split-{self._split}", "measured", "", found)
        values = self._noted("before", "measured", "", found)
        distributed.on_main(lambda: self._writer.write_before(self.parts.test, self._provenance))
        return values

    def train(self, objective: str, directory: str, number: int) -> Outcome:
        """Train once, unless it was done. Where the objective is not finite, the last good head is kept."""

        def found() -> dict[str, Any]:
            outcome = asdict(self._trained(objective, directory, self.config.seed + number))
            return {**outcome, "warnings": list(outcome["warnings"])}  # as it is read again

        fields = self._noted(directory, "trained", objective, found)
        distributed.on_main(lambda: self._writer.drop_state(directory))
        outcome: Outcome = typed.read(Outcome, fields, f"{self._writer.partial}: the notes on {directory}")
        return outcome

    def measure(self, outcome: Outcome, objective: str, directory: str, number: int) -> Trial:
        """Measure the held-out rows in the embedding of the head that was kept, and write them."""
        after = self._noted(
            directory,
            "measured",
            objective,
            lambda: self._after(objective, directory, self.config.seed + number),
            lambda: self._writer.has_measured(directory),
        )
        return Trial(
            seed=self.config.seed + number,
            epochs=outcome.epochs,
            best_epoch=outcome.best_epoch,
            after=after,
            seconds=outcome.seconds,
            directory=directory,
            validation=outcome.validation,
            split=self._split,
        )

    def over_rows(self, trials: Sequence[Trial], first: Sequence[Trial]) -> dict[str, tuple[float, float]]:
        """Compute 95% intervals over test rows of the differences in accuracy and macro-F1 to trials of another objective."""

        def predicted(of: Sequence[Trial]) -> np.ndarray[Any, Any]:
            names = self.parts.test.class_names
            return np.searchsorted(self._classes, [self._writer.read_predictions(trial.directory, names) for trial in of])

        return distributed.broadcast(
            lambda: bootstrap_of_rows(self._test, predicted(trials), predicted(first), seed=self.config.seed)
        )

    @property
    def _test(self) -> np.ndarray[Any, Any]:
        """Labels of the test rows as positions among the classes trained on: (N,)."""
        return np.searchsorted(self._classes, self.parts.test.labels)

    def _trained(self, objective: str, directory: str, seed: int) -> Outcome:
        training = Training(self.material, self.config, objective, seed)
        state = distributed.broadcast(lambda: self._writer.saved_state(directory))
        earlier = 0.0
        if state is not None and state["objective"] == objective:
            training.load_state_dict(state["training"])
            earlier = float(state["seconds"])
        started = saved = time.perf_counter()
        notes = replace(self._notes, objective=objective, seed=seed)

        def after_epoch() -> None:
            nonlocal saved
            if events is not None:
                events(training.log[-1])
            if distributed.rank() == 0 and time.perf_counter() - saved > _SECONDS_BETWEEN_STATES:
                seconds = earlier + time.perf_counter() - started
                state = {"objective": objective, "training": training.state_dict(), "seconds": seconds}
                self._writer.save_state(directory, state)
                saved = time.perf_counter()

        diverged, tensors = None, None
        with ExitStack() as stack:
            events = (
                self._events(stack, directory, training.epoch) if self.config.tensorboard and distributed.rank() == 0 else None
            )
            try:
                training.run(self._track, after_epoch)
                tensors = training.head.tensors()
            except DivergedError as error:
                diverged = str(error)
                if training.best_state is not None:
                    training.head.load_state_dict(training.best_state)
                    tensors = training.head.tensors()
        seconds = earlier + time.perf_counter() - started
        if tensors is not None:
            kept = replace(notes, epoch=training.best_epoch)
            path = distributed.broadcast(lambda: self._writer.write_head(directory, tensors, kept, self._file))
            distributed.on_main(lambda: self._writer.write_log(directory, training.log))
            if diverged and not self.temporary:
                diverged = f"{diverged}; the {self._what} of epoch {training.best_epoch} is kept: {path}"
        warnings = tuple(training.warnings)
        return Outcome(training.epoch, training.best_epoch, training.best_value, seconds, warnings, diverged)

    def _after(self, objective: str, directory: str, seed: int) -> dict[str, float | None]:
        test = self.parts.test
        tensors = distributed.broadcast(lambda: self._writer.read_head(directory, self._file))
        head = self.material.build(self.config, seed)
        head.load_tensors(tensors)
        head.to(self._device).eval()
        held_out = test.features if self.material.held_out is None else self.material.held_out
        embedding, predicted, _ = apply(head, held_out, torch.from_numpy(self._test), self._track, "measuring")
        known, *_ = apply(head, self._searched_rows, torch.from_numpy(self._known_codes), self._track, "neighbors")
        found = {
            **measured(replace(test, features=embedding), self.config.metrics, self._primary, self._device, self._memory),
            "knn_accuracy": knn_accuracy(known, self._known_codes, embedding, self._test),
            "macro_f1": macro_f1(self._test, predicted.numpy()),
            "accuracy": float((predicted.numpy() == self._test).mean()),
        }
        made = replace(self._provenance, finetune=replace(self._notes, objective=objective, seed=seed).origin())
        distributed.on_main(lambda: self._writer.write_after(directory, test, embedding, made))
        codes = self._classes[predicted.numpy()].tolist()
        distributed.on_main(lambda: self._writer.write_predictions(directory, test, codes))
        return found

    def _noted(
        self,
        directory: str,
        what: str,
        objective: str,
        compute: Callable[[], dict[str, Any]],
        there: Callable[[], bool] = lambda: True,
    ) -> dict[str, Any]:
        """Take what an interrupted run had found of this objective, if what it wrote is still there; or find and note it."""
        earlier = distributed.broadcast(lambda: self._writer.noted(directory, what))
        if earlier is not None and earlier["objective"] == objective and distributed.broadcast(there):
            return dict(earlier["found"])
        found = compute()
        distributed.on_main(lambda: self._writer.note(directory, what, {"objective": objective, "found": found}))
        return found

    @property
    def _known(self) -> Chosen:
        """The training rows that neighbors are searched among, (M, D)."""
        return Chosen(self.material.features, torch.from_numpy(self._searched).to(self._device))

    @property
    def _searched_rows(self) -> Chosen | InputBank:
        """The same rows as what is trained takes them."""
        inputs = self.material.inputs
        return self._known if inputs is None else InputBank(inputs.prepared, inputs.positions[torch.from_numpy(self._searched)])

    @property
    def _what(self) -> str:
        return "head" if self.material.subject is None else "network"

    @property
    def _file(self) -> str:
        return HEAD if self.material.subject is None else MODEL

    def _events(self, stack: ExitStack, directory: str, epoch: int) -> Callable[[Mapping[str, float]], None]:
        """Open TensorBoard's event file of a trial; what is given is written at once."""
        from torch.utils.tensorboard import SummaryWriter

        file = stack.enter_context(SummaryWriter(str(self._writer.partial / directory), purge_step=epoch + 1))

        def add(line: Mapping[str, float]) -> None:
            for name, value in line.items():
                if name != "epoch":
                    file.add_scalar(name, value, int(line["epoch"]))
            file.flush()

        return add
