"""Weights from a file into a module: safely, whatever they are wrapped in, and never in part without a word."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import io
import pathlib
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from embedscope.errors import InputError, UsageError, unknown
from embedscope.models.encoder import Weights
from embedscope.models.torchscript import is_torchscript

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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

# Kinds of plain values that training code saves beside weights; making one of them runs none of a file's code.
_PLAIN = (argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, datetime.datetime, datetime.date, datetime.timedelta)

# What torch.compile and (Distributed)DataParallel put into names.
_COMPILED = "_orig_mod"
_PARALLEL = "module"


def load_checkpoint(module: nn.Module, path: str, *, weights: str | None = None, unsafe_pickle: bool = False) -> Weights:
    """Fill a module from a file, in place, and say what was filled and what was not.

    Reads `.safetensors` and what torch saved: a state dict, bare or wrapped (`state_dict`, `model`, `ema` ..., Lightning's
    `.ckpt`), with `module.` of DataParallel, `_orig_mod.` of torch.compile, or a prefix that its names have and the module's
    lack, or the other way round. Of several prefixes the one whose tensors fit most wins.

    Args:
        module: whose parameters and buffers are filled; what the file lacks stays as it is and is reported as missing.
        path: of the file.
        weights: "raw", "ema", or a prefix of the names in the file; by default raw weights if it has both.
        unsafe_pickle: read pickled objects other than tensors and plain values, which may run any code they bring.

    Raises:
        InputError: not there, cut short, refused as unsafe (with the names it wanted), no tensors in it, none that fits, or
            several sets of weights that fit equally well.
        UsageError: weights that the file does not have.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(
            f"{path} is a folder; give the file of the weights" if file.is_dir() else f"no such checkpoint: {path}"
        )
    found = dict(_state_dicts(_read(file, unsafe_pickle), ""))
    if not found:
        raise InputError(f"{path} holds no named tensors; give a file with those of model.state_dict()")
    kept = module.state_dict(keep_vars=True)
    expected = {name: tensor for name, tensor in kept.items() if isinstance(tensor, Tensor)}
    fit, notes = _best(path, expected, found, weights)
    filled = {name for name, source in fit.sources.items() if _same_shape(expected[name], fit.held[source])}
    reshaped = [
        f"{name} is {tuple(expected[name].shape)} and in the file {tuple(fit.held[source].shape)}"
        for name, source in fit.sources.items()
        if name not in filled
    ]
    if reshaped:
        notes = [*notes, f"{_counted(len(reshaped), 'tensor')} of another shape: {_some(reshaped)}"]
    module.load_state_dict({name: fit.held[fit.sources[name]] for name in expected if name in filled}, strict=False)
    taken = {fit.sources[name] for name in filled}
    tied = {id(expected[name]) for name in filled}  # under another name the same tensor, which is filled with it
    matched = {name: None for name in expected if name in filled or id(expected[name]) in tied}
    return Weights(
        file=path,
        sha256=sha256_of(path),
        matched=tuple(matched),
        missing=tuple(name for name in expected if name not in matched),
        left_over=tuple(name for name in fit.held if name not in taken),
        origin=", ".join(part for part in (fit.key, fit.words) if part),
        notes=tuple(notes),
    )


def sha256_of(path: str) -> str:
    """Hash a file (hex)."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class _Fit:
    """How a set of weights in a file goes into a module.

    Attributes:
        key: under which it lies in the file, "" for the whole.
        held: all tensors under that key, by name.
        sources: the module's name -> the file's name.
        prefix: stripped from the file's names, with its dot.
        put: of the module, put before them.
        size: how many tensors fit in name and shape.
    """

    key: str
    held: Mapping[str, Tensor]
    sources: Mapping[str, str]
    prefix: str = ""
    put: str = ""
    size: int = 0

    @property
    def is_ema(self) -> bool:
        """Whether its place in the file is called an average."""
        return _is_ema(self.key) or _is_ema(self.prefix)

    @property
    def words(self) -> str:
        """What was done to the file's names."""
        parts = [f"without the prefix {self.prefix}"] * bool(self.prefix) + [f"under the prefix {self.put}"] * bool(self.put)
        return ", ".join(parts)


def _best(
    path: str, expected: Mapping[str, Tensor], found: Mapping[str, Mapping[str, Tensor]], weights: str | None
) -> tuple[_Fit, list[str]]:
    """Choose among the sets of weights in a file: those that were asked for, the raw ones, or the ones that fit best."""
    if weights not in (None, "raw", "ema"):
        return _wanted(path, expected, found, str(weights)), []
    fits = [fit for key, held in found.items() for fit in _fitted(key, expected, held)]
    if weights == "ema" and not any(fit.is_ema for fit in fits):  # beside raw ones that fit better, under a prefix
        starts = dict.fromkeys(name.split(".")[0] for held in found.values() for name in held)
        fits += [
            fit
            for start in starts
            if _is_ema(start)
            for key, held in found.items()
            for fit in _under(key, expected, held, start)
        ]
    raw, ema = [fit for fit in fits if not fit.is_ema], [fit for fit in fits if fit.is_ema]
    if fits and not {"raw": raw, "ema": ema, None: fits}[weights]:
        raise UsageError(f"{path} has no {weights} weights that fit; it has: {_listed(fit.key or fit.prefix for fit in fits)}")
    if not fits:
        biggest = max(found.values(), key=len)
        raise InputError(
            f"{path} fits nothing in the model: it has {_counted(len(biggest), 'tensor')} ({_some(list(biggest))}), "
            f"the model {len(expected)} ({_some(list(expected))})"
        )
    chosen = _only(path, ema if weights == "ema" else raw or ema)
    notes = []
    if raw and ema and weights is None:
        other = (ema[0].key or ema[0].prefix).rstrip(".")
        notes = [f"{path} holds EMA weights too ({other}); the raw ones were taken: `weights='ema'` takes those"]
    elif not raw and weights is None:
        notes = [f"{path} holds only EMA weights ({(chosen.key or chosen.prefix).rstrip('.')})"]
    return chosen, notes


def _only(path: str, fits: Sequence[_Fit]) -> _Fit:
    """Take the fit that fills most; of several the one under the most usual key; InputError where that does not tell."""
    most = max(fit.size for fit in fits)
    order = {"": -1} | {name: place for place, name in enumerate(_RAW)}

    def place(fit: _Fit) -> int:
        return order.get(fit.key.rpartition(".")[2], len(order))

    best = sorted((fit for fit in fits if fit.size == most), key=place)
    rivals = [fit for fit in best if place(fit) == place(best[0])]
    if len(rivals) > 1:
        choices = ", ".join(fit.prefix.rstrip(".") or fit.key for fit in rivals)
        raise InputError(
            f"{path} holds {len(rivals)} sets of weights that fit equally well: choose one with `weights=`: {choices}"
        )
    return best[0]


def _wanted(path: str, expected: Mapping[str, Tensor], found: Mapping[str, Mapping[str, Tensor]], weights: str) -> _Fit:
    """Take the weights under a key or a prefix that was asked for."""
    if weights in found:
        fits = _fitted(weights, expected, found[weights])
    else:
        fits = [fit for key, held in found.items() for fit in _under(key, expected, held, weights)]
        starts = dict.fromkeys(name.split(".")[0] for held in found.values() for name in held)
        if not any(f".{weights.rstrip('.')}." in f".{name}" for held in found.values() for name in held):
            raise UsageError(unknown(f"weights in {path} under the prefix", weights, [*filter(None, found), *starts]))
    if not fits:
        raise InputError(f"{path}: the weights under {weights} fit nothing in the model")
    return _only(path, fits)


def _under(key: str, expected: Mapping[str, Tensor], held: Mapping[str, Tensor], prefix: str) -> list[_Fit]:
    """Fit the tensors under a prefix; where no name starts with it, each set that has it further inside by itself."""
    dotted = prefix.rstrip(".") + "."
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in held.items():
        place = f".{name}".find(f".{dotted}")
        if place >= 0:
            groups.setdefault(name[:place] + dotted, {})[name[place + len(dotted) :]] = tensor
    if dotted in groups:
        groups = {dotted: groups[dotted]}
    return [
        replace(
            fit,
            held=held,
            sources={target: front + source for target, source in fit.sources.items()},
            prefix=front + fit.prefix,
        )
        for front, inside in groups.items()
        for fit in _fitted(key, expected, inside)
    ]


def _is_ema(name: str) -> bool:
    return any(part in _EMA or part.endswith("_ema") for part in name.rstrip(".").split("."))


def _state_dicts(held: Any, key: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Walk through containers; each mapping or module that holds named tensors is a state dict, under its dotted key."""
    if isinstance(held, nn.Module):
        yield key, dict(held.state_dict())
        return
    if not isinstance(held, Mapping) or depth > 3:
        return
    tensors = {name: value for name, value in held.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield key, tensors
    for name, value in held.items():
        # An optimiser's state holds tensors by number, and buffers by name: neither is a network's.
        if isinstance(name, str) and "optim" not in name and "scheduler" not in name:
            yield from _state_dicts(value, f"{key}.{name}" if key else name, depth + 1)


def _fitted(key: str, expected: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[_Fit]:
    """Match the names of a file with those of a module, in the ways in which most tensors fit in name and shape.

    Names are compared as they are; without what torch.compile and DataParallel put before them; without it anywhere; and
    without dots. Each time a prefix may be stripped from all of the file's names, or one of the module's be put before them:
    several fits are several prefixes under which as many tensors fit.
    """
    best: list[_Fit] = []
    for plain in (str, _unwrapped, _bare, _dotless):
        fits = _fitted_as(key, expected, held, plain)
        if fits and (not best or fits[0].size > best[0].size):
            best = fits
    return best


def _fitted_as(key: str, expected: Mapping[str, Tensor], held: Mapping[str, Tensor], plain: Callable[[str], str]) -> list[_Fit]:
    targets = {plain(name): name for name in reversed(list(expected))}
    # Of two names that become one, that which was so already is meant.
    sources = {plain(name): name for name in sorted(held, key=lambda name: plain(name) == name)}
    votes: Counter[tuple[str, str]] = Counter()  # (prefix of the file, prefix of the module) -> tensors that fit
    for name, source in sources.items():
        for front, rest in _tails(name):
            if rest in targets and _same_shape(expected[targets[rest]], held[source]):
                votes[front, ""] += 1
    for name, target in targets.items():
        for front, rest in _tails(name):
            if front and rest in sources and _same_shape(expected[target], held[sources[rest]]):
                votes["", front] += 1
    most = max(votes.values(), default=0)
    ways = [way for way, count in votes.items() if count == most]
    if ("", "") in ways:
        ways = [("", "")]
    elif any(not put for _, put in ways):
        ways = [(stripped, put) for stripped, put in ways if not put]
    else:
        ways = [min(ways, key=lambda way: len(way[1]))] if ways else []
    fits = []
    for stripped, put in ways:
        filling = {
            targets[target]: source
            for name, source in sources.items()
            if name.startswith(stripped) and (target := put + name.removeprefix(stripped)) in targets
        }
        ordered = {name: filling[name] for name in expected if name in filling}
        fits.append(_Fit(key, held, ordered, stripped, put, most))
    return fits


def _unwrapped(name: str) -> str:
    """Take out what torch.compile put into a name, and DataParallel before it."""
    parts = [part for part in name.split(".") if part != _COMPILED]
    while len(parts) > 1 and parts[0] == _PARALLEL:
        parts = parts[1:]
    return ".".join(parts)


def _bare(name: str) -> str:
    """Take out what either put anywhere: parts of a model may be wrapped by themselves."""
    return ".".join(part for part in name.split(".") if part not in (_COMPILED, _PARALLEL))


def _dotless(name: str) -> str:
    """Take out all dots, as diffusion models' averages of weights have their names."""
    return _bare(name).replace(".", "")


def _tails(name: str) -> Iterator[tuple[str, str]]:
    """Cut a dotted name in two at each dot, and before its beginning: "a.b" -> ("", "a.b"), ("a.", "b")."""
    yield "", name
    start = name.find(".")
    while start >= 0:
        yield name[: start + 1], name[start + 1 :]
        start = name.find(".", start + 1)


def _same_shape(expected: Tensor, held: Tensor) -> bool:
    return is_lazy(expected) or expected.shape == held.shape


def _read(path: Path, unsafe_pickle: bool) -> Any:
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{path} cannot be read as a checkpoint: it is cut short, or no .safetensors file ({_first_line(error)})"
            ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on what kind of file this is; it is refused or read all the same
        try:
            if is_torchscript(path):
                return torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
            with torch.serialization.safe_globals(list(_PLAIN)):
                return _plain(path, torch.load(path, map_location="cpu", weights_only=not unsafe_pickle))
        except InputError:
            raise
        except Exception as error:  # unpickling a stranger's bytes may raise anything
            if unsafe_pickle:
                raise InputError(
                    f"{path} cannot be read as a checkpoint ({type(error).__name__}: {_first_line(error)})"
                ) from error
            wanted = _unsafe_names(path)
            if wanted:
                raise InputError(
                    f"{path} holds more than tensors: reading it would run {_some(wanted, 5)}; if you trust its author, pass "
                    "`unsafe_pickle=True`, else ask for model.state_dict() as .safetensors"
                ) from error
            raise InputError(
                f"{path} cannot be read as a checkpoint: it is cut short, or neither .safetensors nor saved by torch "
                f"({type(error).__name__})"
            ) from error


def _plain(path: Path, held: Any) -> Any:
    """Give what was read, unless it holds tensors that a module cannot be filled from."""
    for key, tensors in _state_dicts(held, ""):
        odd = [name for name, tensor in tensors.items() if tensor.layout != torch.strided]
        if odd:
            raise InputError(f"{path} holds sparse tensors ({_some([f'{key}.{name}' if key else name for name in odd])})")
    return held


def _unsafe_names(path: Path) -> list[str]:
    """Name what the pickle in a file asks for beside tensors, without running any of it."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a file of the format before zip, or none at all: the names are read off the opcodes below
        return sorted(_globals(path))


def _globals(path: Path) -> set[str]:
    """Read the names that a pickle imports off its opcodes."""
    import pickletools

    data = path.read_bytes()
    if zipfile.is_zipfile(io.BytesIO(data)):
        return set()
    names: set[str] = set()
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                names.add(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
                names.add(".".join(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
    except ValueError:
        pass  # no pickle, or one that is cut short
    return {name for name in names if not name.startswith(("torch.", "torch._utils", "collections.OrderedDict"))}


def _listed(found: Iterable[str]) -> str:
    return ", ".join(key or "bare tensors" for key in found)


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
