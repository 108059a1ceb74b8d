"""Run a model over labelled data and write the latent features of its layers to a store."""

from __future__ import annotations

import datetime
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from embedscope import __version__, devices
from embedscope.errors import InputError, UsageError, unknown
from embedscope.models.transforms import TO_INPUT
from embedscope.records import Dataset, Encoder, Extraction, Track, untracked
from embedscope.store import StoreWriter
from embedscope.store.writer import check_output

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_INPUT = ".input"


@dataclass(frozen=True)
class Pooled:
    """Activations of one layer, one row a sample.

    Attributes:
        features: (B, D).
        magnitudes: (B, D) mean of |activation| over positions, or None where there are no positions.
        pooling: "gap" (maps), "mean" (tokens) or "none".
    """

    features: Tensor
    magnitudes: Tensor | None
    pooling: str


def extract(
    encoder: Encoder,
    dataset: Dataset,
    output: Path | str,
    *,
    layers: Sequence[str] = (),
    batch_size: int = 256,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    command: str = "",
    track: Track = untracked,
) -> Extraction:
    """Write the features of named layers for every row of the data, in the data's order.

    Maps (B, C, ...) become the mean over positions, tokens (B, T, C) the mean over tokens; both keep the mean of |activation|
    beside it, which Gini and KL read.

    Args:
        encoder: from `models.open_model`.
        dataset: from `data.open_dataset`.
        output: the store; nothing bears that name until it is complete.
        layers: names of modules, or `NAME.input` for what goes into one; by default the input of the last Linear.
        batch_size: rows in a forward pass.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        seed: of torch, for models that draw numbers.
        overwrite: replace an existing output.
        command: recorded, so that a reader can repeat the run.
        track: shows progress over batches.

    Raises:
        UsageError: a layer that the model does not have (the nearest is named), or a batch size below 1.
        InputError: the model does not take the data, a layer gives no tensor, or gives other than one row a sample.
        OutputError: the output exists, or cannot be written.
    """
    started = time.perf_counter()
    output = Path(output)
    check_output(output, overwrite=overwrite)
    if batch_size < 1:
        raise UsageError(f"the batch size has to be at least 1, got {batch_size}")
    torch.manual_seed(seed)
    where = devices.choose(device)
    module = encoder.module.to(where).eval()
    chosen = list(dict.fromkeys(layers)) or [default_layer(module)]
    batches = [
        range(start, min(start + batch_size, len(dataset.inputs))) for start in range(0, len(dataset.inputs), batch_size)
    ]
    with torch.inference_mode(), _tapped(module, chosen) as captured:
        first = _forward(encoder, dataset, range(1), chosen, captured, where)
        provenance = _provenance(encoder, dataset, first, module, where, seed, command)
        with StoreWriter(
            output,
            labels=dataset.labels,
            class_names=dataset.class_names,
            ids=dataset.ids,
            split=dataset.split,
            provenance=provenance,
            overwrite=overwrite,
        ) as store:
            for batch in track(batches, "extracting", len(batches)):
                pooled = {
                    name: pool(tensor) for name, tensor in _forward(encoder, dataset, batch, chosen, captured, where).items()
                }
                for name, rows in pooled.items():
                    if len(rows.features) != len(batch):
                        raise InputError(f"layer {name} gives {len(rows.features)} rows for {len(batch)} samples")
                store.add(
                    {name: rows.features.cpu().numpy() for name, rows in pooled.items()},
                    {name: rows.magnitudes.cpu().numpy() for name, rows in pooled.items() if rows.magnitudes is not None},
                )
    widths = {name: pool(tensor).features.shape[1] for name, tensor in first.items()}
    return Extraction(output, len(dataset.inputs), widths, time.perf_counter() - started)


def default_layer(module: nn.Module) -> str:
    """Name what is taken when no layer is asked for: the input of the last Linear, the embedding of a classifier."""
    linear: list[str] = [name for name, child in module.named_modules() if isinstance(child, nn.Linear) and name]
    if not linear:
        raise UsageError(
            f"the model has no Linear whose input could be the embedding; name a layer with --layer: {_names(module)}"
        )
    return linear[-1] + _INPUT


def pool(activations: Tensor) -> Pooled:
    """Reduce activations to one row a sample: (B, D), (B, T, C) tokens or (B, C, ...) maps -> (B, D) float32."""
    values = activations.float()
    if values.ndim <= 2:
        return Pooled(values.reshape(len(values), -1), None, "none")
    positions = (1,) if values.ndim == 3 else tuple(range(2, values.ndim))
    return Pooled(values.mean(positions), values.abs().mean(positions), "mean" if values.ndim == 3 else "gap")


@contextmanager
def _tapped(module: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Hook the layers; the dictionary holds what they gave (or were given) in the last forward pass."""
    captured: dict[str, Any] = {}
    handles = []
    for layer in layers:
        child = _find(module, layer)
        if _is_input(module, layer):
            handles.append(child.register_forward_pre_hook(lambda _, args, layer=layer: captured.update({layer: args[0]})))
        else:
            handles.append(child.register_forward_hook(lambda _, __, out, layer=layer: captured.update({layer: out})))
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def _is_input(module: nn.Module, layer: str) -> bool:
    return layer.endswith(_INPUT) and layer not in dict(module.named_modules())


def _find(module: nn.Module, layer: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(module.named_modules())
    name = layer.removesuffix(_INPUT) if _is_input(module, layer) else layer
    if not name or name not in modules:
        raise UsageError(unknown("layer", layer, [name for name in modules if name]))
    return modules[name]


def _names(module: nn.Module) -> str:
    return ", ".join(name for name, _ in module.named_modules() if name) or "it has no named layers"


def _forward(
    encoder: Encoder,
    dataset: Dataset,
    rows: range,
    layers: Sequence[str],
    captured: dict[str, Any],
    device: torch.device,
) -> dict[str, Tensor]:
    items = [encoder.transform(dataset.inputs[row]) for row in rows]
    for row, item in zip(rows, items, strict=True):
        if item.shape != items[0].shape:
            raise InputError(
                f"inputs differ in shape: {dataset.ids[rows[0]]} is {tuple(items[0].shape)}, "
                f"{dataset.ids[row]} is {tuple(item.shape)}; bring them to one size first"
            )
    batch = torch.stack(items).to(device)
    captured.clear()
    try:
        encoder.module(batch)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        # The model is a stranger's: what it says of its input is the best explanation there is.
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{encoder.spec} does not take inputs of shape {tuple(batch.shape)}: {reason}") from error
    found = {}
    for layer in layers:
        if layer not in captured:
            raise InputError(f"layer {layer} did not run in the forward pass of {encoder.spec}")
        value = captured[layer]
        tensor = value[0] if isinstance(value, tuple | list) and value else value
        if not isinstance(tensor, Tensor) or tensor.ndim == 0:
            raise InputError(f"layer {layer} gives {type(value).__name__}, expected a tensor with one row a sample")
        found[layer] = tensor
    return found


def _provenance(
    encoder: Encoder,
    dataset: Dataset,
    first: dict[str, Tensor],
    module: nn.Module,
    device: torch.device,
    seed: int,
    command: str,
) -> dict[str, Any]:
    return {
        "model": {
            "spec": encoder.spec,
            "checkpoint": encoder.checkpoint,
            "sha256": encoder.checkpoint_sha256,
            "matched": list(encoder.matched),
        },
        "data": {"spec": dataset.location, "fingerprint": dataset.fingerprint},
        "layers": {
            name: {
                "type": type(_find(module, name)).__name__,
                "pooling": pool(tensor).pooling,
                "shape": list(tensor.shape[1:]),
            }
            for name, tensor in first.items()
        },
        "transform": TO_INPUT,
        "run": {
            "device": str(device),
            "dtype": "float32",
            "torch": torch.__version__,
            "seed": seed,
            "command": command,
            "embedscope": __version__,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    }
