"""extract: the features of the layers of a model, over labeled data or any loader."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from embedscope import devices, distributed
from embedscope.arguments import check_flags, check_names, check_path, check_seed, displayed
from embedscope.data.dataset import Dataset
from embedscope.errors import InputError, InterruptedRunError, OutputError, UsageError
from embedscope.extraction.loading import DEAD_WORKER, Batches, choose_workers, first_readable, is_dead_worker, limited
from embedscope.extraction.modules import extract_module
from embedscope.extraction.options import BATCH_SIZE, check_for_module, check_options
from embedscope.extraction.outcome import Extraction
from embedscope.extraction.recording import recorded
from embedscope.extraction.resuming import ANEW, check_first_rows, check_same, written_before
from embedscope.extraction.running import Runner
from embedscope.extraction.schedule import Schedule
from embedscope.extraction.space import check_space
from embedscope.extraction.stopping import stop_requested
from embedscope.models.encoder import Encoder, weights_digest
from embedscope.models.head import TrainedHead
from embedscope.progress import Track, silent, untracked
from embedscope.store import StoreWriter, Unfinished, resuming
from embedscope.store.files import check_output, partial_path
from embedscope.store.locks import held
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from embedscope.models.listing import LayerInfo


# A signal lets the block end that is being computed; schedulers of clusters kill after 30 s.
_SECONDS_IN_A_BLOCK = 20.0


def extract(
    encoder: Encoder | nn.Module,
    dataset: Dataset | Iterable[Any],
    output: Path | str | None = None,
    *,
    layers: str | Sequence[str] = (),
    pooling: str = "auto",
    logits: bool = False,
    head: TrainedHead | None = None,
    batch_size: int | None = BATCH_SIZE,
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
) -> Extraction | Any:
    """Write the features of named layers to a store, or return them for a module and a loader.

    Given an encoder and a data set, write the store `output` in the order of the data and return an Extraction, as the command
    line does. Given any nn.Module and any loader (an iterable of (inputs, labels), (inputs, labels, ids) or mappings with
    labels), return a list with one in-memory FeatureSet per layer; with `output`, write them to a store and return an
    Extraction. Everything below applies to both, except for resuming and processes: a loader is read once, separately by each
    process, and its rows are kept in memory until it ends.

    A loader may be shuffled: rows come in the order seen, and ids are their positions in that order unless the loader gives
    ids. Whole-number labels are named by `loader.dataset.classes`, if there are any. Inputs are a tensor, or several tensors
    named after the arguments of the module's forward. The module runs in evaluation mode without gradients; its mode, device,
    hooks, weights and gradients, and the random number states, are restored when the call ends.

    Maps (B, C, ...) become the mean over positions, tokens (B, T, C) the mean over tokens (padding left out); both keep the
    mean of |activation| as well, which Gini and KL use. The channel axis is inferred from the widths of the modules that run.
    Activations are pooled as the layer outputs them, before in-place changes.

    Rows are committed to `output.partial` in blocks of about 2 MiB. A run killed at any moment resumes after the last block
    with `resume`, and the finished store equals that of an uninterrupted run. On SIGINT or SIGTERM, the current block is
    finished first.

    Under torchrun the processes share the batches, and the first one writes the same file as a single process would.

    Args:
        encoder: from `models.open_model`, or any nn.Module.
        dataset: from `data.open_dataset`, or the loader of a module.
        output: the store, written atomically.
        layers: names of modules, `NAME.input` for the input of one, "input", "output" or "output.KEY" of the whole model, or
            patterns (`blocks.*.mlp`), each with an optional `:POOLING` suffix. By default the model's embedding: the layer that
            its source names, or the input of the last Linear that runs.
        pooling: for layers without a suffix: "auto", "gap", "mean", "cls", "flatten" or "none".
        logits: also keep the model's output, (B, K).
        head: a head trained by finetune, from `models.head.open_head`: its embedding is written instead of the layer's, which
            is by default the layer it was trained on, pooled in the same way.
        batch_size: rows per forward pass; None for what fits into device memory. Halved on out-of-memory.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps"; "auto" leaves an nn.Module on its device.
        amp: run under torch.autocast, in bfloat16 if the device supports it, else float16; pooling is in float32.
        dtype: of the features in the store, "float32" or "float16" (rounded to 11 bits; beyond 65,504 it is infinite).
        workers: number of data-loading processes; None chooses it automatically. The order of rows never depends on it.
        limit: maximum number of rows, spread evenly over the data; for a loader, the first ones.
        on_error: "stop" at an unreadable input, or "skip" it: it gets no row and is listed in the store.
        allow_partial: allow layers that depend on weights missing from the checkpoint.
        deterministic: use only torch's deterministic algorithms; an operation without one raises.
        seed: of torch, for models that draw numbers, and for the order of a shuffled loader.
        overwrite: replace an existing output, or restart an unfinished one.
        resume: resume an unfinished output; a finished one is left unchanged.
        command: recorded, so that the run can be repeated.
        track: reports progress over rows.
        say: called with messages for the user during the run.

    Raises:
        UsageError: a layer that the model does not have (the nearest is named), or an option out of its range.
        InputError: the model does not accept the data, a layer does not output a tensor with one row per sample; an input
            cannot be read; the layers depend on weights that were not loaded.
        OutputError: the output exists, cannot be written, would not fit on the disk, or was started with other settings.
        InterruptedRunError: a signal stopped the run; the message gives the command to resume.

    Example:
        >>> from torch import nn, ones
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> loader = [(ones(3, 2), ["a", "b", "a"]), (ones(1, 2), ["b"])]
        >>> (features,) = extract(model, loader, layers="1")
        >>> features
        FeatureSet '1': 4 x 4 float32, 2 classes, layer 1 of Sequential
    """
    started = time.perf_counter()
    output = None if output is None else check_path("`output=`", output)
    layers = check_names("`layers=`", layers)
    logits, amp, allow_partial, deterministic, overwrite, resume = check_flags(
        logits=logits,
        amp=amp,
        allow_partial=allow_partial,
        deterministic=deterministic,
        overwrite=overwrite,
        resume=resume,
    )
    seed = check_seed(seed)
    devices.choose(device)
    if isinstance(encoder, nn.Module):
        loader: Any = dataset
        check_for_module(loader, batch_size, workers, on_error, head, logits=logits, allow_partial=allow_partial, resume=resume)
        _, _, limit = check_options(output, None, dtype, None, limit, on_error, pooling)
        return extract_module(
            encoder,
            loader,
            output,
            layers=layers,
            pooling=pooling,
            device=device,
            amp=amp,
            dtype=dtype,
            limit=limit,
            deterministic=deterministic,
            seed=seed,
            overwrite=overwrite,
            command=command,
            track=track,
            say=say,
        )
    if not isinstance(encoder, Encoder):
        raise UsageError(f"the first argument must be an encoder from open_model or an nn.Module, got {displayed(encoder)}")
    if not isinstance(dataset, Dataset):
        raise UsageError("an encoder takes a data set from open_dataset; a loader goes with an nn.Module")
    if output is None:
        raise UsageError("the features of an encoder are written to a store; set `output=`")
    if head is not None and not isinstance(head, TrainedHead):
        raise UsageError(f"`head=` takes a head from open_head, got {displayed(head)}")
    batch_size, workers, limit = check_options(output, batch_size, dtype, workers, limit, on_error, pooling)
    if distributed.rank():  # of several processes, one speaks
        track, say = untracked, silent
    if limit is not None:
        dataset = limited(dataset, limit)
    if not len(dataset.inputs):
        raise InputError(f"{dataset.location} has no inputs")
    workers = choose_workers(dataset, workers)
    batches = Batches(dataset, encoder.prepare, skip=on_error == "skip")
    with ExitStack() as stack:
        refresh = distributed.on_main(lambda: _locked(stack, output, overwrite=overwrite, resume=resume))
        complete, unfinished = distributed.broadcast(lambda: written_before(output, overwrite=overwrite, resume=resume))
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
            say(f"{taken} is passed through the head trained with {head.objective}, {head.dim} to {head.width}")
            weights = encoder.weights and encoder.weights.sha256
            if head.weights not in (None, weights or weights_digest(encoder)):
                say(f"warning: the head {head.path} was trained on features of different weights")
        elif not layers:
            say(f"the embedding is taken from layer {runner.layers[0].name}; `layers=` names another")
            if encoder.outputs_only and next(iter(runner.widths.values())) == len(dataset.class_names):
                say(
                    "warning: its width equals the number of classes, so it may be the logits; the Python model exposes "
                    "more layers"
                )
        size = _rows_in_a_batch(runner, sample, batch_size, unfinished)
        provenance = recorded(encoder, dataset, runner, np.dtype(dtype), size, limit, seed, command, head)
        if complete is not None:
            check_same(output, complete[2], provenance)
            say(f"{output} is already complete; nothing to do")
            return Extraction(output, complete[0], complete[1], seconds=0.0, resumed=complete[0])
        if unfinished is not None:
            if unfinished.rows != len(dataset.inputs):
                counts = f"{counted(unfinished.rows, 'row')}, and now there are {len(dataset.inputs):,}"
                raise OutputError(f"{unfinished.path} was started with {counts}; {ANEW}")
            check_same(unfinished.path, unfinished.provenance, provenance)
            if unfinished.done:
                distributed.on_main(lambda: check_first_rows(unfinished, batches, runner, size, seed))
        else:
            check_space(output, runner, len(dataset.inputs), np.dtype(dtype))
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
                    committed=refresh,
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
            raise InterruptedRunError(distributed.broadcast(lambda: _interrupted(store, command)))
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
    """List the modules of a model with the shapes of their outputs for the first input of the data; nothing is written.

    Example:
        >>> from torch import nn, zeros
        >>> from embedscope.data.dataset import Dataset
        >>> from embedscope.models.encoder import Encoder
        >>> from embedscope.models.preparation import Pixels
        >>> data = Dataset([zeros(3)], np.array([0]), ("a",), ["row0"], None, "memory", "")
        >>> for layer in list_layers(Encoder(nn.Sequential(nn.Linear(3, 2)), Pixels(), "net"), data):
        ...     print(layer.name, layer.shape)
        0 (2,)
        output (2,)
    """
    if not isinstance(encoder, Encoder):
        raise UsageError(f"list_layers takes an encoder from open_model, got {displayed(encoder)}")
    if not isinstance(dataset, Dataset):
        raise UsageError(f"list_layers takes a data set from open_dataset, got {displayed(dataset)}")
    with Runner(encoder, device=device, say=silent) as runner:
        return runner.listing(first_readable(Batches(dataset, encoder.prepare)))


def _locked(stack: ExitStack, output: Path, *, overwrite: bool, resume: bool) -> Callable[[], None] | None:
    """Hold the lock of the output; a complete one that is only looked at needs none."""
    if resume and output.is_file() and not partial_path(output.resolve()).exists():
        return None
    check_output(output, overwrite=overwrite or resume)
    try:
        return stack.enter_context(held(output))
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror or error}") from error


def _rows_in_a_batch(runner: Runner, sample: Any, wanted: int | None, unfinished: Unfinished | None) -> int:
    """Choose the batch size; a run that goes on keeps the one that it began with, so that it rounds as an uninterrupted one."""
    if runner.encoder.batch_size:
        return runner.encoder.batch_size
    if unfinished is not None:
        begun = unfinished.provenance.run
        if begun is not None and begun.batch_size:
            return begun.batch_size
    return runner.fitting(sample) if wanted is None else wanted


def _interrupted(store: StoreWriter | None, command: str) -> str:
    rows = 0 if store is None else store.keep()
    if store is None or not rows:
        return "interrupted; no block of rows was complete, so nothing was kept"
    return f"interrupted with {rows:,} of {counted(store.rows, 'row')} written; resume with: {resuming(command)}"
