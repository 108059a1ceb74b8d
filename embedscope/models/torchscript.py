"""TorchScript programs: `scripted.pt`, written by torch.jit.save."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from embedscope.errors import InputError, explained
from embedscope.models._opening import sole_input
from embedscope.models._pickled import holds_code
from embedscope.models.encoder import Encoder, Weights
from embedscope.models.preparation import Pixels
from embedscope.plugins import recognises
from embedscope.store.limits import check_not_empty

_SUFFIXES = (".pt", ".pth", ".ts", ".torchscript", ".jit")


def is_torchscript(path: Path) -> bool:
    """Tell a TorchScript archive from a checkpoint of the same suffix: it holds code beside its tensors."""
    return path.suffix.lower() in _SUFFIXES and holds_code(path)


@recognises(is_torchscript)
def torchscript(location: str, /, *, unsafe_pickle: bool = False) -> Encoder:
    """Open a traced or scripted TorchScript program on the CPU.

    TorchScript takes no hooks, so the output is all there is to measure, and the file says nothing of preprocessing: images
    become float32 in [0, 1], --size, --mean and --std change that.

    Args:
        location: path of the file.
        unsafe_pickle: must be True, because a program runs code of its own while it is loaded and can write any file.

    Raises:
        InputError: the file is not there, is not a TorchScript archive, takes other than one input, or nobody vouched for it.
    """
    if not Path(location).is_file():
        raise InputError(f"no such file: {location}")
    check_not_empty(location)
    advice = (
        "expected a file written by torch.jit.save; give the Python model and the file as `checkpoint=` if it holds weights"
    )
    if not holds_code(Path(location)):
        raise InputError(f"{location} cannot be read as TorchScript (it is truncated or contains no code); {advice}")
    if not unsafe_pickle:
        raise InputError(
            f"{location} is a TorchScript program, which can run code and write files while it is loaded; pass "
            "`unsafe_pickle=True` if you trust its author, or give the Python model and this file as `checkpoint=`, from "
            "which only the tensors are read"
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
            "TorchScript does not support hooks, so only the output can be read; for other layers, give the Python model "
            "and pass this file as `checkpoint=`"
        ),
    )
