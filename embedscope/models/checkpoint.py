"""Weights from a file into a module: safely, whatever they are wrapped in, and never in part without a word."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from embedscope.errors import InputError, UsageError, unknown
from embedscope.records import Weights

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
        unsafe_pickle: read pickled objects other than tensors and plain containers, which may run any code they bring.

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
    key, held, notes = _chosen(path, _read(file, unsafe_pickle), weights)
    expected = module.state_dict()
    prefixes = None if weights in (None, "raw", "ema") or key == weights else weights
    filling, prefix = _fitted(path, expected, held, prefixes)
    matched = tuple(name for name, source in filling.items() if _same_shape(expected[name], held[source]))
    reshaped = [
        f"{name} is {tuple(expected[name].shape)} and in the file {tuple(held[source].shape)}"
        for name, source in filling.items()
        if name not in set(matched)
    ]
    if reshaped:
        notes = [*notes, f"{_counted(len(reshaped), 'tensor')} of another shape: {_some(reshaped)}"]
    module.load_state_dict({name: held[filling[name]] for name in matched}, strict=False)
    kept = {filling[name] for name in matched}
    return Weights(
        file=path,
        sha256=sha256_of(path),
        matched=matched,
        missing=tuple(name for name in expected if name not in set(matched)),
        left_over=tuple(name for name in held if name not in kept),
        origin=", ".join(part for part in (key, prefix) if part),
        notes=tuple(notes),
    )


def sha256_of(path: str) -> str:
    """Hash a file (hex)."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _chosen(path: str, held: Any, weights: str | None) -> tuple[str, dict[str, Tensor], list[str]]:
    """Find the tensors in what a file holds: the key they lay under, the tensors by name, and what to tell of the choice."""
    found = dict(_state_dicts(held, ""))
    if not found:
        raise InputError(f"{path} holds no named tensors, but {_described(held)}; save model.state_dict()")
    ema = [key for key in found if key.rpartition(".")[2] in _EMA or key.partition(".")[0] in _EMA]
    raw = [key for key in found if key not in ema]
    if weights == "ema" or (weights == "raw" and not raw):
        wanted = ema if weights == "ema" else raw
        if not wanted:
            raise UsageError(f"{path} has no {weights} weights; it has: {_listed(found)}")
        return wanted[0], found[wanted[0]], []
    if weights is not None and weights != "raw" and weights in found:
        return weights, found[weights], []
    order = {name: place for place, name in enumerate(_RAW)}
    best = min(raw or ema, key=lambda key: (order.get(key.rpartition(".")[2], -1 if not key else len(order)), -len(found[key])))
    notes = []
    if raw and ema and weights is None:
        notes = [
            f"{path} holds EMA weights too ({ema[0]}); the raw ones ({best or 'bare'}) were taken: --weights ema takes those"
        ]
    elif not raw:
        notes = [f"{path} holds only EMA weights ({best})"]
    return best, found[best], notes


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


def _fitted(
    path: str, expected: Mapping[str, Tensor], held: Mapping[str, Tensor], wanted: str | None
) -> tuple[dict[str, str], str]:
    """Match names: the module's name -> the file's name, and what was done to the file's names, in words.

    A prefix is stripped from all of the file's names, or one of the module's is put before them. Each way of doing so that lets
    at least one name match is tried; the one that fits most tensors in name and shape is taken.
    """
    plain = {source: _unwrapped(source) for source in held}
    if wanted is not None:
        dotted = wanted.rstrip(".") + "."
        if not any(name.startswith(dotted) for name in [*plain, *plain.values()]):
            starts = dict.fromkeys(name.split(".")[0] for name in plain.values())
            raise UsageError(unknown(f"weights in {path} under the prefix", wanted, starts))
        plain = {
            source: name.removeprefix(dotted)
            for source, name in plain.items()
            if name.startswith(dotted) or source.startswith(dotted)
        }
    by_name = dict(expected)
    votes: Counter[tuple[str, str]] = (
        Counter()
    )  # (prefix of the file, prefix of the module) -> tensors that fit in name and shape
    for source, name in plain.items():
        for front, rest in _tails(name):
            if rest in by_name and _same_shape(by_name[rest], held[source]):
                votes[front, ""] += 1
    names = set(plain.values())
    source_of = {name: source for source, name in plain.items()}
    for name, tensor in by_name.items():
        for front, rest in _tails(name):
            if front and rest in names and _same_shape(tensor, held[source_of[rest]]):
                votes["", front] += 1
    if not votes:
        raise InputError(
            f"{path} fits nothing in the model: it has {_counted(len(held), 'tensor')} ({_some(list(held))}), "
            f"the model {len(expected)} ({_some(list(expected))})"
        )
    (stripped, put), most = max(votes.items(), key=lambda vote: (vote[1], -len(vote[0][0]) - len(vote[0][1])))
    rivals = [front for (front, added), count in votes.items() if count == most and front != stripped and not added and not put]
    if rivals and stripped:
        choices = ", ".join(front.rstrip(".") for front in [stripped, *rivals])
        raise InputError(
            f"{path} holds {len(rivals) + 1} sets of weights that fit equally well: choose one with --weights: {choices}"
        )
    filling = {}
    for source, name in plain.items():
        if name.startswith(stripped):
            target = put + name.removeprefix(stripped)
            if target in by_name:
                filling[target] = source
    words = [f"without the prefix {stripped}"] * bool(stripped) + [f"under the prefix {put}"] * bool(put)
    return {name: filling[name] for name in expected if name in filling}, ", ".join(words)


def _unwrapped(name: str) -> str:
    """Take out what torch.compile and DataParallel put into a name."""
    parts = [part for part in name.split(".") if part != _COMPILED]
    while len(parts) > 1 and parts[0] == _PARALLEL:
        parts = parts[1:]
    return ".".join(parts)


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
                    "--unsafe-pickle, else ask for model.state_dict() as .safetensors"
                ) from error
            raise InputError(
                f"{path} cannot be read as a checkpoint: it is cut short, or neither .safetensors nor saved by torch "
                f"({type(error).__name__})"
            ) from error


def _plain(path: Path, held: Any) -> Any:
    """Give tensors that a state dict can be loaded from; TorchScript programs give their parameters."""
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


def _described(held: Any) -> str:
    if isinstance(held, Mapping):
        return f"a mapping of {_some([str(key) for key in held]) or 'nothing'}"
    return f"a {type(held).__name__}"


def _listed(found: Iterable[str]) -> str:
    return ", ".join(key or "bare tensors" for key in found)


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
