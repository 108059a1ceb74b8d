"""head.safetensors and model.safetensors: the tensors of what was trained, and beside them, as JSON texts, on what."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch

from embedscope.errors import InputError, explained
from embedscope.store import typed
from embedscope.store.files import finished
from embedscope.store.provenance import FinetuneOrigin

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


@dataclass(frozen=True)
class HeadNotes:
    """What a head's file says beside its tensors.

    Attributes:
        head: its spec, "linear" or "mlp(width, ...)"; of a network "network(all)", with the part that was trained.
        dim: D of the features that it takes.
        classes: names of the K classes, in the order of its logits.
        objective: that it was trained with.
        layer: whose features it takes, or None if they came from no model.
        pooling: of that layer, or None likewise.
        weights: sha256 (hex) of the model's weights, or None if unknown.
        behind: file of the head that the features come out of, or None.
        seed: of the training.
        epoch: whose weights these are.
    """

    head: str
    dim: int
    classes: tuple[str, ...]
    objective: str
    layer: str | None = None
    pooling: str | None = None
    weights: str | None = None
    behind: str | None = None
    seed: int = 0
    epoch: int = 0

    def origin(self) -> FinetuneOrigin:
        """Return what stores of features behind the head say of it."""
        return FinetuneOrigin(**{each.name: getattr(self, each.name) for each in fields(self) if each.name != "epoch"})


def write_head(path: Path, tensors: Mapping[str, Tensor], notes: HeadNotes) -> None:
    """Write a head's file; OutputError for whatever the file system refuses."""
    with finished(path) as file:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # Written by Python, which reports a full disk with an error that is known here.
        file.write_bytes(safetensors.torch.save(plain, {key: json.dumps(value) for key, value in asdict(notes).items()}))


def read_head(path: Path) -> tuple[dict[str, Tensor], HeadNotes]:
    """Read tensors (on the CPU) and notes; InputError for a file that finetune did not write."""
    problem, advice = f"{path} is not a head written by finetune", "give the head.safetensors of a run directory"
    with explained(problem, advice), safetensors.safe_open(path, framework="pt") as file:
        parsed = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, which has no iterator)
    try:
        notes: HeadNotes = typed.read(HeadNotes, parsed, "its metadata")
    except InputError as error:
        raise InputError(f"{problem} ({error}); {advice}") from error
    return tensors, notes
