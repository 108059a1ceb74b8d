"""Losses of pytorch-metric-learning (arXiv:2008.09164) behind our contract: what `pml` and the losses named after papers share.

The library is the extra `losses`; it is imported when a loss is made, never when a file is.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from embedscope import plugins
from embedscope.errors import InputError, UsageError, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

# Kinds of parts, by the option that takes one; each is a folder of the library.
_PARTS = {
    "distance": "distances",
    "miner": "miners",
    "reducer": "reducers",
    "embedding_regularizer": "regularizers",
    "weight_regularizer": "regularizers",
    "loss": "losses",
}
_SINGULAR = {
    "losses": "loss",
    "distances": "distance",
    "miners": "miner",
    "reducers": "reducer",
    "regularizers": "regularizer",
}

# What the library's subclasses pass to their bases, or cannot be written as a literal.
_HIDDEN = {"self", "args", "kwargs", "mat_based_loss", "collect_stats", "weight_init_func", "aggregation_func", "iter_fn"}
_ABSTRACT = {"GenericPairLoss", "MultipleReducers", "DoNothingReducer", "BatchedDistance"}
_UNSUITED = {
    "MultipleLosses": "combines several losses; write them as a sum, as in pml.SupConLoss + 0.5*pml.TripletMarginLoss",
    "SelfSupervisedLoss": "needs several views of each sample, but an objective gets labeled embeddings",
    "VICRegLoss": "needs two views of each sample without labels, but an objective gets labeled embeddings",
    "ManifoldLoss": "takes no labels, but an objective gets labeled embeddings",
}


def metric_learning(kind: str) -> ModuleType:
    """Import a folder of the library, such as "losses"; MissingExtraError if the library is not installed."""
    return plugins.imported(f"pytorch_metric_learning.{kind}", extra="losses")


def part(kind: str, text: str, num_classes: int, dim: int) -> Any:
    """Make a part of the library from a spec: `part("distances", "LpDistance(p=1)", 10, 64)`.

    Options that take other parts are specs in turn. K and D are filled in where a constructor cannot do without. UsageError for
    names, options and values that do not fit, with the nearest name.
    """
    spec = plugins.parse(text)
    classes = _classes(kind)
    if spec.name in _UNSUITED:
        raise UsageError(f"pml.{spec.name} {_UNSUITED[spec.name]}")
    if spec.name not in classes:
        raise UsageError(unknown(_SINGULAR[kind], spec.name, classes, place="pytorch-metric-learning"))
    name = f"pml.{spec.name}" if kind == "losses" else spec.name
    known = _options(classes[spec.name])
    filled = {"num_classes": num_classes, "embedding_size": dim, "descriptors_dim": dim}
    wanted = {
        option: filled[option] for option, default in known.items() if default is inspect.Parameter.empty and option in filled
    }
    typed = {option: default for option, default in known.items() if option not in wanted}
    if spec.args:
        given = ", ".join(repr(arg) for arg in spec.args)
        raise UsageError(f"options of {name} need a name, as in {name}(option={given}); it takes {', '.join(typed)}")
    for option in spec.options:
        if option not in typed:
            raise UsageError(unknown("option", option, typed, place=name))
    missing = [option for option, default in typed.items() if default is inspect.Parameter.empty and option not in spec.options]
    if missing:
        raise UsageError(f"{name} needs {' and '.join(missing)}, as in {name}({missing[0]}=...)")
    values = {
        option: part(_PARTS[option], value, num_classes, dim) if option in _PARTS and isinstance(value, str) else value
        for option, value in spec.options.items()
    }
    try:
        if "weights" in values:  # of the classes
            values["weights"] = torch.tensor(values["weights"])
        return classes[spec.name](**wanted, **values)
    except Exception as error:
        raise UsageError(f"{name} cannot be used this way: {_reason(error)}") from error


def try_out(module: nn.Module, name: str, num_classes: int, dim: int) -> None:
    """Compute a loss and its gradient twice, on 4 samples of each of two classes; UsageError for whatever the library raises.

    What a loss cannot work with is found out here, and not in the first step of a training. Pass a copy: a loss may have state.
    """
    with torch.random.fork_rng(devices=[]):
        rows = torch.randn(8, dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
        labels = torch.arange(8) % min(2, num_classes)
        try:
            for _ in range(2):  # some keep a state, and fail on it
                module(rows, labels, rows).backward()
        except Exception as error:
            library = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise UsageError(f"{name} cannot be used this way: {_reason(library)}") from error


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or "an assertion in the library failed"


def _classes(kind: str) -> dict[str, type[nn.Module]]:
    found = {name: value for name, value in vars(metric_learning(kind)).items() if inspect.isclass(value)}
    return {
        name: value
        for name, value in sorted(found.items())
        if issubclass(value, nn.Module) and not name.startswith("Base") and name not in _ABSTRACT | _UNSUITED.keys()
    }


def _options(made: type[nn.Module]) -> Mapping[str, Any]:
    """Name the options of a class with their defaults: its own, and those that `**kwargs` hands to its bases."""
    found: dict[str, Any] = {}
    for base in made.__mro__:
        if base is nn.Module:
            break
        if "__init__" in vars(base):
            for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items():
                if name not in _HIDDEN:
                    found.setdefault(name, parameter.default)
    return found


def embedding_rows(features: Tensor, *, unit: bool) -> Tensor:
    """Prepare (B, D) features for the library.

    If the loss divides rows by their length, a zero row gets no gradient: it has no direction, and the library would divide by
    1e-12.
    """
    return torch.where((features == 0).all(dim=1, keepdim=True), features.detach(), features) if unit else features


class EmbeddingLoss(nn.Module):
    """A loss of the library, with a miner before it or none: `forward(features (B, D), labels (B,), logits unused) -> scalar`.

    Args:
        loss: takes (rows, labels, indices or None).
        miner: takes (rows, labels) and gives the indices of pairs or triplets.
    """

    def __init__(self, loss: nn.Module, miner: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar."""
        distance = getattr(self.loss, "distance", None)
        rows = embedding_rows(features, unit=getattr(distance, "normalize_embeddings", True))
        try:
            value: Tensor = self.loss(rows, labels, self.miner(rows, labels) if self.miner else None)
        except (ValueError, AssertionError, IndexError) as error:
            name = type(self.loss).__name__
            raise InputError(f"{name} of pytorch-metric-learning cannot use this batch: {_reason(error)}") from error
        # Pairs with NaN are above no margin, so that some losses would leave them out in silence: they have to show.
        return value.reshape(()) + (rows.detach() * 0).sum()
