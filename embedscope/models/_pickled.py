"""What torch pickled, read without running any of it: stand-ins for plain values, and the tensors of TorchScript archives."""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from embedscope.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_MOST_TENSORS = 100_000


class Plain:
    """Stands for a value that training code saved beside weights and nobody here needs: what it was made from is dropped."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Mapping:
    """Stands for other kinds of mappings: making one gives a dict, which is filled afterwards."""

    def __new__(cls, *args: Any) -> Any:
        return {}


class _Sequence:
    """Stands for other kinds of lists, likewise."""

    def __new__(cls, *args: Any) -> Any:
        return list(args[0]) if args and isinstance(args[0], list | tuple) else []


# Kinds of plain values in checkpoints, by the names under which some version of Python or numpy pickles them.
_NUMPY = ("scalar", "_reconstruct")
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_DTYPES = ("Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float16", "Float32", "Float64")
_STAND_INS: tuple[tuple[Any, str], ...] = (
    *((Plain, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for name in _NUMPY),
    *((Plain, f"numpy.{name}") for name in ("ndarray", "dtype", "bool_", "float64", "float32", "int64", "int32", "str_")),
    *((Plain, f"numpy.dtypes.{name}DType") for name in (*_DTYPES, "Complex64", "Complex128", "Str", "Object")),
    (Plain, "numpy._core.numeric._frombuffer"),
    (Plain, "numpy.core.numeric._frombuffer"),
    *((Plain, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *((Plain, f"datetime.{name}") for name in ("datetime", "date", "time", "timedelta", "timezone")),
    (Plain, "zoneinfo.ZoneInfo._unpickle"),
    (Plain, "decimal.Decimal"),
    (Plain, "uuid.UUID"),
    (Plain, "argparse.Namespace"),
    (Plain, "types.SimpleNamespace"),
    (Plain, "torch.torch_version.TorchVersion"),
    *((Plain, f"builtins.{name}") for name in ("int", "float", "str", "bool", "bytes", "frozenset", "range", "slice")),
    (_Mapping, "builtins.dict"),
    (_Mapping, "collections.defaultdict"),
    (_Mapping, "lightning.fabric.utilities.data.AttributeDict"),
    (_Mapping, "lightning_fabric.utilities.data.AttributeDict"),
    (_Mapping, "pytorch_lightning.utilities.parsing.AttributeDict"),
    (_Sequence, "builtins.list"),
    (_Sequence, "builtins.tuple"),
    (_Sequence, "collections.deque"),
)


@contextmanager
def plain_values() -> Iterator[None]:
    """Let torch.load(weights_only=True) read plain values that training code saves beside weights, as stand-ins."""
    with torch.serialization.safe_globals(list(_STAND_INS)):
        yield


def unsafe_names(path: Path) -> list[str]:
    """Name what the pickle in a file asks for beside tensors and plain values, without running any of it."""
    try:
        found = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a file of the format before zip, or of another protocol: the names are read off the opcodes
        found = _globals(path)
    return sorted(found - {name for _, name in _STAND_INS})


def _globals(path: Path) -> set[str]:
    """Read the names that a pickle imports off its opcodes."""
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
        pass  # not a pickle, or one that is truncated
    return {name for name in names if not name.startswith(("torch.", "torch._utils", "collections.OrderedDict"))}


def holds_code(path: Path) -> bool:
    """Tell a TorchScript archive from a checkpoint: it holds code beside its tensors."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        return False
    return "constants.pkl" in parts and any(part.startswith("code/") for part in parts)


def scripted_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a TorchScript archive by name, as state_dict() has them, and run none of its code.

    InputError for modules whose state only their own code can read, and for quantized tensors; whatever unpickling raises for
    a file that is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist() if member.filename.endswith("data.pkl")) > path.stat().st_size:
            raise InputError(f"{path} is compressed, which TorchScript archives are not")
        root = _Reader(archive, archive.namelist()[0].partition("/")[0]).load()
    tensors: dict[str, Tensor] = {}
    left = [("", root, 0)]
    while left:
        prefix, held, depth = left.pop()
        if isinstance(held, Tensor):
            tensors[prefix] = held
        elif isinstance(held, _Module):
            if not isinstance(held.state, dict):
                raise InputError(
                    f"{path} holds a TorchScript module that is loaded by code of its own ({prefix or 'the whole'}: "
                    f"{type(held).__name__}); if you trust its author, pass `unsafe_pickle=True`, "
                    "else ask for model.state_dict()"
                )
            left += [(f"{prefix}.{name}" if prefix else str(name), inner, depth + 1) for name, inner in held.state.items()]
        if len(left) + len(tensors) > _MOST_TENSORS or depth > 200:
            raise InputError(f"{path} holds more than {_MOST_TENSORS:,} tensors, or modules in modules without end")
    return dict(sorted(tensors.items()))


class _Module:
    """Any object of a TorchScript archive: its state is kept, and nothing of it runs."""

    def __init__(self, *args: Any) -> None:
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Call:
    """A function that an archive may call. Made for each use, so that nothing in a file can change it for others."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


class _Reader(pickle._Unpickler):
    """Unpickles the modules of a TorchScript archive into `_Module`s and tensors.

    The unpickler in C allots as much memory as a file asks for; the one in Python does not.
    """

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self._archive, self._folder = archive, folder
        self._flat: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _Call(_tensor)
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _Call(lambda data, *_: data)
        if module == "torch._utils" and "qtensor" in name:
            raise InputError(f"{self._archive.filename} holds quantized tensors; give the weights as floating-point numbers")
        if module == "torch.jit._pickle":
            return _Call(lambda value, *_: value)
        if (module, name) == ("collections", "OrderedDict"):
            return _Call(lambda *_: {})
        return type(name, (_Module,), {})

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        if key not in self._flat:
            member = self._archive.getinfo(f"{self._folder}/data/{key}")
            if member.file_size != count * dtype.itemsize or member.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError(f"storage {key} is not of the size that the file says")
            data = bytearray(self._archive.read(member))
            self._flat[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._flat[key]


def _tensor(flat: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return torch.as_strided(flat, size, stride, offset)
