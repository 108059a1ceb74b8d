import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from embedscope.errors import InputError, MissingExtraError
from embedscope.models import open_model
from embedscope.models.layers import Taps, find

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

WEIGHT = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    """Write a model of (batch, 6) that gives flat @ WEIGHT, and relu of that where asked for."""
    from onnx import TensorProto, helper, numpy_helper

    def write(*, kind=TensorProto.FLOAT, batch="batch", outputs=("product",), inputs=("x",)):
        nodes = [
            helper.make_node("Cast", [inputs[0]], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["cast", "weight"], ["product"]),
            helper.make_node("Relu", ["product"], ["relu"]),
        ]
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info(name, kind, [batch, 6]) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3]) for name in outputs],
            [numpy_helper.from_array(WEIGHT, "weight")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, tmp_path / "model.onnx")
        return str(tmp_path / "model.onnx")

    return write


def by_hand(path, values):
    """What onnxruntime gives for an array without embedscope, as a list of arrays."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": values})


def test_same_as_onnxruntime_by_hand(save):
    path = save()
    encoder = open_model(path)
    batch = encoder.prepare(torch.rand(5, 6, dtype=torch.float64))
    assert np.array_equal(encoder.module(batch), by_hand(path, batch.numpy())[0])
    assert (encoder.embedding, encoder.batch_size) == ("output", None)
    assert "only the outputs of an ONNX model can be read" in encoder.outputs_only


def test_several_outputs_by_name(save):
    path = save(outputs=("product", "relu"))
    batch = torch.rand(5, 6)
    found = open_model(path).module(batch)
    assert list(found) == ["product", "relu"]
    for value, expected in zip(found.values(), by_hand(path, batch.numpy()), strict=True):
        assert np.array_equal(value, expected)


def test_batch_size_of_its_own(save):
    assert open_model(save(batch=4)).batch_size == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_floats_become_what_the_model_takes(save, dtype):
    path = save(kind=onnx.helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=dtype).numpy().dtype))
    batch = torch.rand(5, 6)
    assert np.array_equal(open_model(path).module(batch), by_hand(path, batch.to(dtype).numpy())[0])


def test_models_of_bytes_get_bytes(save):
    encoder = open_model(save(kind=onnx.TensorProto.UINT8))
    items = torch.arange(12, dtype=torch.uint8).reshape(2, 6) * 20
    assert torch.equal(encoder.prepare(items), items)
    assert encoder.prepare.text.endswith("as uint8")


def test_floats_for_whole_numbers(save):
    encoder = open_model(save(kind=onnx.TensorProto.INT64))
    assert encoder.module(torch.ones(2, 6, dtype=torch.int32)).shape == (2, 3)
    with pytest.raises(InputError, match=r"takes whole numbers \(int64\), but got float32"):
        encoder.module(torch.ones(2, 6))


def test_a_copy_in_another_process_makes_its_own_session(save):
    module = open_model(save()).module
    batch = torch.rand(2, 6)
    assert torch.equal(pickle.loads(pickle.dumps(module))(batch), module(batch))


def test_inputs_of_another_shape(save):
    with pytest.raises(InputError, match=r"cannot be run on inputs \(2, 5\) \(InvalidArgument: .*\); `size=`"):
        open_model(save()).module(torch.rand(2, 5))


def test_two_inputs(save):
    with pytest.raises(InputError, match=r"model\.onnx takes 2 inputs \(x, mask\), but only one can"):
        open_model(save(inputs=("x", "mask")))


def test_checkpoint_for_it(save):
    with pytest.raises(InputError, match="includes its own weights, which `checkpoint=` cannot replace"):
        open_model(save(), "a.pt")


def test_truncated(save, tmp_path, capfd):
    content = Path(save()).read_bytes()
    (tmp_path / "short.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        InputError, match=r"short\.onnx cannot be read as an ONNX model \(.*\); expected a complete \.onnx file"
    ):
        open_model(f"{tmp_path}/short.onnx")
    assert capfd.readouterr() == ("", "")


def test_absent():
    with pytest.raises(InputError, match=r"no such file: nowhere\.onnx"):
        open_model("onnx:nowhere.onnx")


def test_without_onnxruntime(save, monkeypatch):
    path = save()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime is not installed; pip install 'embedscope\[onnx\]'"):
        open_model(path)


@pytest.mark.parametrize("outputs", [("Identity:0",), ("Identity:0", "Identity:1")])
def test_outputs_whose_names_have_colons(save, outputs, tmp_path):
    from onnx import helper

    model = onnx.load(save(outputs=("product", "relu")[: len(outputs)]))
    for place, name in enumerate(outputs):
        model.graph.node.append(helper.make_node("Identity", [("product", "relu")[place]], [name]))
        model.graph.output[place].name = name
    onnx.save(model, tmp_path / "model.onnx")
    encoder = open_model(f"{tmp_path}/model.onnx")
    batch = torch.rand(2, 6)
    with Taps(encoder, find(encoder, [outputs[-1], f"output.{outputs[0]}"])) as taps, torch.inference_mode():
        taps.start(batch)
        with taps.probe():
            taps.end(encoder.module(batch))
    wanted = by_hand(f"{tmp_path}/model.onnx", batch.numpy())
    for name, value in ((outputs[-1], wanted[-1]), (f"output.{outputs[0]}", wanted[0])):
        assert np.array_equal(taps.captured[name][0], value)


def test_weights_outside_of_the_folder_are_not_read(save, tmp_path):
    model = onnx.load(save())
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    (tmp_path / "inner").mkdir()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", str(WEIGHT.nbytes))):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "inner" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="cannot be read as an ONNX model"):
        open_model(f"{tmp_path}/inner/model.onnx")
