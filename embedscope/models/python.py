"""Models from Python code: `path/to/file.py:Factory` or `package.module:Factory`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from embedscope.errors import InputError, unknown

if TYPE_CHECKING:
    from types import ModuleType


def python(location: str, **options: Any) -> nn.Module:
    """Import `file.py:Factory` or `package.module:Factory` and call the factory with the options.

    A factory is a class or a function that returns an `nn.Module`. The file's own folder is where it imports its neighbours
    from. InputError if the code, the factory or the module is not there, or the factory does not take the options.
    """
    source, _, factory = location.rpartition(":")
    module = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    if not hasattr(module, factory):
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise InputError(unknown(f"factory in {source}", factory, public))
    try:
        model = getattr(module, factory)(**options)
    except TypeError as error:
        raise InputError(f"{location} cannot be called with {options or 'no options'}: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{location} gave {type(model).__name__}, expected a torch.nn.Module")
    return model


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported as Python code")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise InputError(f"{path} cannot be imported: {error}") from error
    finally:
        sys.path.remove(folder)
    return module


def _import_module(name: str) -> ModuleType:
    # The folder that the command is run in, as `python -m` has it.
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"cannot import {name}: {error}") from error
    finally:
        sys.path.remove(here)
