"""Run a model over labelled data and write the latent features of its layers to a store.

layers.py finds the layers and taps them, pooling.py makes a row of what goes through, loading.py reads the inputs, running.py
calls the model, schedule.py brings the rows into the store in their order, stopping.py ends a run where nothing is lost.
"""

from __future__ import annotations

import datetime
import hashlib
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope import distributed
from embedscope._version import __version__
from embedscope.errors import InputError, InterruptedRunError, OutputError, UsageError, check_choice
from embedscope.extraction.listing import LayerInfo
from embedscope.extraction.loading import DEAD_WORKER, Batches, choose_workers, first_readable, is_dead_worker, limited
from embedscope.extraction.pooling import POOLINGS
from embedscope.extraction.running import LOGITS, Runner
from embedscope.extraction.schedule import Schedule
from embedscope.extraction.stopping import stop_requested
from embedscope.progress import Track, silent, untracked
from embedscope.store import StoreWriter, Unfinished, read_unfinished, resuming, stored_provenance
from embedscope.store.files import check_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from embedscope.data.dataset import Dataset
    from embedscope.models.encoder import Encoder
    from embedscope.models.head import TrainedHead

__all__ = ["Extraction", "LayerInfo", "check_options", "extract", "list_layers"]

_BATCH_SIZE = 256
_DTYPES = ("float32", "float16")
_ON_ERROR = ("stop", "skip")

# A signal lets the block end that is being computed; schedulers of clusters kill after 30 s.
_SECONDS_IN_A_BLOCK = 20.0


@dataclass(frozen=True)
class Extraction:
    """What an extraction wrote.

    Attributes:
        path: of the store.
        rows: how many.
        layers: layer -> width.
        seconds: it took.
        not_finite: rows with NaN or infinite values in some layer, of those that this run computed.
        skipped: id -> why, of the inputs that could not be read and became no row.
        resumed: rows that an earlier run had written.
        batch_size: rows in a forward pass.
    """

    path: Path
    rows: int
    layers: Mapping[str, int]
    seconds: float
    not_finite: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    resumed: int = 0
    batch_size: int | None = None


def extract(
    encoder: Encoder,
    dataset: Dataset,
    output: Path | str,
    *,
    layers: Sequence[str] = (),
    pooling: str = "auto",
    logits: bool = False,
    head: TrainedHead | None = None,
    batch_size: int | None = _BATCH_SIZE,
    device: str = "auto",
    amp: bool = False,
    dtype: str = "float32",
    workers: int | None = None,
    limit: int | None = None,
    on_error: str = "stop",
    allow_partial: bool = False,
    deterministic: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "",
    track: Track = untracked,
    say: Callable[[str], None] = silent,
) -> Extraction:
    """Write the features of named layers for every row of the data, in the data's order.

    Maps (B, C, ...) become the mean over positions, tokens (B, T, C) the mean over tokens (padding left out); both keep the
    mean of |activation| beside it, which Gini and KL read. Which axis holds the channels is told by the widths of the modules
    that run. Activations are pooled as the layer gives them, before anything changes them in place.

    Rows are committed to `output.partial` by blocks of about 2 MiB. Killed at any moment, it goes on after the last block with
    `resume`, and the finished store equals that of an uninterrupted run. SIGINT and SIGTERM finish the block.

    Under torchrun the batches are shared by the processes; the first one writes the same file as one process would.

    Args:
        encoder: from `models.open_model`.
        dataset: from `data.open_dataset`.
        output: the store; nothing bears that name until it is complete.
        layers: names of modules, `NAME.input` for what goes into one, "input", "output" or "output.KEY" of the whole model, or
            patterns (`blocks.*.mlp`), each with `:POOLING` behind it or without. By default the model's embedding: what its
            source says, or the input of the last Linear that runs.
        pooling: of layers that name none: "auto", "gap", "mean", "cls", "flatten" or "none".
        logits: keep the model's output too, (B, K).
        head: that finetune trained, from `models.head.open_head`: the embedding behind it is written in the place of the layer,
            by default the one that it was trained on, pooled as it was.
        batch_size: rows in a forward pass; None takes what fits into the memory of the device. Halved where memory runs out.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        amp: run in bfloat16 where the device has it, else float16, where torch.autocast does; pooling is in float32.
        dtype: of the features in the store, "float32" or "float16" (rounded to 11 bits; beyond 65,504 it is infinite).
        workers: processes that read inputs; None takes as many as help. The order of rows never depends on it.
        limit: at most so many rows, spread evenly over the data.
        on_error: "stop" at an input that cannot be read, or "skip" it: it becomes no row, and is listed in the store.
        allow_partial: measure layers that depend on weights which the checkpoint does not have.
        deterministic: use torch's deterministic algorithms alone; an operation that has none raises.
        seed: of torch, for models that draw numbers.
        overwrite: replace an existing output, or start an unfinished one again.
        resume: go on with an unfinished output; a finished one is left as it is.
        command: recorded, so that a reader can repeat the run.
        track: shows progress over rows.
        say: is told what a user should know while it runs.

    Raises:
        UsageError: a layer that the model does not have (the nearest is named), or an option out of its range.
        InputError: the model does not take the data, a layer gives no tensor, or gives other than one row a sample; an input
            cannot be read; the layers depend on weights that were not loaded.
        OutputError: the output exists, cannot be written, would not fit on the disk, or was begun with other settings.
        InterruptedRunError: a signal stopped it; the message says how to go on.
    """
    started = time.perf_counter()
    output = Path(output)
    check_options(output, batch_size, dtype, workers, limit, on_error, pooling)
    if distributed.rank():  # of several processes, one speaks
        track, say = untracked, silent
    held, unfinished = distributed.broadcast(lambda: _written_before(output, overwrite=overwrite, resume=resume))
    if limit is not None:
        dataset = limited(dataset, limit)
    if not len(dataset.inputs):
        raise InputError(f"{dataset.location} has no inputs")
    workers = choose_workers(dataset, workers)
    batches = Batches(dataset, encoder.prepare, skip=on_error == "skip")
    with ExitStack() as stack:
        runner = Runner(encoder, device=device, amp=amp, deterministic=deterministic, head=head, say=say)
        stack.enter_context(torch.random.fork_rng([runner.device] if runner.device.type == "cuda" else []))
        torch.manual_seed(seed)
        stack.enter_context(runner)
        sample = first_readable(batches)
        if head is not None and head.layer:
            layers = layers or [head.layer]
            if pooling == "auto" and list(layers) == [head.layer]:
                pooling = head.pooling or pooling
        runner.plan(sample, layers, pooling=pooling, logits=logits, allow_partial=allow_partial)
        if head is not None:
            taken = runner.layers[0].module or "the whole model"
            say(f"{taken} goes through the head trained with {head.objective}, {head.dim} to {head.width}")
            weights = encoder.weights and encoder.weights.sha256
            if head.weights not in (None, weights or _weights_digest(encoder)):
                say(f"warning: the head {head.path} was trained on features of other weights than these")
        elif not layers:
            say(f"the embedding is taken from layer {runner.layers[0].name}; `layers=` names another")
            if encoder.outputs_only and next(iter(runner.widths.values())) == len(dataset.class_names):
                say("warning: it is as wide as there are classes, and may be their scores; the Python model has more layers")
        size = _rows_in_a_batch(runner, sample, batch_size, unfinished)
        provenance = _provenance(encoder, dataset, runner, np.dtype(dtype), size, limit, seed, command, head)
        if held is not None:
            _check_same(output, held[2], provenance)
            say(f"{output} is complete already; nothing was done")
            return Extraction(output, held[0], held[1], seconds=0.0, resumed=held[0])
        if unfinished is not None:
            if unfinished.rows != len(dataset.inputs):
                counts = f"{unfinished.rows:,} rows, and now there are {len(dataset.inputs):,}"
                raise OutputError(f"{unfinished.path} was begun with {counts}; {_ANEW}")
            _check_same(unfinished.path, unfinished.provenance, provenance)
        else:
            _check_space(output, runner, len(dataset.inputs), np.dtype(dtype))
        schedule = Schedule(batches, runner, np.dtype(dtype), size, unfinished, workers, seed)
        stop = stack.enter_context(stop_requested(say))
        distributed.barrier()  # whoever is stopped once there is a store ends it in good order
        store = distributed.on_main(
            lambda: stack.enter_context(
                StoreWriter(
                    output,
                    labels=dataset.labels,
                    class_names=dataset.class_names,
                    ids=dataset.ids,
                    split=dataset.split,
                    provenance=provenance,
                    overwrite=overwrite,
                    most_rows=max(1, int(_SECONDS_IN_A_BLOCK / max(runner.seconds_per_row, 1e-9))),
                    resumable=True,
                    resume=unfinished is not None,
                )
            )
        )
        try:
            finished = schedule.run(store, track, stop)
        except KeyboardInterrupt as error:  # the second one
            raise InterruptedRunError(_interrupted(store, command)) from error
        except RuntimeError as error:  # where the program listens for the end of any process, as torch's own loaders do
            if not is_dead_worker(error):
                raise
            raise InputError(DEAD_WORKER) from error
        if not finished:
            raise InterruptedRunError(_interrupted(store, command))
    return Extraction(
        path=output,
        rows=len(dataset.inputs) - len(schedule.skipped),
        layers={layer.name: runner.widths[layer.name] for layer in runner.layers},
        seconds=time.perf_counter() - started,
        not_finite=schedule.not_finite,
        skipped={dataset.ids[position]: reason for position, reason in sorted(schedule.skipped.items())},
        resumed=0 if unfinished is None else unfinished.done,
        batch_size=size,
    )


def list_layers(encoder: Encoder, dataset: Dataset, *, device: str = "auto") -> list[LayerInfo]:
    """List the modules of a model with the shapes of their outputs for the first input of the data; nothing is written."""
    with Runner(encoder, device=device, say=silent) as runner:
        return runner.listing(first_readable(Batches(dataset, encoder.prepare)))


def check_options(
    output: Path,
    batch_size: int | None,
    dtype: str,
    workers: int | None,
    limit: int | None,
    on_error: str,
    pooling: str,
) -> None:
    """Raise UsageError for what `extract` could never do, before a model is opened that takes minutes to read."""
    if output.suffix.lower() in (".npz", ".npy"):
        raise UsageError(f"output {output} would be read as NumPy arrays; a store is HDF5: call it {output.with_suffix('.h5')}")
    for what, number, least in (("batch size", batch_size, 1), ("limit", limit, 1), ("number of workers", workers, 0)):
        if number is not None and number < least:
            raise UsageError(f"the {what} has to be at least {least}, got {number}")
    check_choice("dtype", dtype, _DTYPES)
    check_choice("on-error", on_error, _ON_ERROR)
    check_choice("pooling", pooling, POOLINGS)


def _written_before(
    output: Path, *, overwrite: bool, resume: bool
) -> tuple[tuple[int, dict[str, int], dict[str, Any]] | None, Unfinished | None]:
    """Read what is there to go on with: rows, widths and provenance of a complete store, or what a run left unfinished."""
    unfinished = read_unfinished(output) if resume or not overwrite else None
    if resume and unfinished is None and output.is_file():
        return stored_provenance(output), None
    check_output(output, overwrite=overwrite)
    if unfinished is not None and not resume:
        raise OutputError(
            f"{unfinished.path} holds {unfinished.done:,} of {unfinished.rows:,} rows of an unfinished run: `resume=True` "
            "continues it, `overwrite=True` starts again"
        )
    return None, unfinished


def _rows_in_a_batch(runner: Runner, sample: Any, wanted: int | None, unfinished: Unfinished | None) -> int:
    """Choose the batch size; a run that goes on keeps the one that it began with, so that it rounds as an uninterrupted one."""
    if runner.encoder.batch_size:
        return runner.encoder.batch_size
    if unfinished is not None:
        begun = unfinished.provenance.get("run", {}).get("batch_size")
        if isinstance(begun, int):
            return begun
    return runner.fitting(sample) if wanted is None else wanted


def _check_same(path: Path, begun: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Raise OutputError unless a file holds, or was begun with, what is asked for now."""
    for part in ("model", "data", "layers", "transform", "run"):
        for key, (before, now) in _differences(begun.get(part), provenance[part]).items():
            if part != "run" or key in ("device", "dtype", "autocast", "seed", "logits"):
                name = f"{part} ({key})" if key else part
                raise OutputError(f"{path} was made with another {name}: {_short(before)}, now {_short(now)}; {_ANEW}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_ANEW = "resume with what it was begun with, or pass `overwrite=True` without `resume=True` to start again"


def _differences(before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return {key: (before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)}
    return {} if before == now else {"": (before, now)}


def _check_space(output: Path, runner: Runner, rows: int, dtype: np.dtype[Any]) -> None:
    """Raise OutputError if the store would not fit on the disk."""
    row = 0
    for name, (features, magnitudes) in runner.captured.items():
        row += features.shape[1] * (4 if name == LOGITS else dtype.itemsize)
        row += 0 if magnitudes is None else magnitudes.shape[1] * 4
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    needed, free = int(rows * row * 1.02), shutil.disk_usage(folder).free  # chunks, checksums and labels are below 2 %
    if needed > free:
        raise OutputError(
            f"{output} would take {needed / 1e9:,.2f} GB and {folder} has {free / 1e9:,.2f} GB free; choose another place, "
            "fewer layers, or `dtype='float16'`"
        )


def _interrupted(store: StoreWriter | None, command: str) -> str:
    if store is None or not store.done:
        return "interrupted; no block of rows was complete, so nothing is kept"
    return f"interrupted with {store.done:,} of {store.rows:,} rows written; go on with: {resuming(command)}"


def _weights_digest(encoder: Encoder) -> str:
    """Hash the parameters and buffers of a model that no file stands for; sha256 (hex)."""
    digest = hashlib.sha256()
    for name, tensor in encoder.module.state_dict().items():
        if not isinstance(tensor, torch.Tensor):  # a module may keep extra state of any kind
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _labels_digest(dataset: Dataset) -> str:
    """Hash what a store holds of the data beside features: labels, class names, ids and split; sha256 (hex)."""
    digest = hashlib.sha256(dataset.labels.tobytes())
    for values in (dataset.class_names, dataset.ids, dataset.split or ()):
        for value in values:
            digest.update(value.encode("utf-8", "backslashreplace") + b"\0")
        digest.update(b"\0\0")
    return digest.hexdigest()


def _provenance(
    encoder: Encoder,
    dataset: Dataset,
    runner: Runner,
    dtype: np.dtype[Any],
    size: int,
    limit: int | None,
    seed: int,
    command: str,
    head: TrainedHead | None,
) -> dict[str, Any]:
    weights = encoder.weights
    modules = dict(encoder.module.named_modules())
    return {
        "model": {
            "spec": encoder.spec,
            "code_sha256": encoder.code_sha256,
            "checkpoint": weights and weights.file,
            "sha256": weights and weights.sha256,
            "weights_sha256": None if weights and weights.sha256 else _weights_digest(encoder),
            "origin": weights and weights.origin,
            "matched": list(weights.matched) if weights else [],
            "missing": list(weights.missing) if weights else [],
            "head": head and {"file": str(head.path), "sha256": head.sha256, "objective": head.objective},
        },
        "data": {
            "spec": dataset.location,
            "fingerprint": dataset.fingerprint,
            "labels": _labels_digest(dataset),
            "limit": limit,
        },
        "layers": {
            layer.name: {
                "type": type(modules[layer.module]).__name__,
                "pooling": runner.poolings[layer.name].name,
                "shape": list(runner.poolings[layer.name].shape),
            }
            for layer in runner.layers
        },
        "transform": encoder.prepare.text,
        "run": {
            "device": str(runner.device),
            "dtype": str(dtype),
            "autocast": None if runner.autocast is None else str(runner.autocast).removeprefix("torch."),
            "batch_size": size,
            "torch": torch.__version__,
            "seed": seed,
            "logits": LOGITS in runner.poolings,
            "command": command,
            "embedscope": __version__,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    }
