"""Weights of samples, by how rare what they show is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope.finetuning.specs import check_weights
from embedscope.ops.blocks import row_slices
from embedscope.ops.sample_weights import weights

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.finetuning.banks import Bank

# Rows that k-means sees at once: its first block has to hold more rows than there are clusters.
_BLOCK_BYTES = 64 * 2**20


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
