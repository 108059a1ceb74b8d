"""The features of a probe, by the code of `extract`: the same batches, the same order, the same seeds."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from embedscope import distributed
from embedscope.errors import EmbedscopeError, InputError, UsageError
from embedscope.extraction.running import Runner
from embedscope.store.features import FeatureSet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from embedscope.models.encoder import Encoder
    from embedscope.monitoring.probe import Probe

    Found = dict[int, dict[str, tuple[Tensor, Tensor | None]]]

_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def embed(
    encoder: Encoder,
    probe: Probe,
    layers: Sequence[str],
    *,
    pooling: str = "auto",
    device: str = "auto",
    amp: bool = False,
    live: bool = False,
    seed: int = 0,
    say: Callable[[str], None],
) -> list[FeatureSet]:
    """Return one FeatureSet per layer, with the rows of the probe; every process of a group has all of them.

    The processes share the batches. A batch is the same however many processes there are, and so are its numbers.
    """
    if any(base.__name__ in _SHARDED for part in encoder.module.modules() for base in type(part).__mro__):
        raise UsageError("the model is sharded by FSDP, and its weights cannot be gathered here; score its checkpoints instead")
    _check_same(probe)
    with Runner(encoder, device=device, amp=amp, live=live, say=say) as runner:
        runner.plan(probe.sample(), layers, pooling=pooling, logits=False, allow_partial=False)
        found = _found(runner, probe, seed)
    return [
        _collected(encoder, probe, layer.name, [found[number][layer.name] for number in sorted(found)])
        for layer in runner.layers
    ]


def _found(runner: Runner, probe: Probe, seed: int) -> Found:
    """Run this process's batches and gather those of all; an error of one process is raised in all of them."""
    mine = range(distributed.rank(), len(probe.spans), distributed.world_size())
    found: Found = {}
    problem: EmbedscopeError | None = None
    try:
        for number, inputs in zip(mine, probe.batches(mine), strict=True):
            runner.seed(seed + probe.spans[number].start)
            found[number] = runner(inputs)
    except EmbedscopeError as error:
        problem = error
    problem = distributed.all_reduce_object(problem, lambda one, other: one or other)
    if problem is not None:
        raise problem
    return distributed.all_reduce_object(found, lambda one, other: {**one, **other})


def _collected(encoder: Encoder, probe: Probe, layer: str, parts: Sequence[tuple[Tensor, Tensor | None]]) -> FeatureSet:
    magnitudes = [each for _, each in parts if each is not None]
    return FeatureSet(
        name=layer,
        source=encoder.spec,
        layer=layer,
        features=torch.cat([features for features, _ in parts]),
        labels=probe.labels,
        class_names=probe.class_names,
        ids=probe.ids,
        split=probe.split,
        magnitudes=torch.cat(magnitudes) if magnitudes else None,
    )


def _check_same(probe: Probe) -> None:
    """Raise InputError if the processes of a group hold different rows, as a loader that shares them gives."""
    if distributed.world_size() == 1:
        return
    own = hashlib.sha256(
        probe.labels.tobytes() + "\0".join(map(str, probe.ids)).encode("utf-8", "backslashreplace")
    ).hexdigest()
    found = distributed.all_reduce_object({own}, lambda one, other: one | other)
    if len(found) > 1:
        raise InputError(
            "the probe's rows differ between the processes of this run; give all of them the same rows, for example "
            "a location with a number of rows"
        )
