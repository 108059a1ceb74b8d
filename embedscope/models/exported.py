"""Programs of torch.export: `program.pt2`, written by torch.export.save."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from embedscope.errors import InputError, explained
from embedscope.models._archive import clean_archive
from embedscope.models._graph import UnsafeProgramError
from embedscope.models._opening import quiet, sole_input
from embedscope.models.encoder import Encoder, Weights
from embedscope.models.preparation import Pixels
from embedscope.plugins import recognises
from embedscope.store.limits import check_not_empty

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.export import ExportedProgram

# Operators that know whether they train -> where: the place of the argument. batch_norm without running statistics (argument 3)
# is how weights are standardized, and no sign of training.
_TRAINS = {"aten.dropout.default": 2, "aten.batch_norm.default": 5}


@recognises(lambda path: path.suffix.lower() == ".pt2")
def exported(location: str, /, *, unsafe_pickle: bool = False) -> Encoder:
    """Open a torch.export program, with its original modules and layer names.

    The file says nothing of preprocessing: images become float32 in [0, 1], --size, --mean and --std change that. A program
    with a batch size of its own keeps it, one that makes tensors on a device of its own (torch.zeros in a forward) stays there.

    Args:
        location: path of the file.
        unsafe_pickle: read pickled objects, compiled libraries and operators of any kind too, which may run any code.

    Raises:
        InputError: the file is not there, is not an exported program, holds more than torch.export.save writes for an
            ordinary network, takes other than one tensor, or was exported while it trained.
    """
    if not Path(location).is_file():
        raise InputError(f"no such file: {location}")
    check_not_empty(location)
    with (
        quiet("torch.export"),  # it logs the traceback of what it then raises without
        explained(f"{location} cannot be read as an exported program", "expected a .pt2 file written by torch.export.save"),
    ):
        program = _loaded(location, unsafe_pickle)
        module = torch.export.unflatten(program)
    wanted = _inputs(program)
    shape = wanted[sole_input(location, list(wanted))].shape
    training = sorted({str(node.target).split(".")[1] for node in program.graph.nodes if _trains(node)})
    if training:
        raise InputError(
            f"{location} was exported in training mode ({', '.join(training)}), so its features would be random or depend "
            f"on the batch; call model.eval() before torch.export.export"
        )
    pinned = sorted({torch.device(node.kwargs["device"]).type for node in program.graph.nodes if node.kwargs.get("device")})
    return Encoder(
        module=module.eval(),
        prepare=Pixels(),
        spec=location,
        weights=Weights(matched=tuple(module.state_dict()), origin="the exported program's own"),
        embedding=_embedding(program),
        batch_size=shape[0] if shape and isinstance(shape[0], int) else None,
        device=pinned[0] if pinned else None,
    )


def _loaded(location: str, unsafe_pickle: bool) -> ExportedProgram:
    """Load a program; InputError if that could run code which lies in the file."""
    if unsafe_pickle:
        return torch.export.load(location)
    try:
        clean = clean_archive(Path(location))
    except UnsafeProgramError as error:
        raise InputError(
            f"{location} {error}, and reading it could run code; export the network again with torch.export.save, or pass "
            "`unsafe_pickle=True` if you trust its author"
        ) from error
    with _tensors_only():
        return torch.export.load(clean)


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Keep torch.load from unpickling anything but tensors and plain containers, whatever its caller asks for.

    torch.export.load reads weights of the older layout that way first, then, if it is refused, any way that works.
    """
    forced, forbidden = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name, None) for name in (forced, forbidden)}
    os.environ[forced] = "1"
    try:
        yield
    finally:
        del os.environ[forced]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _inputs(program: ExportedProgram) -> dict[str, Tensor]:
    """Give the tensors that a program takes, by name, as it was exported with them; a size that may vary is a SymInt."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    return {
        str(name): value for name in program.graph_signature.user_inputs if isinstance(value := values.get(str(name)), Tensor)
    }


def _embedding(program: ExportedProgram) -> str:
    """Name the input of the last nn.Linear that runs, as it is for Python models; the program knows its modules."""
    owners = [
        next(reversed(node.meta["nn_module_stack"].values()))
        for node in program.graph.nodes
        if str(node.target) == "aten.linear.default" and node.meta.get("nn_module_stack")
    ]
    names = [name for name, kind in owners if str(kind).endswith(("modules.linear.Linear", "modules.linear.Linear'>"))]
    return f"{names[-1]}.input" if names and names[-1] else "output"


def _trains(node: Any) -> bool:
    place = _TRAINS.get(str(node.target))
    if place is None or len(node.args) <= place or not node.args[place]:
        return False
    return place == 2 or node.args[3] is not None
