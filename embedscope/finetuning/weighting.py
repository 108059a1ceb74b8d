"""Weights of samples, by how rare what they show is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from embedscope import plugins
from embedscope.errors import check_number, check_whole
from embedscope.ops.blocks import row_slices
from embedscope.ops.sample_weights import weights

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.finetuning.banks import Bank

# Rows that k-means sees at once: its first block has to hold more rows than there are clusters.
_BLOCK_BYTES = 64 * 2**20

_KINDS: dict[str, dict[str, Any]] = {"dataset_equity": {"eta": 1.0, "gamma": 5.0, "clusters": None}}


def check_weights(spec: str | None) -> dict[str, Any]:
    """Read `dataset_equity(eta=1, gamma=5, clusters=10)` into all of its options; None has none."""
    if spec is None:
        return {}
    _, options = plugins.choose("weighting of samples", spec, _KINDS)
    for name in ("eta", "gamma"):
        check_number(f"{name} of dataset_equity", options[name], low=0)
    if options["clusters"] is not None:
        check_whole("clusters of dataset_equity", options["clusters"], low=1)
    return options


def sample_weights(spec: str, rows: Bank, num_classes: int, seed: int) -> Tensor:
    """Compute DatasetEquity's weights of (N, D) rows, arXiv:2308.09878: (N,) float32 on the CPU, see `ops.sample_weights`.

    The likelihood of a sample is the share of the rows that lie in its cluster, of k-means on the features as they come in; as
    many clusters as classes unless told otherwise. Labels are not looked at.
    """
    from sklearn.cluster import MiniBatchKMeans

    options = check_weights(spec)
    count = min(options["clusters"] or num_classes, rows.shape[0])
    blocks = row_slices(rows.shape[0], rows.shape[1] * 4, _BLOCK_BYTES)
    means = MiniBatchKMeans(count, random_state=seed, batch_size=4096, n_init=3)
    if len(blocks) == 1:
        means.fit(rows[blocks[0]].cpu().numpy())
    else:
        for block in blocks:
            means.partial_fit(rows[block].cpu().numpy())
    found = torch.cat([torch.from_numpy(means.predict(rows[block].cpu().numpy())) for block in blocks]).long()
    likelihood = torch.bincount(found, minlength=count)[found].float() / len(found)
    return weights(likelihood, options["eta"], options["gamma"])
