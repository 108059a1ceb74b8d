"""Files of weights of every kind that people have, and what else lies in them."""

import argparse
import collections
import datetime
import decimal
import hashlib
import io
import json
import pathlib
import sys
import types
import uuid
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from embedscope.errors import InputError
from embedscope.models._reading import sha256_of
from embedscope.models.checkpoint import load_checkpoint


@pytest.fixture
def state():
    torch.manual_seed(0)
    return nn.Linear(3, 2).state_dict()


def filled(path, state):
    net = nn.Linear(3, 2)
    loaded = load_checkpoint(net, str(path))
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in state.items())
    return loaded


def write_shards(folder, state, kind, **changes):
    shards = {f"part-{place}.{kind}": [name] for place, name in enumerate(state)}
    for file, names in shards.items():
        part = {name: state[name] for name in names}
        save_file(part, folder / file) if kind == "safetensors" else torch.save(part, folder / file)
    index = {"weight_map": {name: file for file, names in shards.items() for name in names} | changes}
    (folder / f"model.{kind}.index.json").write_text(json.dumps(index))
    return folder / f"model.{kind}.index.json"


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards(tmp_path, state, kind):
    loaded = filled(write_shards(tmp_path, state, kind), state)
    parts = b"".join(path.read_bytes() for path in [tmp_path / f"model.{kind}.index.json", *sorted(tmp_path.glob("part*"))])
    assert loaded.sha256 == hashlib.sha256(parts).hexdigest()
    assert loaded.missing == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": "part-9.safetensors"}, r"names 2 shards, but part-9\.safetensors is missing; all of them"),
        (
            {"bias": "../other.safetensors"},
            r"names the shard '\.\./other\.safetensors'; shards must be in the same folder as their index",
        ),
        ({"bias": "/etc/passwd"}, "names the shard '/etc/passwd'; shards must be in the"),
        ({"bias": "model.safetensors.index.json"}, "shards must be in the same folder as their index"),
        ({"bias": "part-0.safetensors"}, r"maps bias to part-0\.safetensors, which does not contain"),
        ({"bias": 3}, "cannot be read as the index of a sharded checkpoint|names the shard"),
    ],
)
def test_index_that_is_wrong(tmp_path, state, changes, message):
    with pytest.raises(InputError, match=message):
        load_checkpoint(nn.Linear(3, 2), str(write_shards(tmp_path, state, "safetensors", **changes)))


@pytest.mark.parametrize("text", [" ", "[]", '{"weight_map": []}', '{"weight_map": {"a": {}}}', "[" * 3000])
def test_index_that_is_not_one(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match="cannot be read as the index of a sharded checkpoint; expected JSON"):
        load_checkpoint(nn.Linear(3, 2), f"{tmp_path}/model.safetensors.index.json")


def test_folders(tmp_path, state):
    write_shards(tmp_path, state, "safetensors")
    with pytest.raises(InputError, match=r"is a folder; give the weights file, such as .*model\.safetensors\.index"):
        load_checkpoint(nn.Linear(3, 2), str(tmp_path))


@pytest.mark.parametrize("inside", ["", "/__0_0.distcp"])
def test_distributed_checkpoint(tmp_path, inside):
    (tmp_path / ".metadata").write_bytes(b"")
    (tmp_path / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(InputError, match=rf"is a distributed checkpoint; .*format_utils dcp_to_torch {tmp_path} weights\.pt"):
        load_checkpoint(nn.Linear(3, 2), f"{tmp_path}{inside}")


PLAIN = {
    "numpy scalars": [np.float64(0.9), np.int64(3), np.bool_(True), np.float32(1)],
    "arrays": [np.arange(4.0), np.arange(3, dtype=np.int8), np.array(["a", "bc"]), np.array([{}, None], dtype=object)],
    "mappings": collections.defaultdict(list, a=[1], b=collections.defaultdict(dict, c={})),
    "ordered": collections.OrderedDict(a=collections.Counter("aab")),
    "deque": collections.deque([1, 2], maxlen=5),
    "paths": [pathlib.Path("/a"), pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("C:/a")],
    "times": [
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        datetime.date(2026, 1, 2),
        datetime.time(3),
        datetime.timedelta(1),
    ],
    "numbers": [decimal.Decimal("0.1"), 2**70, 1j, uuid.UUID(int=3)],
    "namespaces": [argparse.Namespace(lr=0.1, inner=argparse.Namespace()), types.SimpleNamespace(a=1)],
    "types": [int, float, str, list, dict, torch.float16, torch.device("cpu"), torch.Size([2])],
    "sets": [{1, 2}, frozenset([3]), range(3), slice(1, 2), b"bytes", bytearray(b"more")],
    "version": torch.__version__,
    "keys": {np.int64(3): "a", (1, 2): "b", None: "c"},
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_values_beside_the_weights(tmp_path, state, kind):
    torch.save({"state_dict": state, "extra": PLAIN[kind]}, tmp_path / "a.pt")
    filled(tmp_path / "a.pt", state)


@pytest.mark.parametrize("name", ["numpy.core.multiarray.scalar", "pathlib.WindowsPath", "pathlib._local.PosixPath"])
def test_plain_values_of_other_systems_and_versions(tmp_path, state, name):
    """What another Python, numpy or system would have written: the name in the pickle is another one."""
    module, _, last = name.rpartition(".")
    torch.save({"state_dict": state, "extra": argparse.Namespace()}, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(tmp_path / "b.pt", "w") as target:
        for member in source.namelist():
            content = source.read(member).replace(b"cargparse\nNamespace\n", f"c{module}\n{last}\n".encode())
            target.writestr(member, content)
    filled(tmp_path / "b.pt", state)


def test_mapping_of_lightning(tmp_path, state):
    lightning = types.ModuleType("pytorch_lightning.utilities.parsing")
    lightning.AttributeDict = type("AttributeDict", (dict,), {"__module__": lightning.__name__})
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pytorch_lightning", "pytorch_lightning.utilities", lightning.__name__):
            patch.setitem(sys.modules, name, lightning)
        torch.save({"state_dict": state, "hyper_parameters": lightning.AttributeDict(lr=0.1)}, tmp_path / "a.ckpt")
    filled(tmp_path / "a.ckpt", state)


def test_other_pickle_protocol(tmp_path, state):
    torch.save(state, tmp_path / "a.pt", pickle_protocol=4)
    with pytest.raises(InputError, match=r"was saved with a pickle protocol other than torch's default, .* without"):
        load_checkpoint(nn.Linear(3, 2), f"{tmp_path}/a.pt")
    net = nn.Linear(3, 2)
    load_checkpoint(net, f"{tmp_path}/a.pt", unsafe_pickle=True)
    assert torch.equal(net.weight, state["weight"])


def test_list_of_state_dicts(tmp_path, state):
    torch.save((state, {"lr": 0.1}), tmp_path / "a.pt")
    assert filled(tmp_path / "a.pt", state).origin == "0"


def test_one_mapping_under_many_names_is_one_set(tmp_path, state):
    torch.save({"a": state, "b": state, "c": {"d": state}}, tmp_path / "a.pt")
    filled(tmp_path / "a.pt", state)


def test_hash_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(f"{tmp_path}/a") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "model.safetensors.index.json"])
def test_an_empty_checkpoint_is_called_empty(tmp_path, name):
    path = tmp_path / name
    path.touch()
    with pytest.raises(InputError, match=f"^{path} is empty: it has 0 bytes$"):
        load_checkpoint(nn.Linear(3, 2), str(path))
