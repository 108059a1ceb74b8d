"""The process group: who this process is among how many. One process is the ordinary case of the same code.

torch's process group is the only source of the rank; the environment is read once, to start it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as group

from embedscope.errors import EmbedscopeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the group that torchrun announced in the environment: gloo, and nccl too where there is a GPU a process.

    Without torchrun, and where a group is there already, this does nothing. An error that several processes run into is marked
    as repeated in all but one of them, so that it is printed once.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or group.is_initialized():
        yield
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpus = torch.cuda.device_count() > local
    if on_gpus:
        torch.cuda.set_device(local)
    group.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")  # objects and CPU tensors go through gloo
    try:
        yield
    except EmbedscopeError as error:
        error.repeated = not _first_to_say(str(error))
        raise
    finally:
        group.destroy_process_group()


@contextmanager
def _exchange() -> Iterator[None]:
    """Turn what a collective raises when another process is gone into one EmbedscopeError, the same in all that are left."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, group.DistError) and "gloo" not in str(error):
            raise
        raise EmbedscopeError(
            "another process of this run ended, and this one cannot continue without it; what it printed tells why, or it was "
            "killed, often for lack of memory"
        ) from error


def _first_to_say(text: str) -> bool:
    try:
        said: int = group.distributed_c10d._get_default_store().add(f"embedscope: {text}", 1)
    except RuntimeError:  # the process that keeps the count has ended
        return rank() == 0
    return said == 1


def rank() -> int:
    """Which process this is, from 0."""
    return group.get_rank() if group.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return group.get_world_size() if group.is_initialized() else 1


def local_world_size() -> int:
    """How many of them share this machine's memory; torchrun says so."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if group.is_initialized() else 1


def share(rows: int) -> slice:
    """Return this process's contiguous share of `rows`; shares differ by one row at most."""
    return slice(rows * rank() // world_size(), rows * (rank() + 1) // world_size())


def all_gather(rows: Tensor) -> Tensor:
    """Put the rows of all processes together, in the order of their ranks: (n_r, ...) -> (sum of n_r, ...) on every process."""
    return rows if world_size() == 1 else torch.cat(_gathered(rows))


def all_gather_rows(rows: Tensor, total: int) -> Tensor:
    """Put together what each process computed of its `share` of `total` rows: (n_r, ...) -> (total, ...), with a graph.

    Every process is taken to go on alike with the whole, so each gets back the gradient of its own rows as it is; what the
    parameters before that get is summed over processes by `all_reduce`.
    """
    if world_size() == 1:
        return rows
    joined: Tensor = _Gather.apply(rows, total)  # type: ignore[no-untyped-call]
    return joined


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, total: int) -> Tensor:
        ctx.own = share(total)
        counts = [total * (each + 1) // world_size() - total * each // world_size() for each in range(world_size())]
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))  # collectives take equal shapes
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        with _exchange():
            group.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.own], None


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor over the processes, with a graph: each gets back the gradient that all of them have for the sum."""
    if world_size() == 1:
        return tensor
    summed: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return summed


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _summed(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(tensor: Tensor) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    with _exchange():
        group.all_reduce(total)
    return total


def all_reduce(tensors: Sequence[Tensor], *, mean: bool = False) -> None:
    """Replace tensors by their sum over the processes, or their mean, in one exchange; all processes then hold the same."""
    if world_size() == 1 or not tensors:
        return
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    with _exchange():
        group.all_reduce(joined)
    if mean:
        joined /= world_size()
    for tensor, part in zip(tensors, torch.split(joined, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def all_reduce_object(state: T, merge: Callable[[T, T], T]) -> T:
    """Merge what all processes accumulated, in the order of their ranks, so that every process holds the same."""
    first, *others = _gathered(state)
    for other in others:
        first = merge(first, other)
    return first


def gather_object(value: T) -> list[T]:
    """Hand a value to process 0: there the values of all processes in the order of their ranks, elsewhere an empty list."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    with _exchange():
        group.gather_object(value, values)
    return values or []


def broadcast(value: Callable[[], T]) -> T:
    """Let process 0 compute a value, and give it to all; an EmbedscopeError is raised in all of them."""
    outcome: tuple[Any, EmbedscopeError | None] = (None, None)
    if rank() == 0:
        try:
            outcome = (value(), None)
        except EmbedscopeError as error:
            outcome = (None, error)
    found, raised = all_reduce_object(outcome, lambda one, other: one)
    if raised is not None:
        raise raised
    result: T = found
    return result


def barrier() -> None:
    """Return when all processes have come here."""
    all_reduce_object(None, lambda one, other: one)


def on_main(action: Callable[[], T]) -> T | None:
    """Let process 0 act, and the others wait for it; an EmbedscopeError is raised in all of them. What it gives stays there."""
    result: list[T] = []
    broadcast(lambda: result.append(action()))
    return result[0] if result else None


def _gathered(value: T) -> list[T]:
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    with _exchange():
        group.all_gather_object(values, _to_cpu(value))
    device = value.device if isinstance(value, Tensor) else None
    found: list[Any] = [entry.to(device) if isinstance(entry, Tensor) else entry for entry in values]
    return found


def _to_cpu(value: T) -> T:
    return value.cpu() if isinstance(value, Tensor) else value  # type: ignore[return-value]
