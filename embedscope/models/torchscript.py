"""TorchScript programs: `scripted.pt`, written by torch.jit.save."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch

from embedscope.errors import InputError, explained
from embedscope.models._opening import sole_input
from embedscope.models.encoder import Encoder, Weights
from embedscope.models.preparation import Pixels
from embedscope.plugins import recognises

_SUFFIXES = (".pt", ".pth", ".ts", ".torchscript", ".jit")


def is_torchscript(path: Path) -> bool:
    """Tell a TorchScript archive from a checkpoint: it holds code beside its tensors."""
    if path.suffix.lower() not in _SUFFIXES or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        return False
    return "constants.pkl" in parts and any(part.startswith("code/") for part in parts)


@recognises(is_torchscript)
def torchscript(location: str, /) -> Encoder:
    """Open a TorchScript program, traced or scripted, on the CPU.

    TorchScript takes no hooks, so the output is all there is to measure, and the file says nothing of preprocessing: images
    become float32 in [0, 1], --size, --mean and --std change that.

    InputError if the file is not there, is no TorchScript archive, or takes other than one input.
    """
    if not Path(location).is_file():
        raise InputError(f"no such file: {location}")
    advice = (
        "expected a file written by torch.jit.save; give the Python model and the file as `checkpoint=` if it holds weights"
    )
    with warnings.catch_warnings(), explained(f"{location} cannot be read as TorchScript", advice):
        warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)  # since 2.10; what it advises is for authors
        module = torch.jit.load(location, map_location="cpu")  # type: ignore[no-untyped-call]
    arguments = module.forward.schema.arguments[1:]  # the first is self
    sole_input(location, [argument.name for argument in arguments if not argument.has_default_value()])
    return Encoder(
        module=module.eval(),
        prepare=Pixels(),
        spec=location,
        weights=Weights(matched=tuple(module.state_dict()), origin="the TorchScript program's own"),
        embedding="output",
        outputs_only=(
            "TorchScript takes no hooks, so only its output can be measured; give the Python model, and this file as "
            "`checkpoint=`, for other layers"
        ),
    )
