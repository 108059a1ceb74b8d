"""The ICNN loss: how pure and how tight the neighborhoods of the samples are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedscope.arguments import check_choice, check_flag, check_whole
from embedscope.losses import loss
from embedscope.ops.pairwise import distances

SCALES = ("batch", "row")

# The least score: collapsed rows have none, and -ln 0 is infinite.
_LEAST = 1e-6


@loss(reference="arXiv:2305.09062", classes=2)
class icnn(nn.Module):
    """Negative log of the inter- and intra-class nearest-neighbor score (ICNN).

    The training form of the score: at least 0, lower is better.

    For each sample, the k nearest others by Euclidean distance d; e is its distance to the nearest sample of another class and
    r that to its k-th neighbor. score = ((same + diff) / 2 + gamma) / 2, in (0, 1], with

        same   1 - the mean of d / max(e, r) over neighbors of the sample's class
        diff   the mean of d / w over neighbors of other classes, w the largest such d of the batch; 1 if no sample has one
        gamma  the mean share of neighbors of the sample's class; 1 if the batch has no more than k + 2 samples

    means over neighbors first, then over the samples that have such neighbors. The choice of neighbors and gamma have no
    gradient: it tightens and separates the neighbors there are, in units of their distance (no scale changes the loss). So it
    is better at keeping neighborhoods than at making them; combine it with another loss.

    This is the authors' training code (maumruiz/FSL-Loss) except for three choices of embedscope: e is the nearest of the whole
    batch, not of k + 1 neighbors; `same` is 0 instead of 1 if no sample has a neighbor of its class; the score is at least
    1e-6.

    A batch of one class gives 0 with a graph. Equal rows have distance 0, which has no gradient; fewer than k others means all.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        k: number of neighbors, from 1.
        scale: "batch", or "row" to divide the d of other classes by the sample's own r instead of w.
        root: use the square root of the shares in gamma, as the authors' score for evaluation does.
    """

    def __init__(self, num_classes: int, dim: int, *, k: int = 4, scale: str = "batch", root: bool = False) -> None:
        super().__init__()
        self.k, self.root = check_whole("k", k, low=1), check_flag("root", root)
        self.scale = check_choice("scale", scale, SCALES)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar >= 0."""
        rows = features - features.mean(dim=0).detach()  # changes no distance and no gradient, and cancels no digits
        member = labels[:, None] == labels[None, :]  # (B, B)
        between = distances(rows)
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        near, index = between.masked_fill(itself, torch.inf).topk(min(self.k, len(rows) - 1), largest=False)  # (B, k)
        same = member.gather(1, index)
        widest = near[:, -1:] if self.scale == "row" else (near * ~same).max()
        widest = torch.where(widest > 0, widest, 1)
        reach = torch.maximum(between.masked_fill(member, torch.inf).amin(dim=1, keepdim=True), near[:, -1:])
        tight = _mean_of_means(near / torch.where(reach > 0, reach, 1), same)
        apart = _mean_of_means(near / widest, ~same)
        shares = same.to(rows.dtype).mean(dim=1)  # (B,)
        purity = (shares.sqrt() if self.root else shares).mean() if self.k + 2 < len(rows) else 1
        spread = (0 if tight is None else 1 - tight) + (1 if apart is None else apart)
        score = rows.sum() * 0 + (spread / 2 + purity) / 2
        return -score.clamp(min=_LEAST).log()


def _mean_of_means(values: Tensor, chosen: Tensor) -> Tensor | None:
    """Average over the chosen of each row, then over the rows with any: (B, k) each -> scalar, None if there is none."""
    counts = chosen.sum(dim=1)
    some = counts > 0
    if not bool(some.any()):
        return None
    return ((values * chosen).sum(dim=1)[some] / counts[some]).mean()
