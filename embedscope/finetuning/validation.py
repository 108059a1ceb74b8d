"""The validation rows: the criterion by which an epoch is better than another, and its value."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from embedscope import distributed, plugins
from embedscope.errors import InputError, UsageError, unknown
from embedscope.evaluation import evaluate
from embedscope.finetuning.inputs import InputBank
from embedscope.finetuning.measuring import macro_f1
from embedscope.metrics import bind, declaration
from embedscope.models.precision import numerics
from embedscope.ops.blocks import memory, over_rows
from embedscope.progress import untracked

if TYPE_CHECKING:
    from embedscope.finetuning.material import Material
    from embedscope.models.head import Head
    from embedscope.models.network import Network
    from embedscope.ops.rows import Rows
    from embedscope.progress import Track

# Criteria that come from the classifier; any metric with a direction is one too.
CLASSIFIED = ("macro_f1", "accuracy")


def criterion(select_by: str) -> tuple[str, int]:
    """Return the criterion as it is called in logs, and 1 if higher is better, -1 if lower; UsageError for anything else."""
    spec = plugins.parse(select_by)
    spec = replace(spec, name=plugins.canonical(spec.name))
    if spec.name in CLASSIFIED:
        if spec != plugins.Spec(spec.name):
            raise UsageError(f"cannot read the criterion '{select_by}': {spec.name} takes no options")
        return spec.name, 1
    known = [*CLASSIFIED, *(name for name in plugins.names("metrics") if declaration(plugins.load("metrics", name)).better)]
    if plugins.resolved("metrics", spec.name) not in known:
        raise UsageError(unknown("criterion to select by", spec.name, known))
    return str(spec), 1 if declaration(bind(spec)[0]).better == "higher" else -1


def validate(head: Head | Network, material: Material, name: str) -> dict[str, float]:
    """Measure the validation rows: val_loss (cross-entropy), val_accuracy, val_macro_f1, and the criterion of that name.

    Empty without validation rows. The head is left in training mode. InputError if the criterion has no value.
    """
    if material.validation is None or material.validation_labels is None:
        return {}
    labels = material.validation_labels
    head.eval()
    embedding, predicted, losses = apply(head, material.validation, labels)
    head.train()
    found = {
        "val_loss": float(losses.double().mean()),
        "val_accuracy": float((predicted == labels).double().mean()),
        "val_macro_f1": macro_f1(labels.numpy(), predicted.numpy()),
    }
    if name not in CLASSIFIED:
        scores = evaluate((embedding, labels), name, device=material.labels.device, memory=memory())
        (measured,) = scores.metrics.values()
        if measured.value is None:
            raise InputError(f"{name} has no value on the validation rows: {measured.note}")
        found[f"val_{name}"] = measured.value
    return distributed.broadcast(lambda: found)  # the processes have to choose alike


@torch.no_grad()  # not inference mode: what a network caches in it could never again take part in training
def apply(
    head: Head | Network, features: Rows | InputBank, labels: Tensor, track: Track = untracked, what: str = ""
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a head over any number of (N, D) rows, or a network over inputs, blockwise; every process gets all, on the CPU.

    Returns the embedding (N, E), the predicted classes (N,), and the cross-entropy of each row (N,) with its label (N,).
    """
    device = head.classify.weight.device
    own = distributed.share(features.shape[0])
    count = own.stop - own.start
    embedding = torch.empty(count, head.width)  # filled block by block: joining blocks would hold them twice
    predicted, losses = torch.empty(count, dtype=torch.int64), torch.empty(count)
    if isinstance(features, InputBank):
        blocks = iter(track(features.blocks(), what, count, size=lambda pair: pair[0].stop - pair[0].start))
    else:
        blocks = over_rows(features, torch.float32, device)
    # A network is measured in full float32, as extract does: a GPU's TF32 would change features by 1e-3.
    with numerics(device, exact=True, deterministic=False) if isinstance(features, InputBank) else nullcontext():
        for block, rows in blocks:
            found, logits = head(rows)
            place = slice(block.start - own.start, block.stop - own.start)
            embedding[place], predicted[place] = found, logits.argmax(dim=1)
            losses[place] = nn.functional.cross_entropy(logits, labels[block].to(device), reduction="none")
    whole = distributed.all_gather
    return whole(embedding), whole(predicted), whole(losses)
