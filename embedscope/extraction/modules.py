"""Take the features of any nn.Module over any loader of batches, into memory or into a store."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from embedscope.data.dataset import Dataset
from embedscope.errors import InputError, UsageError
from embedscope.extraction.borrowing import borrowed, unwrapped
from embedscope.extraction.outcome import Extraction
from embedscope.extraction.recording import recorded
from embedscope.extraction.running import Runner
from embedscope.models.encoder import Encoder
from embedscope.models.inputs import count_rows, cut
from embedscope.ops.blocks import row_slices
from embedscope.store import StoreWriter
from embedscope.store.files import check_output
from embedscope.store.in_memory import feature_set
from embedscope.store.locks import held
from embedscope.store.provenance import LayerOrigin, ModelOrigin, Provenance
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from embedscope.progress import Track
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

# What batches that are mappings call their labels and ids; everything else in them goes to the model.
LABELS = ("labels", "label", "targets", "target", "y")
IDS = ("ids", "id")


@dataclass(frozen=True)
class AsGiven:
    """The preparation of a module: none, for its loader has done it."""

    text: str = "as the loader gives the inputs"

    def __call__(self, items: Any, /) -> Any:
        """Return the items."""
        return items


@dataclass
class _Seen:
    """What a loader gave, batch after batch."""

    labels: list[Array] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    named: bool = False
    features: dict[str, list[Tensor]] = field(default_factory=dict)
    magnitudes: dict[str, list[Tensor]] = field(default_factory=dict)


def extract_module(
    module: nn.Module,
    loader: Iterable[Any],
    output: Path | None,
    *,
    layers: Sequence[str],
    pooling: str,
    device: str,
    amp: bool,
    dtype: str,
    limit: int | None,
    deterministic: bool,
    seed: int,
    overwrite: bool,
    command: str,
    track: Track,
    say: Callable[[str], None],
) -> list[FeatureSet] | Extraction:
    """Run a module over a loader once; see `extract` for the arguments, and for what is left as it was."""
    started = time.perf_counter()
    if output is not None:
        check_output(output, overwrite=overwrite)
    module = unwrapped(module)
    encoder = Encoder(module, AsGiven(), type(module).__name__)
    seen = _Seen()
    with borrowed(module) as where:
        runner = Runner(
            encoder, device=str(where) if device == "auto" else device, amp=amp, deterministic=deterministic, live=True, say=say
        )
        torch.manual_seed(seed)
        with runner:
            total = len(loader) if isinstance(loader, Sized) else 0
            for batch in track(loader, "extracting", total):
                inputs, labels, ids = parts(batch, module)
                rows = count_rows(inputs)
                if not rows:
                    continue
                if not seen.labels:
                    runner.plan(cut(inputs, 0, 1), layers, pooling=pooling, logits=False, allow_partial=False)
                taken = rows if limit is None else min(rows, limit - len(seen.ids))
                _keep(seen, runner(cut(inputs, 0, taken)), labels, ids, rows, taken)
                if len(seen.ids) == limit:
                    break
        if not seen.labels:
            raise InputError("the loader gave no batch with rows; an iterator can only be read once")
        found = _collected(seen, runner, encoder.spec, getattr(getattr(loader, "dataset", None), "classes", None))
        if dtype == "float16":
            found = [replace(each, features=each.features[:].half()) for each in found]
        if output is None:
            return found
        described = Dataset((), found[0].labels, found[0].class_names, seen.ids, None, type(loader).__name__, "")
        provenance = recorded(encoder, described, runner, np.dtype(dtype), None, limit, seed, command, None)
    _write(output, found, provenance, overwrite=overwrite)
    finite = torch.stack([torch.isfinite(each.features[:]).all(dim=1) for each in found]).all(dim=0)
    widths = {each.layer: each.features.shape[1] for each in found}
    return Extraction(output, len(seen.ids), widths, time.perf_counter() - started, not_finite=int((~finite).sum()))


def parts(batch: Any, module: nn.Module) -> tuple[Any, Any, Any]:
    """Part a batch into inputs, a Tensor or a mapping of Tensors by the names that forward takes, labels, and ids or None."""
    if isinstance(batch, Mapping):
        label = next((name for name in LABELS if name in batch), None)
        if label is None:
            raise UsageError(
                f"the batches have {', '.join(map(str, batch))} but no labels; name them one of {', '.join(LABELS)}"
            )
        mark = next((name for name in IDS if name in batch), None)
        rest = {name: value for name, value in batch.items() if name not in (label, mark)}
        return _arguments(rest, module), batch[label], None if mark is None else batch[mark]
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) in (2, 3):
        inputs, labels, ids = batch if len(batch) == 3 else (*batch, None)
        if isinstance(inputs, Mapping):
            inputs = _arguments(inputs, module)
        elif isinstance(inputs, Sequence):
            inputs = dict(zip(_names(module)[0], inputs, strict=False))
        return torch.as_tensor(inputs) if isinstance(inputs, np.ndarray) else inputs, labels, ids
    given = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, Sequence) else type(batch).__name__
    raise UsageError(
        f"a loader must yield (inputs, labels), (inputs, labels, ids) or a mapping with labels; it yielded {given}"
    )


def _arguments(values: Mapping[str, Any], module: nn.Module) -> Any:
    """Choose what forward takes by name; the only tensor, if it takes none of the names."""
    names, any_name = _names(module)
    chosen = {str(name): value for name, value in values.items() if any_name or name in names}
    tensors = [value for value in values.values() if isinstance(value, Tensor)]
    if not chosen and len(tensors) == 1:
        return tensors[0]
    if not chosen:
        raise UsageError(
            f"{type(module).__name__} takes {', '.join(names)}, but the batches have {', '.join(map(str, values))}"
        )
    return chosen


def _names(module: nn.Module) -> tuple[list[str], bool]:
    """Name what forward takes, and tell whether it takes any name."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    fixed = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    return fixed, any(each.kind is each.VAR_KEYWORD for each in parameters)


def _keep(seen: _Seen, found: Mapping[str, tuple[Tensor, Tensor | None]], labels: Any, ids: Any, rows: int, taken: int) -> None:
    labels = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    for what, values in (("labels", labels), ("ids", ids)):
        if values is not None and (not np.ndim(values) or len(values) != rows):
            raise InputError(f"a batch of the loader has {counted(rows, 'row')} and {what} of shape {np.shape(values)}")
    if seen.labels and seen.named != (ids is not None):
        raise InputError("some batches of the loader have ids and others do not")
    seen.named = ids is not None
    first = len(seen.ids)
    seen.ids += [str(first + row) for row in range(taken)] if ids is None else [_text(each) for each in list(ids)[:taken]]
    seen.labels.append(labels[:taken])
    for name, (features, magnitudes) in found.items():
        seen.features.setdefault(name, []).append(features.float())
        if magnitudes is not None:
            seen.magnitudes.setdefault(name, []).append(magnitudes)


def _text(identifier: Any) -> str:
    return str(identifier.item() if isinstance(identifier, Tensor) else identifier)


def _collected(seen: _Seen, runner: Runner, source: str, classes: Any) -> list[FeatureSet]:
    """Make one FeatureSet per layer; whole-number labels are named by the data set's `classes`, if it has them."""
    labels = np.concatenate(seen.labels)
    modules = dict(runner.encoder.module.named_modules())
    found = []
    for layer in runner.layers:
        made = feature_set(torch.cat(seen.features.pop(layer.name)), labels, name=layer.name, ids=seen.ids)
        pooling = runner.poolings[layer.name]
        origin = LayerOrigin(type(modules[layer.module]).__name__, pooling.name, tuple(pooling.shape))
        magnitudes = seen.magnitudes.pop(layer.name, None)
        found.append(
            replace(
                made,
                source=source,
                layer=layer.name,
                class_names=_class_names(made.class_names, labels, classes),
                magnitudes=None if magnitudes is None else torch.cat(magnitudes),
                provenance=Provenance(model=ModelOrigin(spec=source), layers={layer.name: origin}, transform=AsGiven.text),
            )
        )
    return found


def _class_names(found: tuple[str, ...], labels: Array, classes: Any) -> tuple[str, ...]:
    if labels.dtype.kind not in "iu" or not isinstance(classes, Sequence) or isinstance(classes, str):
        return found
    names = [str(each) for each in classes]
    if len(set(names)) < len(names) or labels.max() >= len(names):
        return found
    return tuple(names[int(each)] for each in found)


def _write(path: Path, found: Sequence[FeatureSet], provenance: Provenance, *, overwrite: bool) -> None:
    first = found[0]
    with (
        held(path),
        StoreWriter(
            path,
            labels=first.labels,
            class_names=first.class_names,
            ids=list(first.ids),
            split=None,
            provenance=provenance,
            overwrite=overwrite,
        ) as store,
    ):
        for block in row_slices(len(first.labels), 4 * sum(each.features.shape[1] for each in found)):
            store.add(
                {each.layer: each.features[block].numpy() for each in found},
                {each.layer: each.magnitudes[block].numpy() for each in found if each.magnitudes is not None},
            )
