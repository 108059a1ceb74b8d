"""Find layers by name or pattern, and take what goes through them during a forward pass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from embedscope.errors import InputError, UsageError, nearest, unknown
from embedscope.models.pooling import POOLINGS, Pooling, plan

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from types import TracebackType

    from embedscope.models.encoder import Encoder

_INPUT = ".input"
OUTPUT = "output."

# Modules that keep the axes of what they get as (B, C, positions ...), and have no width of their own to say it by.
_CHANNELS_FIRST = (
    nn.MaxPool1d,
    nn.AvgPool1d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)


@dataclass(frozen=True)
class Layer:
    """A place in a model: what a module gives, or what goes into it.

    Attributes:
        name: in the store, as it was asked for.
        module: the module's name; "" for the whole model.
        side: "output" or "input".
        key: of a whole model with named outputs, which one; None for the first tensor.
        pooling: wanted, "auto" by default.
        matched: by a pattern, rather than named.
    """

    name: str
    module: str
    side: str = "output"
    key: str | None = None
    pooling: str = "auto"
    matched: bool = False


def find(encoder: Encoder, names: Sequence[str], *, pooling: str = "auto") -> list[Layer]:
    """Find the layers that names mean: NAME, NAME.input, input, output, output.KEY, each with `:POOLING` or without.

    In a pattern `*` and `?` stand for what has no dot, `**` for anything; it means all modules that it matches. What is a name
    as it stands is taken as one, whatever colons, stars and brackets it has; an output that is known before the model runs may
    be named without `output.`. UsageError for a name that the model does not have (the nearest is named), or a layer inside of
    a model whose outputs alone can be reached.
    """
    modules = {name: None for name, _ in encoder.module.named_modules() if name}
    found: list[Layer] = []
    for asked in names:
        name, suffix, wanted = asked, "", pooling
        if not _is_name(encoder, asked, modules) and ":" in asked:
            name, _, wanted = asked.rpartition(":")
            suffix = f":{wanted}"
            if wanted not in POOLINGS and encoder.outputs:
                raise UsageError(unknown("output", asked.removeprefix(OUTPUT), encoder.outputs))
            if wanted not in POOLINGS:
                raise UsageError(f"layer {name}: {unknown('pooling', wanted, POOLINGS)}")
        if re.search(r"[*?]", name) and not _is_name(encoder, name, modules):
            stem, side = (name.removesuffix(_INPUT), "input") if name.endswith(_INPUT) else (name, "output")
            parts = [part for part in re.split(r"(\*\*+|\*|\?|.)", stem, flags=re.DOTALL) if part]
            matching = [module for module in modules if _matches(parts, module)]
            if not matching:
                raise UsageError(unknown("layer that matches", name, _near(name, list(modules))))
            tail = _INPUT if side == "input" else ""
            found += [Layer(module + tail + suffix, module, side, None, wanted, matched=True) for module in matching]
        else:
            found.append(_one(encoder, name, name + suffix, wanted, modules))
    if encoder.outputs_only:
        inner = [layer.name for layer in found if layer.module]
        if inner:
            raise UsageError(f"layer {inner[0]} cannot be reached: {encoder.outputs_only}")
    # In HDF5 a slash would make a group of what stands before it.
    return list({layer.name: replace(layer, name=layer.name.replace("/", ".")) for layer in found}.values())


def _is_name(encoder: Encoder, name: str, modules: Collection[str]) -> bool:
    return name in modules or name.removesuffix(_INPUT) in modules or name.removeprefix(OUTPUT) in encoder.outputs


def _one(encoder: Encoder, name: str, stored: str, pooling: str, modules: Collection[str]) -> Layer:
    if name in modules:
        return Layer(stored, name, "output", None, pooling)
    if name in ("input", "output"):
        return Layer(stored, "", name, None, pooling)
    if (key := name.removeprefix(OUTPUT)) in encoder.outputs:
        return Layer(stored, "", "output", key if len(encoder.outputs) > 1 else None, pooling)
    if name.startswith(OUTPUT) and encoder.outputs:
        raise UsageError(unknown("output", key, encoder.outputs))
    if name.startswith(OUTPUT):
        return Layer(stored, "", "output", key, pooling)
    if name.endswith(_INPUT) and name.removesuffix(_INPUT) in modules:
        return Layer(stored, name.removesuffix(_INPUT), "input", None, pooling)
    if encoder.outputs_only:
        raise UsageError(f"layer {name} cannot be reached: {encoder.outputs_only}")
    near = [*_near(name, list(modules)), "input", "output"]
    raise UsageError(unknown("layer", name, near) + "; `list_layers()` prints all")


def _matches(parts: Sequence[str], name: str) -> bool:
    """Whether a pattern matches a name, in a time that is linear in both whatever stars it has.

    Args:
        parts: of the pattern: single characters, "?", "*" and "**".
        name: of a module.
    """
    places = _reached({0}, parts)  # in the pattern, to which the name so far may have come
    for character in name:
        following = set()
        for place in places:
            part = parts[place] if place < len(parts) else ""
            if part.startswith("**") or (part == "*" and character != "."):
                following.add(place)
            elif part == character or (part == "?" and character != "."):
                following.add(place + 1)
        places = _reached(following, parts)
        if not places:
            return False
    return len(parts) in places


def _reached(places: set[int], parts: Sequence[str]) -> set[int]:
    """Add the places that come after stars, which may stand for nothing."""
    reached = set()
    for place in places:
        reached.add(place)
        while place < len(parts) and parts[place].startswith("*"):
            place += 1
            reached.add(place)
    return reached


def _near(name: str, modules: Sequence[str]) -> Sequence[str]:
    """Of many names those that resemble one: big models have thousands of modules."""
    return modules if len(modules) <= 20 else nearest(name, modules, count=10) or modules[-10:]


@dataclass
class Taps:
    """Hooks on layers; a context manager around forward passes.

    After `probe` has planned the poolings, every forward pass leaves what went through the layers, pooled at once, in
    `captured`: layer name -> features (B, D) and magnitudes (B, C) or None.
    """

    encoder: Encoder
    layers: Sequence[Layer]
    poolings: dict[str, Pooling] = field(default_factory=dict)
    captured: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    mask: Tensor | None = None
    times: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Taps:
        self._layout = _Layout(self.encoder)
        modules = dict(self.encoder.module.named_modules())
        self._handles: list[Any] = []
        for layer in self.layers:
            if not layer.module:
                continue
            child = modules[layer.module]
            if layer.side == "input":
                self._handles.append(child.register_forward_pre_hook(self._before(layer), with_kwargs=True))
            else:
                self._handles.append(child.register_forward_hook(self._after(layer)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, layer: Layer) -> Any:
        def hook(child: nn.Module, args: Any, kwargs: Any) -> None:
            self._keep(layer, args[0] if args else next(iter(kwargs.values()), None), child)

        return hook

    def _after(self, layer: Layer) -> Any:
        def hook(child: nn.Module, args: Any, output: Any) -> None:
            self._keep(layer, output, child)

        return hook

    def start(self, batch: Any) -> None:
        """Forget the last forward pass, and take the input of the whole model and the mask of its tokens."""
        self.captured.clear()
        self.times.clear()
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        self.mask = mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None
        for layer in self.layers:
            if not layer.module and layer.side == "input":
                self._keep(layer, batch, None)

    def end(self, output: Any) -> None:
        """Take the output of the whole model."""
        for layer in self.layers:
            if not layer.module and layer.side == "output":
                self._keep(layer, output, None)

    def probe(self) -> _Layout:
        """Give a context for the first forward pass, which follows the layout of the axes and plans the poolings."""
        self.poolings.clear()
        return self._layout

    def _keep(self, layer: Layer, value: Any, child: nn.Module | None) -> None:
        tensor = first_tensor(value, layer.key)
        if tensor is None:
            what = f"its outputs are {', '.join(value)}" if layer.key and isinstance(value, Mapping) else "expected a tensor"
            raise InputError(f"layer {layer.name} gives {type(value).__name__}, with no row per sample: {what}")
        if tensor.ndim == 0:
            raise InputError(f"layer {layer.name} gives a single number, expected a tensor with one row per sample")
        if tensor.is_complex():
            raise InputError(f"layer {layer.name} gives complex numbers, which no metric supports; choose a later layer")
        self.times[layer.name] = self.times.get(layer.name, 0) + 1
        if layer.name not in self.poolings:
            last = self._layout.channels_last(tuple(tensor.shape[1:])) and not isinstance(child, _CHANNELS_FIRST)
            if tensor.ndim == 3 and layer.pooling in ("gap", "mean", "cls"):  # who names one says what the axes are
                last = layer.pooling != "gap"
            self.poolings[layer.name] = plan(layer.name, layer.pooling, tensor.shape[1:], channels_last=last)
        pooling = self.poolings[layer.name]
        if tensor.ndim - 1 != len(pooling.shape):
            raise InputError(f"layer {layer.name} gives {tuple(tensor.shape[1:])} per sample, but gave {pooling.shape} before")
        self.captured[layer.name] = pooling(tensor, self.mask)


class _Layout:
    """Follows, through one forward pass, on which axis the channels lie: the last module with a width of its own tells it."""

    def __init__(self, encoder: Encoder) -> None:
        self._leaves = [child for _, child in inner_modules(encoder) if not any(True for _ in child.children())]
        self._width = 0
        self._last = True

    def __enter__(self) -> None:
        self._handles = [child.register_forward_hook(self._follow, prepend=True) for child in self._leaves]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def _follow(self, child: nn.Module, args: Any, output: Any) -> None:
        for name, last in (
            ("out_channels", False),
            ("num_features", False),
            ("num_channels", False),
            ("out_features", True),
            ("embedding_dim", True),
            ("embed_dim", True),
        ):
            width = getattr(child, name, None)
            if isinstance(width, int):
                self._width, self._last = width, last
                return
        if isinstance(child, nn.RNNBase):
            width = child.proj_size or child.hidden_size
            self._width, self._last = width * (1 + child.bidirectional), True
            return
        normalized = getattr(child, "normalized_shape", None)
        if normalized:
            self._width, self._last = int(tuple(normalized)[-1]), not type(child).__name__.endswith("2d")

    def channels_last(self, shape: tuple[int, ...]) -> bool:
        """Whether channels are the last axis of one sample's activations: (T, C) or (H, W, C), not (C, L) or (C, H, W)."""
        if len(shape) < 2:
            return False
        fits_first, fits_last = shape[0] == self._width, shape[-1] == self._width
        if fits_first != fits_last:
            return fits_last
        if len(shape) == 3 and (shape[0] == shape[1]) != (shape[1] == shape[2]):
            return shape[0] == shape[1]  # of square images the two equal axes are positions
        return self._last if len(shape) == 2 else False


def first_tensor(value: Any, key: str | None = None) -> Tensor | None:
    """Take the tensor out of what a module gives: itself, the named one, or the first in a tuple, list or mapping; or None."""
    if isinstance(value, Tensor):
        return value if key is None else None
    if isinstance(value, Mapping):
        if key is not None:
            return value[key] if key in value and isinstance(value[key], Tensor) else None
        value = list(value.values())
    if key is not None or not isinstance(value, tuple | list):
        return None
    return next((found for entry in value if (found := first_tensor(entry)) is not None), None)


def inner_modules(encoder: Encoder) -> list[tuple[str, nn.Module]]:
    """List the modules inside of a model with their names; none where hooks cannot be put on them."""
    return [] if encoder.outputs_only else [(name, child) for name, child in encoder.module.named_modules() if name]
