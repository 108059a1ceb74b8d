"""What the serialized graph of a `.pt2` program may hold, checked before torch reads any of it.

torch evaluates parts of this JSON as Python: sizes through sympy, names through the code that torch.fx generates, the structure
of inputs by importing what it names, and operators by looking them up. So every text is checked by where it stands, and what no
reader here needs (stack traces, guards, metadata) is left out.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from typing import Any

import torch

# Operators outside of torch.ops that sizes are computed with.
_SIZES = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\._?sym_[a-z]+"
)
_CONTROL = re.compile(
    r"torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond|while_loop|scan|map_impl|associative_scan"
    r"|invoke_subgraph)"
)
_OPERATOR = re.compile(
    r"torch\.ops\.(?:(aten|prims|quantized_decomposed)\.(\w+)|(torchvision)\.(nms|roi_align|roi_pool|ps_roi_align|ps_roi_pool"
    r"|deform_conv2d))\.(\w+)"
)
# Operators of torch that map files, print, or take indices that nobody checks.
_REFUSED = re.compile(r"from_file|save|_print|_test_\w*|_sparse_\w*_tensor_unsafe")

# Of what a size may be made: symbols such as s0, numbers, operators, and these functions.
_ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Call, ast.keyword, ast.Load),
    *(ast.operator, ast.unaryop, ast.cmpop, ast.boolop),
)
_POWERS = frozenset(("Pow", "PowByNatural", "FloatPow"))
_FUNCTION = re.compile(
    r"Symbol|Integer|Float|Rational|Abs|Add|Mul|Max|Min|Mod|PythonMod|sqrt|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv|FloatTrueDiv"
    r"|ModularIndexing|floor|ceiling|ToFloat|TruncToInt|FloorToInt|CeilToInt|RoundToInt|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Where"
    r"|Equality|Unequality|GreaterThan|LessThan|StrictGreaterThan|StrictLessThan|LShift|RShift|Pow|PowByNatural|FloatPow"
    r"|OpaqueUnaryFn_\w+"
)
_TEXT = re.compile(r"[A-Za-z]\w{0,40}|[-+]?[0-9.]{1,40}(e[-+]?[0-9]{1,3})?")
_SYMBOL = re.compile(r"[a-z]+\d{0,6}(_\d{1,6})?|True|False")
_CHARACTERS = re.compile(r"[\w +\-*/%<>=!&|~^().,']*", re.ASCII)  # without comments and lines, which sympy joins
_LONGEST_SIZE = 20_000
_SYMBOL_BITS = 20
_MOST_BITS = 4096  # of a number that a size may come to while it is read

# Texts by the key under which they stand. Any other one is a name of the graph: it becomes a variable of generated code.
_NAME = re.compile(r"-?\w*(\.\w+)*")
_PATHS = dict.fromkeys(("fqn", "parameter_name", "buffer_name", "tensor_constant_name"), re.compile(r"[\w.\-/:@ ]*"))
_TEXTS = {
    **_PATHS,
    "torch_version": re.compile(r"[\w.+<=\-]*"),
    "as_string": re.compile(r"(?s:.*)"),  # an argument of an operator, which generated code quotes
    "as_strings": re.compile(r"(?s:.*)"),
    "nn_module_stack": re.compile(r"[\w.@\[\]'<>,;()\-/:$ ]*"),
}


class UnsafeProgramError(Exception):
    """A program that holds more than torch.export.save writes for an ordinary network; the text says what, after its name."""


def cleaned(value: Any, key: str = "") -> Any:
    """Give the parsed JSON of a program without what is not needed; UnsafeProgramError for what could run as code.

    Args:
        value: a dict, list, text, number, bool or None of the JSON.
        key: under which it stands.
    """
    if isinstance(value, dict):
        return {name: _entry(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [cleaned(inner, key) for inner in value]
    if isinstance(value, str):
        _check_text(key, value)
    return value


def _entry(key: str, value: Any) -> Any:
    _check_text("fqn", key)
    if key == "guards_code":
        return []
    if key == "metadata":
        return cleaned({"nn_module_stack": value["nn_module_stack"]} if value and value.get("nn_module_stack") else {})
    if key == "range_constraints":
        for symbol in value or ():
            if not _SYMBOL.fullmatch(str(symbol)):  # torch counts up to the number in it
                raise UnsafeProgramError(f"names a size '{symbol[:60]}'")
    if (key in ("custom_obj", "as_custom_obj") or key == "custom_obj_values") and value:
        raise UnsafeProgramError("holds pickled objects as constants")
    return cleaned(value, key)


def _check_text(key: str, text: str) -> None:
    if key in ("target", "as_operator"):
        _check_operator(text)
    elif key in ("in_spec", "out_spec"):
        _check_structure(text)
    elif key == "expr_str":
        if not is_arithmetic(text):
            raise UnsafeProgramError(f"has a size that is not plain arithmetic, '{text[:60]}'")
    elif not _TEXTS.get(key, _NAME).fullmatch(text):
        raise UnsafeProgramError(f"contains an invalid name, '{text[:60]}'")


def _check_operator(target: str) -> None:
    if _SIZES.fullmatch(target) or _CONTROL.fullmatch(target):
        return
    found = _OPERATOR.fullmatch(target)
    space, name, overload = (found[1] or found[3], found[2] or found[4], found[5]) if found else ("", "", "")
    if space == "quantized_decomposed":
        importlib.import_module("torch.ao.quantization.fx._decomposed")  # which defines them
    operator = getattr(getattr(getattr(torch.ops, space), name, None), overload, None) if found else None
    # TorchScript has operators of its own in the same name space, which files are written with; only torch's kernels count.
    if (
        not isinstance(operator, torch._ops.OpOverload)
        or not torch._C._dispatch_has_kernel(operator.name())  # type: ignore[no-untyped-call]
        or _REFUSED.fullmatch(name)
    ):
        raise UnsafeProgramError(f"calls {target[:80]}, which is not an operator found in ordinary exports")


def _check_structure(text: str) -> None:
    """Check how inputs or outputs are nested: lists, tuples and mappings with plain keys, which import nothing."""
    try:
        left = [json.loads(text)[1]] if text else []
        while left:
            node = left.pop()
            kind, context = node["type"], node["context"]
            plain = context is None or (
                _NAME.fullmatch(context)
                if kind == "collections.namedtuple"
                else (keys := json.loads(context)) is None or all(isinstance(key, str | int) for key in _listed(keys))
            )
            if not (kind is None or _NAME.fullmatch(kind)) or kind == "collections.defaultdict" or not plain:
                raise UnsafeProgramError(f"nests its inputs or outputs in {str(kind)[:60]}")
            left += node["children_spec"]
    except (ValueError, TypeError, LookupError) as error:
        raise UnsafeProgramError(f"nests its inputs or outputs in an unsupported way, '{text[:60]}'") from error


def _listed(keys: Any) -> list[Any]:
    return keys if isinstance(keys, list) else [keys]


def is_arithmetic(expression: str) -> bool:
    """Whether a size, such as "2*s0 + 1" or "Add(Symbol('s0', integer=True), Integer(1))", is arithmetic of bounded numbers."""
    if len(expression) > _LONGEST_SIZE or not _CHARACTERS.fullmatch(expression):
        return False
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    nodes = list(ast.walk(tree))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return all(_is_allowed(node, id(node) in called) for node in nodes) and _bits(tree.body) <= _MOST_BITS


def _is_allowed(node: ast.AST, called: bool) -> bool:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _TEXT.fullmatch(node.value) is not None
        return isinstance(node.value, float) or (isinstance(node.value, int) and abs(node.value) < 2**64)
    if isinstance(node, ast.Name):
        return (_FUNCTION if called else _SYMBOL).fullmatch(node.id) is not None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Float":
        digits = [*node.args[1:], *(keyword.value for keyword in node.keywords)]
        return all(isinstance(digit, ast.Constant) and isinstance(digit.value, int) and digit.value < 1000 for digit in digits)
    return isinstance(node, _ARITHMETIC)


def _bits(node: ast.AST) -> int:
    """Bound the bits of the largest number that comes up in an expression: 9**9**9 is not to be computed.

    A symbol stands for a size of up to 20 bits, as torch may put its hint in its place.
    """
    if isinstance(node, ast.Constant):
        return 4096 if "e" in str(node.value) else max(1, 4 * len(str(node.value)))
    if isinstance(node, ast.Name):
        return _SYMBOL_BITS
    name, parts = "", [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    if isinstance(node, ast.BinOp):
        name = {ast.Pow: "Pow", ast.LShift: "LShift", ast.Mult: "Mul"}.get(type(node.op), "")
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name, parts = node.func.id, [*node.args]
    if name in ("Symbol", "Float"):
        return _SYMBOL_BITS
    if name in _POWERS and len(parts) == 2:
        return _bits(parts[0]) * _largest(parts[1])
    if name == "LShift" and len(parts) == 2:
        return _bits(parts[0]) + _largest(parts[1])
    inner = [_bits(part) for part in parts]
    return sum(inner) if name == "Mul" else max(inner, default=1) + len(inner).bit_length()


def _largest(exponent: ast.AST) -> int:
    """Bound an exponent: what a number says, or 2 to the power of the bits that it may have."""
    inner = exponent
    while isinstance(inner, ast.UnaryOp) or (
        isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "Integer" and inner.args
    ):
        inner = inner.operand if isinstance(inner, ast.UnaryOp) else inner.args[0]
    if isinstance(inner, ast.Constant) and isinstance(inner.value, int | float):
        return max(1, int(min(abs(inner.value), 10.0**6)))
    return int(2 ** min(_bits(inner), 64))
