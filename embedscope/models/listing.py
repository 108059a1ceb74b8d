"""What `--list-layers` prints: every module of a model with the shape of its output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from embedscope.models.layers import OUTPUT, first_tensor, inner_modules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from embedscope.models.encoder import Encoder


def _parameters(module: nn.Module) -> int:
    return sum(0 if is_lazy(parameter) else parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class LayerInfo:
    """A line of `--list-layers`.

    Attributes:
        name: of the module; the whole model is "output".
        type: of the module.
        shape: of its output for one sample, or None where it did not run or gives no tensor.
        parameters: how many numbers it holds, its children's included.
    """

    name: str
    type: str
    shape: tuple[int, ...] | None
    parameters: int


class Listing:
    """Notes the output shape of every module through one forward pass; a context manager."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.bytes = 0
        self.ran: set[str] = set()
        self.linears: list[str] = []

    def __enter__(self) -> Listing:
        self._handles = [child.register_forward_hook(self._note(name)) for name, child in inner_modules(self._encoder)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, name: str) -> Any:
        def hook(child: nn.Module, args: Any, output: Any) -> None:
            tensor = first_tensor(output)
            self.ran.add(name)
            if tensor is not None:
                self.shapes[name] = tuple(tensor.shape[1:])
                self.bytes += tensor.numel() * tensor.element_size()
            if isinstance(child, nn.Linear):
                self.linears.append(name)

        return hook

    def lines(self, output: Any) -> Iterator[LayerInfo]:
        """Return one line per module, in the order of the code, and one for the whole model, whose output this is."""
        module = self._encoder.module
        for name, child in inner_modules(self._encoder):
            yield LayerInfo(name, type(child).__name__, self.shapes.get(name), _parameters(child))
        known = dict(zip(self._encoder.outputs, [output], strict=False))  # one that has a name, though it comes without
        for key, value in (output if isinstance(output, Mapping) else known).items():
            if isinstance(value, Tensor):
                yield LayerInfo(OUTPUT + str(key), type(module).__name__, tuple(value.shape[1:]), _parameters(module))
        whole = first_tensor(output)
        yield LayerInfo("output", type(module).__name__, None if whole is None else tuple(whole.shape[1:]), _parameters(module))
