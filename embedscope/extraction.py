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
from embedscope.errors import EmbedscopeError, InputError, UsageError, unknown
from embedscope.records import Dataset, Encoder, Extraction, Track, untracked
from embedscope.store import StoreWriter
from embedscope.store.files import check_output

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_INPUT = ".input"

# Modules whose activations are (B, C, length), where other modules' three axes are (B, tokens, C).
_CHANNELS_FIRST = (
    nn.Conv1d,
    nn.ConvTranspose1d,
    nn.BatchNorm1d,
    nn.InstanceNorm1d,
    nn.MaxPool1d,
    nn.AvgPool1d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d,
)


@dataclass(frozen=True)
class Pooled:
    """Activations of one layer, one row a sample.

    Attributes:
        features: (B, D) float32.
        magnitudes: (B, D) mean of |activation| over positions, or None where there are no positions.
        pooling: "gap" (maps), "mean" (tokens) or "none".
        shape: of the activations of one sample, before pooling.
    """

    features: Tensor
    magnitudes: Tensor | None
    pooling: str
    shape: tuple[int, ...]


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
    beside it, which Gini and KL read. Three axes are tokens unless the layer is a one-dimensional convolution, normalisation or
    pooling. Activations are pooled as the layer gives them, before anything changes them in place.

    Args:
        encoder: from `models.open_model`.
        dataset: from `data.open_dataset`.
        output: the store; nothing bears that name until it is complete.
        layers: names of modules, or `NAME.input` for what goes into one; "input" and "output" are those of the whole model. By
            default the input of the last Linear that runs, the embedding of a classifier.
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
    if output.suffix.lower() in (".npz", ".npy"):
        raise UsageError(f"output {output} would be read as NumPy arrays; a store is HDF5: call it {output.with_suffix('.h5')}")
    check_output(output, overwrite=overwrite)
    if batch_size < 1:
        raise UsageError(f"the batch size has to be at least 1, got {batch_size}")
    torch.manual_seed(seed)
    where = devices.choose(device)
    module = encoder.module.to(where).eval()
    count = len(dataset.inputs)
    batches = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    with torch.inference_mode():
        chosen = list(dict.fromkeys(layers)) or [_embedding_layer(encoder, dataset, where)]
        with _tapped(module, chosen) as captured:
            _forward(encoder, dataset, range(1), where)
            for layer in chosen:
                if layer not in captured:
                    raise InputError(f"layer {layer} did not run in the forward pass of {encoder.spec}")
            widths = {layer: captured[layer].features.shape[1] for layer in chosen}
            not_finite = 0
            with StoreWriter(
                output,
                labels=dataset.labels,
                class_names=dataset.class_names,
                ids=dataset.ids,
                split=dataset.split,
                provenance=_provenance(encoder, dataset, captured, where, seed, command),
                overwrite=overwrite,
            ) as store:
                for batch in track(batches, "extracting", len(batches)):
                    captured.clear()
                    _forward(encoder, dataset, batch, where)
                    wrong = torch.zeros(len(batch), dtype=torch.bool)
                    for layer, pooled in captured.items():
                        if len(pooled.features) != len(batch):
                            raise InputError(f"layer {layer} gives {len(pooled.features)} rows for {len(batch)} samples")
                        wrong |= ~torch.isfinite(pooled.features).all(dim=1).cpu()
                    not_finite += int(wrong.sum())
                    store.add(
                        {layer: captured[layer].features.cpu().numpy() for layer in chosen},
                        {
                            layer: magnitudes.cpu().numpy()
                            for layer in chosen
                            if (magnitudes := captured[layer].magnitudes) is not None
                        },
                    )
    return Extraction(output, count, widths, time.perf_counter() - started, not_finite)


def pool(activations: Tensor, *, channels_first: bool) -> Pooled:
    """Reduce activations to one row a sample: (B, D), (B, T, C), (B, C, L) or (B, C, ...) -> (B, D) float32.

    `channels_first` tells (B, C, L) from (B, T, C); it is not read for other shapes.
    """
    values = activations.float()
    shape = tuple(values.shape[1:])
    if values.ndim <= 2:
        return Pooled(values.reshape(len(values), -1).clone(), None, "none", shape)
    maps = values.ndim > 3 or channels_first
    positions = tuple(range(2, values.ndim)) if maps else (1,)
    return Pooled(values.mean(positions), values.abs().mean(positions), "gap" if maps else "mean", shape)


@contextmanager
def _tapped(module: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Pooled]]:
    """Hook the layers; the dictionary holds what they gave (or were given) in the last forward pass, pooled at once."""
    captured: dict[str, Pooled] = {}
    handles = []

    def keep(layer: str, child: nn.Module, value: Any) -> None:
        tensor = value[0] if isinstance(value, tuple | list) and value else value
        if not isinstance(tensor, Tensor) or tensor.ndim == 0:
            raise InputError(f"layer {layer} gives {type(value).__name__}, expected a tensor with one row a sample")
        captured[layer] = pool(tensor, channels_first=isinstance(child, _CHANNELS_FIRST))

    for layer in layers:
        child, is_input = _find(module, layer)
        if is_input:

            def before(child: nn.Module, args: Any, kwargs: Any, layer: str = layer) -> None:
                keep(layer, child, args[0] if args else next(iter(kwargs.values()), None))

            handles.append(child.register_forward_pre_hook(before, with_kwargs=True))
        else:

            def after(child: nn.Module, args: Any, output: Any, layer: str = layer) -> None:
                keep(layer, child, output)

            handles.append(child.register_forward_hook(after))
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def _find(module: nn.Module, layer: str) -> tuple[nn.Module, bool]:
    """Find the module of a layer, and whether what goes into it is meant; UsageError names the nearest."""
    modules: dict[str, nn.Module] = {name: child for name, child in module.named_modules() if name}
    if layer in modules:
        return modules[layer], False
    if layer in ("input", "output"):
        return module, layer == "input"
    if layer.endswith(_INPUT) and layer.removesuffix(_INPUT) in modules:
        return modules[layer.removesuffix(_INPUT)], True
    raise UsageError(unknown("layer", layer, [*modules, "input", "output"]))


def _embedding_layer(encoder: Encoder, dataset: Dataset, device: torch.device) -> str:
    """Name the input of the last Linear that runs on a sample."""
    ran: list[str] = []
    handles = [
        child.register_forward_pre_hook(lambda child, args, name=name: ran.append(name))
        for name, child in encoder.module.named_modules()
        if isinstance(child, nn.Linear)
    ]
    try:
        _forward(encoder, dataset, range(1), device)
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        names = ", ".join(name for name, _ in encoder.module.named_modules() if name)
        raise UsageError(
            f"the model has no Linear whose input could be the embedding; name a layer with --layer: {names or 'output'}"
        )
    return ran[-1] + _INPUT if ran[-1] else "input"


def _forward(encoder: Encoder, dataset: Dataset, rows: range, device: torch.device) -> None:
    items = [encoder.transform(dataset.inputs[row]) for row in rows]
    for row, item in zip(rows, items, strict=True):
        if item.shape != items[0].shape:
            raise InputError(
                f"inputs differ in shape: {dataset.ids[rows[0]]} is {tuple(items[0].shape)}, "
                f"{dataset.ids[row]} is {tuple(item.shape)}; bring them to one size first"
            )
    batch = torch.stack(items).to(device)
    try:
        encoder.module(batch)
    except EmbedscopeError:
        raise
    except Exception as error:  # the code is a stranger's: what it says of its input is the best explanation there is
        reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        raise InputError(f"{encoder.spec} does not take inputs of shape {tuple(batch.shape)}: {reason}") from error


def _provenance(
    encoder: Encoder, dataset: Dataset, captured: dict[str, Pooled], device: torch.device, seed: int, command: str
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
            layer: {
                "type": type(_find(encoder.module, layer)[0]).__name__,
                "pooling": pooled.pooling,
                "shape": list(pooled.shape),
            }
            for layer, pooled in captured.items()
        },
        "transform": encoder.transform_text,
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
