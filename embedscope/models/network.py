"""A whole network in training: inputs go through its modules to the embedding layer, and on to a classifier of K classes."""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from embedscope.errors import InputError, UsageError
from embedscope.models.inputs import call, mapped, shapes
from embedscope.models.layers import Layer, Taps, find
from embedscope.models.listing import Listing
from embedscope.models.normalization import share_statistics
from embedscope.models.pooling import Pooling

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from embedscope.models.encoder import Encoder

# In the file of a trained network, what stands before the names of a classifier that the model itself does not have.
_ADDED = "embedscope_classifier."

_LOGITS, _CLASSIFIED, _READ = " logits", " classified", " read by the losses"


@dataclass(frozen=True)
class Plan:
    """Where a network is cut for training.

    Attributes:
        layer: whose pooled output is the embedding.
        pooling: of that layer.
        width: E of the embedding.
        classifier: name of the Linear that gives the logits and is resized if it has another number of classes; None if the
            network has none, and one is put on the embedding.
        loss_layer: that some losses read instead of the embedding, with its pooling; None if all read the embedding.
    """

    layer: Layer
    pooling: Pooling
    width: int
    classifier: str | None
    loss_layer: tuple[Layer, Pooling] | None = None

    @property
    def loss_widths(self) -> tuple[int, int] | None:
        """Widths of what the losses read of the loss layer: F of the pooled rows, and C of the magnitudes."""
        if self.loss_layer is None:
            return None
        pooling = self.loss_layer[1]
        width = math.prod(pooling.shape) if pooling.name in ("flatten", "none") else pooling.channels
        return width, pooling.channels if pooling.magnitudes else width


def check_trainable(encoder: Encoder) -> None:
    """Raise InputError for a model whose weights cannot be trained here."""
    reason = encoder.outputs_only
    if type(encoder.module).__name__ in ("UnflattenedModule", "GraphModule"):
        reason = "it is a traced program, which always runs in evaluation mode"
    if encoder.batch_size is not None:
        reason = f"it only takes batches of {encoder.batch_size}"
    if not any(True for _ in encoder.module.parameters()):
        reason = reason or "it has no parameters"
    if reason:
        raise InputError(f"{encoder.spec} cannot be trained: {reason}; give the model as Python code, timm: or torchvision:")


def plan(encoder: Encoder, sample: Any, layer: str | None = None, loss_layer: str | None = None) -> Plan:
    """Run a sample (1, ...) through the network in evaluation mode, and find the embedding and the classifier.

    Args:
        encoder: with its module on the CPU.
        sample: prepared input.
        layer: NAME, NAME.input or output, each with `:POOLING` or without; by default the embedding, as in extract.
        loss_layer: that some losses read instead, named likewise; it comes before the classifier.

    Raises:
        UsageError: a layer that the model does not have, a pattern, or no layer named where there is no default.
        InputError: the model does not take the sample, or the layer did not run.
    """
    with torch.no_grad(), _evaluating(encoder.module):
        sample = _fitted(encoder.module, sample)
        with Listing(encoder) as listing:
            _run(encoder, encoder.module, sample)  # also makes what is lazy
        default = encoder.embedding or (f"{listing.linears[-1]}.input" if listing.linears else None)
        if layer is None and default is None:
            names = [name for name, _ in encoder.module.named_modules() if name]
            raise UsageError(
                f"{encoder.spec} has no Linear whose input could be the embedding; name a layer with `layer=`: "
                f"{', '.join([*names[-10:], 'output'])}"
            )
        chosen = _named(encoder, layer or default or "output", "gives the embedding")
        read = None if loss_layer is None else _named(encoder, loss_layer, "is read by the losses")
        taps = Taps(encoder, [chosen, *([] if read is None else [replace(read, name=_READ)])])
        with taps, taps.probe():
            taps.start(sample)
            taps.end(_run(encoder, encoder.module, sample))
    for name, key in ((chosen.name, chosen.name), (read.name if read else "", _READ)):
        if name and key not in taps.captured:
            raise InputError(f"layer {name} did not run in the forward pass of {encoder.spec}")
    features, _ = taps.captured[chosen.name]
    classifier = _classifier(encoder, default, listing)
    after = chosen.side == "output" and chosen.module in ("", classifier)
    if read is not None and read.side == "output" and read.module in ("", classifier):
        raise UsageError(f"the losses read a layer before the classifier, but {read.name} is the classifier; name another")
    return Plan(
        chosen,
        taps.poolings[chosen.name],
        int(features.shape[1]),
        None if after else classifier,
        None if read is None else (replace(read, name=_READ), taps.poolings[_READ]),
    )


def _named(encoder: Encoder, name: str, role: str) -> Layer:
    """Find the one layer of a name; UsageError for a pattern."""
    found = find(encoder, [name])
    if len(found) != 1 or found[0].matched:
        raise UsageError(f"only one layer {role}, but '{name}' is a pattern; name one layer")
    return found[0]


class Network(nn.Module):
    """Inputs (B, ...) -> embedding (B, E) and logits (B, K), of a copy of a module that is trained whole or in part.

    What is frozen takes no gradient and stays in evaluation mode, so that the statistics of its BatchNorm stay as they are.

    Args:
        encoder: how the module is called.
        plan: where it is cut.
        num_classes: K.
        train: "all", "head" for the classifier alone, or "last:N" for it and the N last blocks before it.
        module: taken over and changed; by default a copy of the encoder's.

    Attributes:
        width: E.
    """

    def __init__(
        self, encoder: Encoder, plan: Plan, num_classes: int, train: str = "all", module: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.module = copy.deepcopy(encoder.module) if module is None else module
        self.width = plan.width
        self._encoder, self._plan = replace(encoder, module=self.module), plan
        held = next((each for each in self.module.parameters() if each.is_floating_point()), torch.empty(0))
        self.added: nn.Linear | None = None
        layers, poolings = [plan.layer], {plan.layer.name: plan.pooling}
        if plan.loss_layer is not None:
            layers, poolings = [*layers, plan.loss_layer[0]], {**poolings, _READ: plan.loss_layer[1]}
        if plan.classifier is None:
            self.added = nn.Linear(plan.width, num_classes).to(held)
        else:
            own = self._own()
            if own.out_features != num_classes:
                new = nn.Linear(own.in_features, num_classes, bias=own.bias is not None).to(held)
                parent, _, name = plan.classifier.rpartition(".")
                setattr(self.module.get_submodule(parent), name, new)
            layers += [Layer(_LOGITS, plan.classifier), Layer(_CLASSIFIED, plan.classifier, "input")]
            poolings |= {
                _LOGITS: Pooling("none", (num_classes,), ()),
                _CLASSIFIED: Pooling("none", (self._own().in_features,), ()),
            }
        self._taps = Taps(self._encoder, layers, poolings)
        self._taps.__enter__()  # until the copy of the module is gone
        self._frozen = self._freeze(train)
        share_statistics(self.module)

    @property
    def classify(self) -> nn.Linear:
        """The classifier."""
        return self._own() if self.added is None else self.added

    def train(self, mode: bool = True) -> Network:
        """Set training mode for what is trained, and evaluation mode for what is frozen."""
        super().train(mode)
        for each in self._frozen if mode else ():
            each.training = False
        return self

    def forward(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """(B, ...) -> (B, E), (B, K); float32, or float64 of a module in float64."""
        inputs = _fitted(self.module, inputs)
        self._taps.start(inputs)
        self._taps.end(_run(self._encoder, self.module, inputs))
        captured = self._taps.captured
        embedding, _ = captured[self._plan.layer.name]
        if self.added is not None:
            self._classified = embedding
            return embedding, self.added(embedding.to(self.added.weight.dtype))
        self._classified, _ = captured[_CLASSIFIED]
        logits, _ = captured[_LOGITS]
        return embedding, logits

    @property
    def loss_widths(self) -> tuple[int, int] | None:
        """F and C of `loss_rows`."""
        return self._plan.loss_widths

    @property
    def loss_rows(self) -> tuple[Tensor, Tensor] | None:
        """Pooled rows (B, F) and magnitudes (B, C) of the loss layer in the last batch, if there is one."""
        if self._plan.loss_layer is None:
            return None
        rows, magnitudes = self._taps.captured[_READ]
        return rows, rows if magnitudes is None else magnitudes

    def probe(self, embedding: Tensor) -> Tensor:
        """Logits (B, K) of the last batch, with a gradient for the classifier alone."""
        logits: Tensor = self.classify(self._classified.detach().to(self.classify.weight.dtype))
        return logits

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the trained parameters: those of the classifier, and those before it."""
        head = [each for each in self.classify.parameters() if each.requires_grad]
        known = {id(each) for each in head}
        return head, [each for each in self.parameters() if each.requires_grad and id(each) not in known]

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of parameters and buffers under the names that the model gives them."""
        return named_as_model(self.state_dict())

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill the network from what `tensors` gave."""
        own = self.state_dict()
        names = {(_ADDED + name.removeprefix("added.") if name.startswith("added.") else name[7:]): name for name in own}
        self.load_state_dict({name: tensors[source] for source, name in names.items() if source in tensors}, strict=False)

    def _own(self) -> nn.Linear:
        found = self.module.get_submodule(self._plan.classifier or "")
        assert isinstance(found, nn.Linear)
        return found

    def _freeze(self, train: str) -> list[nn.Module]:
        """Freeze all but what is trained; return the modules that stay in evaluation mode."""
        if train == "all":
            return []
        kept: list[nn.Module] = []
        if train != "head":
            count = int(train.removeprefix("last:"))
            blocks = [each for each in blocks_of(self.module) if each is not self.classify]
            if count > len(blocks):
                raise UsageError(f"'{train}': {self._encoder.spec} has {len(blocks)} blocks before its classifier")
            kept = blocks[-count:]
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        for each in (*kept, self.classify):
            for parameter in each.parameters():
                parameter.requires_grad_(True)
        trained = {id(inner) for each in kept for inner in each.modules()}
        return [each for each in self.module.modules() if id(each) not in trained]


def named_as_model(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Give the tensors of a Network's state the names that the model itself has; copies, so that none shares memory."""
    return {
        _ADDED + name.removeprefix("added.") if name.startswith("added.") else name.removeprefix("module."): tensor.clone()
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
    }


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """List the blocks of a network with parameters, in the order of the code.

    A Sequential, a ModuleList, and a module that holds a row of like blocks somewhere, are taken apart; all others are blocks.
    """
    return [block for child in module.children() for block in _parts(child)]


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    if not any(True for _ in module.parameters()):
        return
    if isinstance(module, nn.Sequential | nn.ModuleList) or any(map(_is_row, module.modules())):
        for child in module.children():
            yield from _parts(child)
    else:
        yield module


def _is_row(module: nn.Module) -> bool:
    """Whether a module is a row of at least two composite modules of one type, as the blocks of a transformer."""
    children = list(module.children())
    return (
        isinstance(module, nn.Sequential | nn.ModuleList)
        and len(children) > 1
        and len({type(child) for child in children}) == 1
        and all(any(True for _ in child.children()) for child in children)
    )


def _classifier(encoder: Encoder, default: str | None, listing: Listing) -> str | None:
    """Name the Linear whose input (B, D) is the default embedding, if any."""
    if default is None or not default.endswith(".input"):
        return None
    name = default.removesuffix(".input")
    found = dict(encoder.module.named_modules()).get(name)
    fits = name and isinstance(found, nn.Linear) and not is_lazy(found.weight) and len(listing.shapes.get(name, ())) == 1
    return name if fits else None


def _fitted(module: nn.Module, inputs: Any) -> Any:
    """Bring inputs to the device of the module's parameters, and floating ones to their precision."""
    held = next((each for each in module.parameters() if each.is_floating_point()), torch.empty(0))
    return mapped(lambda tensor: tensor.to(held if tensor.is_floating_point() else held.device), inputs)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Set a module to evaluation mode for a while."""
    before = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in before.items():
            each.training = mode


def _run(encoder: Encoder, module: nn.Module, inputs: Any) -> Any:
    try:
        return (encoder.call or call)(module, inputs)
    except (UsageError, InputError):
        raise
    except Exception as error:  # user code
        reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        raise InputError(f"{encoder.spec} does not take inputs of {shapes(inputs)}: {reason}") from error
