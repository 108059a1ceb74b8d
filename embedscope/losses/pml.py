"""Every loss of pytorch-metric-learning by its class name: `pml.TripletMarginLoss(margin=0.2)`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from embedscope import plugins
from embedscope.arguments import check_text
from embedscope.errors import UsageError
from embedscope.losses import loss as declared
from embedscope.losses._metric_learning import EmbeddingLoss, part, try_out

if TYPE_CHECKING:
    from torch import nn


@declared(reference="arXiv:2008.09164", family=True)
def pml(num_classes: int, dim: int, *, loss: str = "") -> nn.Module:
    """Any pytorch-metric-learning loss, e.g. pml.TripletMarginLoss(margin=0.2).

    That is `pml(loss='TripletMarginLoss(margin=0.2)')` in an objective. The loss is computed exactly as the library (the extra
    `losses`) does, in float32 at least: its range, its defaults and its value on a batch without pairs (mostly 0) are the
    library's. The losses that embedscope has under a name of its own (`supcon`, `triplet`, `proxy_nca` ...) close the gaps that
    their docstrings name. A row of zeros gets no gradient where the loss divides rows by their length; beyond that, degenerate
    batches are the library's affair (NCALoss of a batch without pairs is NaN). The loss is tried out when it is made.

    Args:
        num_classes: K, filled in where the loss has to know it.
        dim: D, filled in likewise as embedding_size.
        loss: the class name, and the options of its constructor as Python literals. Options that take an object of the library
            take it in the same way, as text: distance='LpDistance(p=1)', reducer='MeanReducer',
            embedding_regularizer='LpRegularizer', weight_regularizer='RegularFaceRegularizer'. `miner`, of any loss, chooses
            pairs or triplets of the batch first: miner='MultiSimilarityMiner(epsilon=0.2)'.

    Raises:
        UsageError: the library has no such loss, option or part, or the loss needs something else than labeled embeddings.
        MissingExtraError: the library is not installed.
        InputError: (forward) the loss cannot use this batch: SmoothAPLoss wants classes of one size.
    """
    if not loss:
        raise UsageError("pml needs the name of a pytorch-metric-learning loss, as in pml.TripletMarginLoss(margin=0.2)")
    spec = plugins.parse(check_text("loss of pml", loss))
    options = dict(spec.options)
    # This one mines against its memory; before all others it is we who mine.
    mined = None if spec.name == "CrossBatchMemory" else options.pop("miner", None)
    made = part("losses", str(plugins.Spec(spec.name, spec.args, options)), num_classes, dim)
    if mined is not None and not isinstance(mined, str):
        raise UsageError(f"miner of pml.{spec.name} must be a string, as in miner='MultiSimilarityMiner'")
    module = EmbeddingLoss(made, part("miners", mined, num_classes, dim) if mined else None)
    try_out(copy.deepcopy(module), f"pml.{spec.name}", num_classes, dim)
    return module
