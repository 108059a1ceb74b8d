"""Heads: an embedding on top of stored features, and a classifier on top of that."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from embedscope import plugins
from embedscope.arguments import check_choice
from embedscope.errors import InputError, UsageError, explained
from embedscope.models._reading import sha256_of
from embedscope.store.heads import read_head

if TYPE_CHECKING:
    from collections.abc import Mapping


class Head(nn.Module):
    """Features (B, D) -> embedding (B, E) and logits (B, K).

    Features are divided by one number first, their root mean square, so that a learning rate suits any network; every metric
    here stays as it is under that.
    """

    scale: Tensor
    # What a network has if losses read another layer of it, see `Network`.
    loss_widths: tuple[int, int] | None = None
    loss_rows: tuple[Tensor, Tensor] | None = None

    def __init__(self, embed: nn.Module, classify: nn.Linear, scale: float) -> None:
        super().__init__()
        self.embed, self.classify = embed, classify
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, E), (B, K)."""
        embedding = self.embed(features / self.scale)
        return embedding, self.classify(embedding)

    @property
    def width(self) -> int:
        """E."""
        return self.classify.in_features

    def probe(self, embedding: Tensor) -> Tensor:
        """Logits (B, K) of an embedding (B, E), with a gradient for the classifier alone."""
        logits: Tensor = self.classify(embedding.detach())
        return logits

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters: all of them are trained at one rate, and none comes before the head."""
        return list(self.parameters()), []

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of parameters and buffers by name."""
        return {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill the head from what `tensors` gave."""
        self.load_state_dict(dict(tensors))


def build_head(spec: str, dim: int, num_classes: int, scale: float) -> Head:
    """Make a head from `linear` or `mlp(width, ...)`.

    linear      one linear map from D to D that starts as the identity, then the classifier
    mlp(a, b)   layers of these widths, each a linear map and a ReLU, then the classifier; b is the embedding's width

    UsageError for another name, or widths that are not whole numbers from 1 to 65536.
    """
    parsed = plugins.parse(spec)
    kind = check_choice("head", plugins.canonical(parsed.name).lower(), ("linear", "mlp"))
    if parsed.options or (kind == "linear" and parsed.args):
        raise UsageError(f"cannot read the head '{spec}': it is linear, or mlp with widths as in mlp(128, 64)")
    if kind == "linear":
        embed = nn.Linear(dim, dim)
        nn.init.eye_(embed.weight)
        nn.init.zeros_(embed.bias)
        return Head(embed, nn.Linear(dim, num_classes), scale)
    if not parsed.args or any(type(width) is not int or not 1 <= width <= 65536 for width in parsed.args):
        raise UsageError(f"cannot read the head '{spec}': mlp takes widths from 1 to 65536, as in mlp(128, 64)")
    widths = (dim, *parsed.args)
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return Head(nn.Sequential(*layers), nn.Linear(widths[-1], num_classes), scale)


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """A head that finetune wrote, and what it was trained on.

    Attributes:
        head: in evaluation mode, on the CPU.
        path: of its file.
        sha256: of that file (hex).
        layer: whose features it takes, or None where they came from no model.
        pooling: of that layer, or None likewise.
        dim: D.
        width: E.
        objective: that it was trained with.
        weights: sha256 (hex) of the model's weights whose features it was trained on, or None where that is not known.
        classes: names of the K classes, in the order of its logits.
    """

    head: Head
    path: Path
    sha256: str
    layer: str | None
    pooling: str | None
    dim: int
    width: int
    objective: str
    weights: str | None
    classes: tuple[str, ...]


def open_head(path: Path | str) -> TrainedHead:
    """Read a `head.safetensors` of a run of finetune; InputError for anything else."""
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("**/head.safetensors"))
        hint = f"; there is {found[0]}" if found else ""
        raise InputError(f"{path} is a folder; give the head.safetensors of a finetune run{hint}")
    if not path.exists():
        raise InputError(f"no such file: {path}")
    tensors, notes = read_head(path)
    if notes.head.startswith("network("):
        raise InputError(f"{path} is a network trained by finetune; pass it as `checkpoint=` for the same model")
    with explained(f"{path} is not a head written by finetune", "give the head.safetensors of a run directory"):
        if not notes.classes or notes.dim < 1:
            raise ValueError(f"{len(notes.classes)} classes, {notes.dim} dimensions")
        head = build_head(notes.head, notes.dim, len(notes.classes), 1.0)
        head.load_state_dict(tensors)
    if notes.behind:
        raise InputError(
            f"{path} was trained on the output of another head, {notes.behind}; only one head can be added to a model"
        )
    return TrainedHead(
        head=head.eval(),
        path=path,
        sha256=sha256_of(str(path)),
        layer=notes.layer,
        pooling=notes.pooling,
        dim=notes.dim,
        width=head.classify.in_features,
        objective=notes.objective,
        weights=notes.weights,
        classes=notes.classes,
    )
