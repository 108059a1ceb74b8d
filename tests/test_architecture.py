"""The house keeps its order: layers, heavy imports, plugin contracts, and the picture of the tree in CONTRIBUTING."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import embedscope
from embedscope import plugins
from embedscope.losses import LossDeclaration
from embedscope.metrics import declaration
from tests.oracles import losses as loss_oracles
from tests.oracles import metrics as metric_oracles

PACKAGE = Path(embedscope.__file__).parent
ROOT = Path(__file__).parent.parent
FILES = sorted(PACKAGE.rglob("*.py"))
LAYERS = (
    {"_version", "errors", "progress", "text"},
    {"arguments"},
    {"plugins", "distributed", "devices"},
    {"ops"},
    {"metrics", "losses", "store"},
    {"models", "data"},
    {"evaluation"},
    {"extraction", "finetuning", "plotting"},
    {"monitoring"},
    {"cli"},
)
# The only rooms that may know a library.
HOMES = {
    "typer": "cli",
    "rich": "cli",
    "h5py": "store",
    "matplotlib": "plotting",
    "umap": "plotting",
    "openTSNE": "plotting",
    "plotly": "plotting",
}


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """(line, module, whether it runs when the file is imported) of every import in a file."""
    tree = ast.parse(path.read_text())
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        above, runs = node, True
        while above in parents:
            above = parents[above]
            if isinstance(above, ast.FunctionDef) or (isinstance(above, ast.If) and "TYPE_CHECKING" in ast.unparse(above.test)):
                runs = False
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, runs
        elif node.module == "embedscope":
            for alias in node.names:
                if alias.name != "__version__":
                    yield node.lineno, f"embedscope.{alias.name}", runs
        else:
            for alias in node.names:
                inside = (PACKAGE.parent / node.module.replace(".", "/") / f"{alias.name}.py").exists()
                yield node.lineno, f"{node.module}.{alias.name}" if inside else node.module, runs


def room(module):
    return module.split(".")[1] if "." in module else ""


def layer(module):
    return next((number for number, rooms in enumerate(LAYERS) if room(module) in rooms), None)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_downwards(path):
    own = module_name(path)
    for line, module, _ in imports(path):
        if not module.startswith("embedscope") or not room(own) or room(own) == "__main__":
            continue
        assert layer(module) is not None, f"{path}:{line} imports {module}, which has no layer"
        assert room(module) == room(own) or layer(module) < layer(own), f"{path}:{line} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_libraries_stay_in_their_rooms(path):
    for line, module, _ in imports(path):
        home = HOMES.get(module.split(".")[0])
        assert home is None or room(module_name(path)) == home, f"{path}:{line} imports {module}"


def test_every_room_has_a_layer():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - set().union(*LAYERS) == {"__init__", "__main__"}


def test_no_import_cycles():
    graph = {}
    for path in FILES:
        known = {module_name(file) for file in FILES}
        graph[module_name(path)] = {m for _, m, runs in imports(path) if runs and m in known and m != module_name(path)}

    def reachable(start):
        seen, todo = set(), list(graph[start])
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo += graph[module]
        return seen

    assert [module for module in graph if module in reachable(module)] == []


def test_no_drawer_modules():
    drawers = {"utils", "util", "helpers", "common", "misc", "base", "core"}
    assert [path for path in FILES if drawers & set(path.relative_to(PACKAGE).with_suffix("").parts)] == []


def test_importing_embedscope_imports_nothing_heavy():
    code = "import embedscope, sys; print([m for m in ('torch', 'numpy', 'h5py', 'typer', 'matplotlib') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("name", [name for name in embedscope.__all__ if name != "__version__"])
def test_public_name_is_there_after_its_submodules(name):
    for kind in ("evaluation", "extraction", "finetuning", "monitoring", "plotting"):
        __import__(f"embedscope.{kind}")
    assert callable(getattr(embedscope, name))


def test_unknown_public_name():
    with pytest.raises(AttributeError, match="nonsense"):
        embedscope.nonsense  # noqa: B018


@pytest.mark.parametrize("name", plugins.names("metrics"))
def test_metric_keeps_its_contract(name):
    function = plugins.load("metrics", name)
    declared = declaration(function)
    parameters = list(inspect.signature(function).parameters.values())
    assert [parameter.name for parameter in parameters[:2]] == ["features", "labels"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[2:])
    assert declared.reference.startswith(("doi:", "arXiv:"))
    assert callable(getattr(metric_oracles, name, None)), f"tests/oracles/metrics.py lacks {name}"


@pytest.mark.parametrize("name", plugins.names("losses"))
def test_loss_keeps_its_contract(name):
    factory = plugins.load("losses", name)
    assert isinstance(factory.declaration, LossDeclaration)
    assert factory.declaration.reference.startswith(("doi:", "arXiv:"))
    parameters = list(inspect.signature(factory).parameters.values())
    assert [parameter.name for parameter in parameters[:2]] == ["num_classes", "dim"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[2:])
    assert callable(getattr(loss_oracles, name, None)), f"tests/oracles/losses.py lacks {name}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_public_functions_have_docstrings(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"


def test_contributing_draws_the_tree_as_it_is():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    tree = re.search(r"```\n(embedscope/\n.*?)```", text, re.DOTALL)[1]
    drawn, stack = set(), []
    for line in tree.splitlines()[1:]:
        if match := re.match(r"( *)([\w./]+)", line):
            depth = len(match[1]) // 2
            stack = [*stack[: depth - 1], match[2].rstrip("/")]
            drawn.add("/".join(stack))
    files = {path.name for path in FILES if path.parent == PACKAGE}
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in FILES if path.parent != PACKAGE}
    assert drawn == files | folders


def test_repository_holds_no_large_files():
    listed = (
        subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
        if (ROOT / ".git").exists()
        else None
    )
    if listed is None or listed.returncode:
        pytest.skip("not a checkout of git")
    sizes = {name: (ROOT / name).stat().st_size for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > 256 * 1024} == {}
