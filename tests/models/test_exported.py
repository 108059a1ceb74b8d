import contextlib
import importlib
import io
import json
import os
import re
import zipfile
from operator import add, floordiv, mod
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from embedscope.errors import InputError
from embedscope.models import open_model
from embedscope.models._graph import is_arithmetic

# Of torch's own pytree, when a program is written; reading is silent.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


WRITES_OLD = torch.__version__ < "2.8"
GRAPH, FOLDER = ("serialized_exported_program.json", "") if WRITES_OLD else ("models/model.json", "{}/")
newer = pytest.mark.skipif(WRITES_OLD, reason="this torch writes the older layout")


class Net(nn.Module):
    """A network whose layers lie in modules of modules."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.dropout(self.body(images).mean((2, 3))))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def save(tmp_path):
    def write(network, *inputs, dynamic=None):
        path = tmp_path / "program.pt2"
        torch.export.save(torch.export.export(network, inputs, dynamic_shapes=dynamic), path)
        return str(path)

    return write


def test_any_batch_size_and_layers_by_name(network, save):
    encoder = open_model(save(network, torch.rand(2, 1, 8, 8), dynamic=({0: torch.export.Dim("batch")},)))
    seen = {}
    for name in ("body.0", "body.2", "head"):
        module = encoder.module.get_submodule(name)
        module.register_forward_hook(lambda module, args, output, name=name: seen.__setitem__(name, (args[0], output)))
    batch = encoder.prepare(torch.rand(5, 1, 8, 8))
    with torch.inference_mode():
        assert torch.equal(encoder.module(batch), network(batch))
        assert torch.equal(seen["body.0"][1], network.body[0](batch))
        assert torch.equal(seen["head"][0], network.body(batch).mean((2, 3)))
    assert (encoder.embedding, encoder.batch_size, encoder.device) == ("head.input", None, None)
    assert set(encoder.weights.matched) == set(network.state_dict())


def test_batch_size_of_its_own(network, save):
    encoder = open_model(save(network, torch.rand(4, 1, 8, 8)))
    batch = torch.rand(4, 1, 8, 8)
    assert encoder.batch_size == 4
    with torch.inference_mode():
        assert torch.equal(encoder.module(batch), network(batch))


def test_device_of_its_own(save):
    class Shifted(nn.Module):
        def forward(self, inputs):
            return inputs + torch.ones(3)

    encoder = open_model(save(Shifted(), torch.rand(2, 3)))
    assert (encoder.device, encoder.embedding) == ("cpu", "output")


@pytest.mark.parametrize(("dropout", "named"), [(0.0, "batch_norm"), (0.5, "dropout")])
def test_exported_while_it_trained(save, dropout, named):
    with pytest.raises(InputError, match=rf"was exported in training mode \(.*{named}.*\), .*call model.eval\(\)"):
        open_model(save(Net(dropout).train(), torch.rand(2, 1, 8, 8)))


def test_two_inputs(save):
    class Sum(nn.Module):
        def forward(self, left, right):
            return left + right

    with pytest.raises(InputError, match=r"program\.pt2 takes 2 inputs \(left, right\), but only one can be passed"):
        open_model(save(Sum(), torch.rand(2), torch.rand(2)))


def test_truncated(network, save, tmp_path, caplog):
    content = Path(save(network, torch.rand(2, 1, 8, 8))).read_bytes()
    (tmp_path / "short.pt2").write_bytes(content[:1000])
    with pytest.raises(
        InputError, match=r"short\.pt2 cannot be read as an exported program \(.*\); expected a \.pt2 file written"
    ):
        open_model(f"{tmp_path}/short.pt2")
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]  # writing the program traces


def test_a_state_dict_given_as_a_program(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "a.pt2")
    with pytest.raises(InputError, match=r"a\.pt2 cannot be read as an exported program"):
        open_model(f"{tmp_path}/a.pt2")


class Evil:
    """What unpickling would run: makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def pickled(held):
    stream = io.BytesIO()
    torch.save(held, stream)
    return stream.getvalue()


def rewritten(path, edit=lambda members: None, graph=lambda text: text):
    """Write a program again, its members (name below the folder -> bytes) and the text of its graph changed."""
    with zipfile.ZipFile(path) as source:
        members = {name.removeprefix(FOLDER.format(Path(path).stem)): source.read(name) for name in source.namelist()}
    members[GRAPH] = graph(members[GRAPH].decode()).encode()
    edit(members)
    changed = Path(path).with_name("changed.pt2")
    with zipfile.ZipFile(changed, "w") as target:
        for name, content in members.items():
            target.writestr(FOLDER.format("changed") + name if ".." not in name else name, content)
    return str(changed)


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    path = tmp_path_factory.mktemp("linear") / "linear.pt2"
    program = torch.export.export(nn.Linear(3, 2).eval(), (torch.zeros(4, 3),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, path, extra_files={"notes.txt": "text"})
    return str(path)


@newer
def test_example_inputs_and_extra_files_are_not_read(linear, tmp_path):
    evil = pickled(Evil(str(tmp_path / "ran")))
    path = rewritten(linear, lambda members: members.update({"data/sample_inputs/model.pt": evil}))
    assert open_model(path).module(torch.zeros(5, 3)).shape == (5, 2)
    assert not (tmp_path / "ran").exists()


def test_older_layout(network, save, tmp_path):
    from torch._export.serde.serialize import serialize

    parts = serialize(torch.export.load(save(network, torch.rand(2, 1, 8, 8))))
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as old:
        old.writestr("version", "8.1")
        old.writestr("serialized_exported_program.json", parts.exported_program)
        old.writestr("serialized_state_dict.pt", parts.state_dict)
        old.writestr("serialized_constants.pt", parts.constants)
        old.writestr("serialized_example_inputs.pt", pickled(Evil(str(tmp_path / "ran"))))
    batch = torch.rand(2, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(open_model(f"{tmp_path}/old.pt2").module(batch), network(batch))
    assert not (tmp_path / "ran").exists()


@newer
@pytest.mark.parametrize("setting", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"])
def test_weights_of_the_older_layout_that_would_run_code_do_not(linear, tmp_path, monkeypatch, setting):
    monkeypatch.setenv(setting, "1")
    evil = pickled(Evil(str(tmp_path / "ran")))
    with pytest.raises(InputError, match=r"changed\.pt2 cannot be read as an exported program"):
        open_model(rewritten(linear, lambda members: members.update({"data/weights/model.pt": evil})))
    assert not (tmp_path / "ran").exists()
    assert os.environ[setting] == "1"


def payload(**changes):
    """Change the list of constants of a program to one entry."""
    entry = {"path_name": "tensor_0", "is_param": False, "use_pickle": False, "tensor_meta": None} | changes
    return json.dumps({"config": {"c": entry}}).encode()


CONSTANTS = "data/constants/model_constants_config.json"
META = {"dtype": 7, "sizes": [{"as_int": 10**12}], "device": {"type": "cpu", "index": None}}
MEMBERS = {
    "opaque constant": (
        {CONSTANTS: payload(path_name="opaque_obj_0", use_pickle=True), "data/constants/opaque_obj_0": b""},
        "holds 'changed/data/constants/opaque_obj_0', which do not belong in an exported program",
    ),
    "custom object": (
        {"data/constants/custom_obj_0": b""},
        "holds 'changed/data/constants/custom_obj_0', which do not belong",
    ),
    "compiled library": ({"data/aotinductor/model/a.so": b""}, "holds 'changed/data/aotinductor/model/a.so', which do not"),
    "another program": ({"models/other.json": b"{}"}, "holds 'changed/models/other.json', which do not belong"),
    "two names in one": ({"models/MODEL.json": b"{}"}, "has two members with the same name"),
    "escaping": ({"../../evil": b""}, r"holds '../../evil', which do not belong"),
    "pickled tensor": (
        {CONSTANTS: payload(use_pickle=True), "data/constants/tensor_0": b"1234"},
        "holds c as a pickled object, and reading it could run code; .*`unsafe_pickle=True` if you trust its author",
    ),
    "tensor elsewhere": (
        {CONSTANTS: payload(path_name="../weights/weight_0", tensor_meta=META)},
        "contains an invalid name",
    ),
    "tensor that is not there": ({CONSTANTS: payload(tensor_meta=META)}, r"missing the data of c \(data/constants/tensor_0\)"),
    "zeros of a declared size": (
        {CONSTANTS: payload(tensor_meta=META), "data/constants/tensor_0": b""},
        "missing the data of c; it was exported without weights,",
    ),
}


@newer
@pytest.mark.parametrize("kind", MEMBERS)
def test_members_that_torch_export_does_not_write(linear, kind):
    members, message = MEMBERS[kind]
    with pytest.raises(InputError, match=message):
        open_model(rewritten(linear, lambda held: held.update(members)))


def test_compressed(linear):
    path = Path(linear).with_name("deflated.pt2")
    with zipfile.ZipFile(linear) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(InputError, match="is compressed or has overlapping members"):
        open_model(str(path))


LINEAR = "torch.ops.aten.linear.default"
GRAPHS = {
    "maps a file": (LINEAR, "torch.ops.aten.from_file.default", "calls torch.ops.aten.from_file.default, which is not"),
    "writes a file": (LINEAR, "torch.ops.image.write_file.default", "calls torch.ops.image.write_file.default"),
    "operator of TorchScript": (LINEAR, "torch.ops.aten.save.default", "calls torch.ops.aten.save.default"),
    "class of torch": (LINEAR, "torch.ops.aten.linear.__class__", "calls torch.ops.aten.linear.__class__"),
    "function of torch": (LINEAR, "torch.hub.load", "calls torch.hub.load"),
    "import by a default factory": (
        "builtins.tuple",
        "collections.defaultdict",
        "nests its inputs or outputs in collections.d",
    ),
    "import by an enum": (
        r"\"context\": \"[]\"",
        r"\"context\": \"{\\\"__enum__\\\": true, \\\"fqn\\\": \\\"antigravity:A\\\"}\"",
        "nests its inputs or outputs in builtins.dict",
    ),
    "name that is code": ('"p_\\w*weight"', '"p=__import__(1)"', "contains an invalid name, 'p=__import__"),
    "parameter that is code": (
        '"parameter_name": "weight"',
        '"parameter_name": "a\\"); b"',
        "contains an invalid name, 'a\"\\); b",
    ),
    "symbol to count to": ('"s\\d+": {"min_val"', '"u99999999999": {"min_val"', "names a size 'u99999999999'"),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_graphs_that_would_run_code(linear, kind):
    old, new, message = GRAPHS[kind]

    def graph(text):
        pattern = old if re.search(r"\\[dw]", old) else re.escape(old)
        changed = re.sub(pattern, lambda match: new, text)
        assert changed != text
        return changed

    with pytest.raises(InputError, match=message):
        open_model(rewritten(linear, graph=graph))


@pytest.mark.parametrize(
    "size",
    ["__import__('os').mkdir('ran') or s0", "9**9**9", "Integer(2)**Integer(10**9)", "1<<10**9", "s0**s0**s0", "(s0 # \n)"],
)
def test_size_that_would_run_code_or_never_end(linear, size):
    def graph(text):
        changed = re.sub(r'"expr_str": *"[^"]*"', lambda match: f'"expr_str": {json.dumps(size)}', text)
        assert changed != text
        return changed

    with pytest.raises(InputError, match=re.escape(f"has a size that is not plain arithmetic, '{size}'")):
        open_model(rewritten(linear, graph=graph))
    open_model(linear)


def test_stack_traces_and_guards_are_left_out(linear):
    def graph(text):
        held = json.loads(text)
        if "guards_code" in held:
            held["guards_code"] = ["__import__('os').mkdir('ran')"]
        held["graph_module"]["graph"]["nodes"][0]["metadata"]["stack_trace"] = "\nimport antigravity"
        return json.dumps(held)

    assert open_model(rewritten(linear, graph=graph)).module(torch.zeros(2, 3)).shape == (2, 2)


@newer
def test_unsafe_pickle_reads_what_is_refused_otherwise(linear):
    path = rewritten(linear, lambda members: members.update({"data/constants/custom_obj_0": b""}))
    assert open_model(path, unsafe_pickle=True).module(torch.zeros(2, 3)).shape == (2, 2)


def test_absent():
    with pytest.raises(InputError, match=r"no such file: nowhere\.pt2"):
        open_model("exported:nowhere.pt2")


def test_quantized_program(save):
    class Rounded(nn.Module):
        def forward(self, inputs):
            operators = torch.ops.quantized_decomposed
            whole = operators.quantize_per_tensor.default(inputs, 0.5, 0, -128, 127, torch.int8)
            return operators.dequantize_per_tensor.default(whole, 0.5, 0, -128, 127, torch.int8)

    importlib.import_module("torch.ao.quantization.fx._decomposed")
    encoder = open_model(save(Rounded(), torch.rand(2, 3)))
    assert torch.equal(encoder.module(torch.tensor([[0.6, 1.2, -0.9]] * 2))[0], torch.tensor([0.5, 1.0, -1.0]))


def test_sizes_that_are_no_whole_numbers(tmp_path):
    class Scales(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.interpolate(x, scale_factor=1.5)

    auto = torch.export.Dim.AUTO
    program = torch.export.export(Scales(), (torch.zeros(2, 1, 6, 8),), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    torch.export.save(program, tmp_path / "a.pt2")
    assert open_model(str(tmp_path / "a.pt2")).module(torch.zeros(3, 1, 4, 4)).shape == (3, 1, 6, 6)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.sampled_from(["s0", "2", "9", "Integer(3)", "Symbol('s1', positive=True)", "Float('0.5', precision=53)", "10**6"]),
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["+", "*", "//", "**", "<<", "%"]), inner).map(
                lambda parts: f"({' '.join(parts)})"
            ),
            st.tuples(st.sampled_from(["Pow", "Max", "Mod", "FloorDiv", "Add"]), inner, inner).map(
                lambda p: f"{p[0]}({p[1]}, {p[2]})"
            ),
        ),
        max_leaves=8,
    )
)
def test_sizes_that_are_accepted_are_small(expression):
    names = {
        "s0": 3,
        "Integer": int,
        "Symbol": lambda *_, **__: 3,
        "Float": lambda text, **_: float(text),
        "Max": max,
        "Add": add,
    }
    names |= {"Pow": pow, "Mod": mod, "FloorDiv": floordiv}
    if is_arithmetic(expression):
        with contextlib.suppress(ArithmeticError, TypeError):  # divisions by zero, shifts by fractions
            assert abs(eval(expression, names)) < 2**10_000


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_text_that_is_not_arithmetic_is_refused(text):
    if is_arithmetic(text):
        assert not re.search(r"[^\w +\-*/%<>=!&|~^().,']|__", text)
