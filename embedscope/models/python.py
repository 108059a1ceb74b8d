"""Models from Python code: `path/to/file.py:Factory` or `package.module:Factory`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from embedscope.errors import InputError, explained, unknown
from embedscope.models._reading import sha256_of
from embedscope.models.encoder import Encoder
from embedscope.models.preparation import Pixels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def python(location: str, /, *args: Any, **options: Any) -> Encoder:
    """Import `file.py:Factory` or `package.module:Factory` and call the factory.

    It is called with the arguments and options given.

    A factory is a class or a function that returns an `nn.Module`. Until it has, the file's own folder (for a package, the
    current one) is where it imports its neighbors from.

    InputError if the code, the factory or the module is not there, or raises.
    """
    source, _, factory = location.rpartition(":")
    file = Path(source) if source.endswith(".py") else None
    if not source or not factory:
        raise InputError(f"cannot read the model '{location}'; give path/to/file.py:Factory or package.module:Factory")
    if file is not None and not file.is_file():
        raise InputError(f"no such file: {file}")
    with _importing_from(file.resolve().parent if file else Path.cwd()):
        with explained(f"{source} cannot be imported"):
            module = _import_file(file) if file else importlib.import_module(source)
        if not hasattr(module, factory):
            public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            raise InputError(unknown("factory", factory, public, place=source))
        typed = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in options.items())])
        with explained(f"{location}({typed}) cannot be called"):
            model = getattr(module, factory)(*args, **options)
    if not isinstance(model, nn.Module):
        raise InputError(f"{location} returned {type(model).__name__}, expected a torch.nn.Module")
    return Encoder(module=model.eval(), prepare=Pixels(), spec=location, code_sha256=_code_of(model))


def _code_of(model: nn.Module) -> str | None:
    """Hash the file that a model's class is from; None for torch's own, and for code without a file."""
    module = sys.modules.get(type(model).__module__)
    file = getattr(module, "__file__", None)
    if type(model).__module__.startswith("torch.") or file is None or not Path(file).is_file():
        return None
    return sha256_of(file)


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported as Python code")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name, so it must be known before it runs; a module of that name comes back after.
    previous = sys.modules.get(path.stem)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    finally:
        if previous is not None:
            sys.modules[path.stem] = previous
    return module
