"""Which set of weights to take of a file that may hold several: raw and averaged ones, student and teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from embedscope.errors import InputError, UsageError, unknown
from embedscope.models._matching import Fit, fitted, fitted_under
from embedscope.models._reading import shown
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Where training code keeps the weights in what it saves, the usual ones first; the others are found all the same.
_RAW = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
_EMA = (
    "ema",
    "model_ema",
    "ema_model",
    "state_dict_ema",
    "model_ema_state_dict",
    "ema_state_dict",
    "ema_weights",
    "params_ema",
)
_MOST_OFFERED = 20

Found = Mapping[str, Mapping[str, Tensor]]


def state_dicts(held: Any) -> dict[str, dict[str, Tensor]]:
    """Find what holds named tensors in what was read, by its dotted key; "" is the whole."""
    return dict(_walk(held, "", 0, set()))


def _walk(held: Any, key: str, depth: int, seen: set[int]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if isinstance(held, nn.Module):
        yield key, {name: value for name, value in held.state_dict().items() if isinstance(value, Tensor)}
        return
    if isinstance(held, list | tuple) and any(isinstance(entry, Mapping) for entry in held):
        held = {str(place): entry for place, entry in enumerate(held) if isinstance(entry, Mapping)}
    if not isinstance(held, Mapping) or depth > 3 or id(held) in seen:
        return
    seen.add(id(held))  # the same mapping under two names is one set of weights
    tensors = {name: value for name, value in held.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield key, tensors
    for name, value in held.items():
        # An optimizer's state holds tensors by number, and buffers by name: neither is a network's.
        if isinstance(name, str) and "optim" not in name and "scheduler" not in name:
            yield from _walk(value, f"{key}.{name}" if key else name, depth + 1, seen)


def choose(path: str, expected: Mapping[str, Tensor], found: Found, weights: str | None) -> tuple[Fit | None, list[str]]:
    """Choose among the sets of weights in a file: those that were asked for, the raw ones, or the ones that fit best.

    Args:
        path: of the file, for messages.
        expected: the module's parameters and buffers by name.
        found: from `state_dicts`.
        weights: "raw", "ema", a key or a prefix in the file, or None.

    Returns:
        The fit, or None if no set fits, and what the user has to know about the choice.

    Raises:
        InputError: several sets fit equally well.
        UsageError: weights that the file does not have.
    """
    if weights not in (None, "raw", "ema"):
        return _wanted(path, expected, found, str(weights)), []
    fits = [fit for key, held in found.items() for fit in fitted(key, expected, held)]
    if weights == "ema" and not any(_is_ema(fit) for fit in fits):  # beside raw ones that fit better, under a prefix
        starts = dict.fromkeys(name.split(".")[0] for held in found.values() for name in held)
        fits += [
            fit
            for start in starts
            if _names_ema(start)
            for key, held in found.items()
            for fit in fitted_under(key, expected, held, start)
        ]
    raw, ema = [fit for fit in fits if not _is_ema(fit)], [fit for fit in fits if _is_ema(fit)]
    if fits and not {"raw": raw, "ema": ema, None: fits}[weights]:
        listed = ", ".join(dict.fromkeys(fit.key or fit.prefix.rstrip(".") or "bare tensors" for fit in fits))
        raise UsageError(f"{path} has no {weights} weights that match the model; it has: {listed}")
    if not fits:
        return None, []
    # A tensor or two that fit by chance are not the raw weights.
    usable = [fit for fit in raw if weights == "raw" or 2 * fit.size >= max((other.size for other in ema), default=0)]
    chosen = _only(path, expected, found, ema if weights == "ema" else usable or ema)
    notes = []
    if usable and ema and weights is None:
        other = (ema[0].key or ema[0].prefix).rstrip(".")
        notes = [f"{path} also contains EMA weights ({other}); the raw weights were loaded; pass `weights='ema'` to load those"]
    elif not usable and weights is None:
        notes = [f"{path} contains only EMA weights ({(chosen.key or chosen.prefix).rstrip('.')})"]
    return chosen, notes


def _only(path: str, expected: Mapping[str, Tensor], found: Found, fits: Sequence[Fit]) -> Fit:
    """Take the fit that fills most; of several the one under the most usual key; InputError if that does not tell."""
    rivals = _rivals(fits)
    if len(rivals) > 1:
        offered = [name for fit in rivals[:_MOST_OFFERED] if (name := _name_of(fit, expected, found))]
        raise InputError(
            f"{path} holds {len(rivals)} sets of weights that match equally well; choose one with `weights=`: "
            f"{', '.join(offered)}"
        )
    return rivals[0]


def _rivals(fits: Sequence[Fit]) -> list[Fit]:
    """Give the fits between which nothing decides."""
    most = max((fit.size for fit in fits), default=0)
    order = {"": -1} | {name: place for place, name in enumerate(_RAW)}
    best = [(order.get(fit.key.rpartition(".")[2], len(order)), fit) for fit in fits if fit.size == most]
    first = min((place for place, _ in best), default=0)
    return [fit for place, fit in best if place == first]


def _name_of(fit: Fit, expected: Mapping[str, Tensor], found: Found) -> str | None:
    """Give the plainest name by which --weights takes this set and no other; None if there is none."""
    names = (fit.key, fit.prefix.rstrip("."), fit.label)
    for name in [*names, *(f"{name}." for name in names)]:  # with a dot "ema" is a prefix, and not the averages in general
        if name.rstrip(".") and name not in ("raw", "ema"):
            taken = _rivals(_under(expected, found, name))
            if [(other.key, other.prefix) for other in taken] == [(fit.key, fit.prefix)]:
                return name
    return None


def _under(expected: Mapping[str, Tensor], found: Found, name: str) -> list[Fit]:
    """Fit the weights under a key, under a prefix below a key, or under a prefix anywhere."""
    plain = name.rstrip(".")
    if plain in found:
        return fitted(plain, expected, found[plain])
    below = [
        fit
        for key, held in found.items()
        if key and plain.startswith(f"{key}.")
        for fit in fitted_under(key, expected, held, plain.removeprefix(f"{key}."))
    ]
    return below or [fit for key, held in found.items() for fit in fitted_under(key, expected, held, plain)]


def _wanted(path: str, expected: Mapping[str, Tensor], found: Found, weights: str) -> Fit:
    """Take the weights under a key or a prefix that was asked for."""
    fits = _under(expected, found, weights)
    if fits:
        return _only(path, expected, found, fits)
    plain = weights.rstrip(".")
    if plain in found or any(f".{plain}." in f".{key}.{name}" for key, held in found.items() for name in held):
        raise InputError(f"{path}: the weights under {weights} match nothing in the model")
    starts = Counter(name.split(".")[0] for held in found.values() for name in held)
    known = [*filter(None, found), *(start for start, _ in starts.most_common(_MOST_OFFERED))]
    usable = [name for name in dict.fromkeys(known) if len(_rivals(_under(expected, found, name))) == 1]
    raise UsageError(unknown("weights under the prefix", weights, usable, place=path))


def _is_ema(fit: Fit) -> bool:
    """Whether its place in the file is called an average."""
    return _names_ema(fit.key) or _names_ema(fit.prefix)


def _names_ema(name: str) -> bool:
    return any(part in _EMA or part.endswith("_ema") for part in name.rstrip(".").split("."))


def fits_nothing(path: str, expected: Mapping[str, Tensor], found: Found) -> InputError:
    """Word the error for a file of which no tensor fits, with the names on both sides."""
    biggest = max(found.values(), key=len)
    count = counted(len(biggest), "tensor")
    return InputError(
        f"{path} matches nothing in the model: it has {count} ({shown(list(biggest))}), "
        f"the model {len(expected)} ({shown(list(expected))})"
    )
