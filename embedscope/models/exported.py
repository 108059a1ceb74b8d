"""Programs of torch.export: `program.pt2`, written by torch.export.save."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from embedscope.errors import InputError, explained
from embedscope.models._opening import quiet, sole_input
from embedscope.models.encoder import Encoder, Weights
from embedscope.models.preparation import Pixels
from embedscope.plugins import recognises

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.export import ExportedProgram

# Operators that know whether they train -> where: the place of the argument. batch_norm without running statistics (argument 3)
# is how weights are standardised, and no sign of training.
_TRAINS = {"aten.dropout.default": 2, "aten.batch_norm.default": 5}


# Of what a size may be made: symbols such as s0, numbers, operators, and these functions.
_ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Call, ast.keyword, ast.Load),
    *(ast.operator, ast.unaryop, ast.cmpop, ast.boolop),
)
_FUNCTIONS = frozenset(
    (
        *("Symbol", "Integer", "Float", "Rational", "Abs", "Pow", "Add", "Mul", "Max", "Min", "Mod", "PythonMod", "sqrt"),
        *("FloorDiv", "CleanDiv", "CeilDiv", "IntTrueDiv", "ModularIndexing", "floor", "ceiling", "ToFloat"),
        *(
            "TruncToInt",
            "FloorToInt",
            "CeilToInt",
            "RoundToInt",
            "Eq",
            "Ne",
            "Lt",
            "Le",
            "Gt",
            "Ge",
            "And",
            "Or",
            "Not",
            "Where",
        ),
        *("Equality", "Unequality", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan"),
        *("FloatPow", "PowByNatural", "FloatTrueDiv", "LShift", "RShift"),
    )
)
_FUNCTION = re.compile("|".join([*sorted(_FUNCTIONS), r"OpaqueUnaryFn_\w+"]))
_TEXT = re.compile(r"[A-Za-z]\w*|[-+]?[0-9.]+(e[-+]?[0-9]+)?")
_SYMBOL = re.compile(r"[a-z]+\d*(_\d+)?|True|False")


@recognises(lambda path: path.suffix.lower() == ".pt2")
def exported(location: str, /) -> Encoder:
    """Open a program of torch.export, with the modules and layer names that it was exported from.

    The file says nothing of preprocessing: images become float32 in [0, 1], --size, --mean and --std change that. A program
    with a batch size of its own keeps it, one that makes tensors on a device of its own (torch.zeros in a forward) stays there.

    InputError if the file is not there, is no exported program, takes other than one tensor, or was exported while it trained.
    """
    if not Path(location).is_file():
        raise InputError(f"no such file: {location}")
    with (
        quiet("torch.export"),  # it logs the traceback of what it then raises without
        explained(f"{location} cannot be read as an exported program", "expected a .pt2 file written by torch.export.save"),
    ):
        program = _loaded(location)
        module = torch.export.unflatten(program)
    wanted = _inputs(program)
    shape = wanted[sole_input(location, list(wanted))].shape
    training = sorted({str(node.target).split(".")[1] for node in program.graph.nodes if _trains(node)})
    if training:
        raise InputError(
            f"{location} was exported while it trained ({', '.join(training)}), so its features would depend on chance or on "
            "the batch; call model.eval() before torch.export.export"
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


def _loaded(location: str) -> ExportedProgram:
    """Load a program; InputError if that would run code which lies in the file."""
    _check_expressions(location)
    with _tensors_only():
        try:
            return torch.export.load(location)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{location} holds more than tensors, and reading it could run any code; export the model again, with tensors "
                "alone as example inputs"
            ) from error


def _check_expressions(location: str) -> None:
    """Raise InputError for a size that is written as anything but arithmetic: torch evaluates these texts as Python."""
    with zipfile.ZipFile(location) as archive:
        names = [member.lower() for member in archive.namelist()]
        if len(set(names)) < len(names):  # torch finds a part whatever the case of its name, and might find another one
            raise InputError(f"{location} holds two parts of one name; export the model again")
        for member in archive.namelist():
            if member.lower().endswith(".json"):
                for expression in _expressions(json.loads(archive.read(member))):
                    if not _is_arithmetic(expression):
                        raise InputError(
                            f"{location} holds a size that is no arithmetic, '{expression[:60]}', and reading it would run "
                            "that as code; export the model again"
                        )


def _expressions(value: Any) -> Iterator[str]:
    """Give all texts called expr_str in what a JSON file holds."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "expr_str":
                yield str(inner)
            else:
                yield from _expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _expressions(inner)


def _is_arithmetic(expression: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return all(
        isinstance(node, _ARITHMETIC)
        or (isinstance(node, ast.Constant) and (not isinstance(node.value, str) or bool(_TEXT.fullmatch(node.value))))
        or (
            isinstance(node, ast.Name)
            and (bool(_FUNCTION.fullmatch(node.id)) if id(node) in called else bool(_SYMBOL.fullmatch(node.id)))
        )
        for node in nodes
    )


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Keep torch.load from unpickling anything but tensors and plain containers, whatever its caller asks for.

    torch.export.load takes example inputs and constants first that way, then, where it is refused, any way that works.
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
