import json

import pytest

from embedscope.errors import InputError
from embedscope.store.provenance import DataOrigin, LayerOrigin, ModelOrigin, Provenance, RunOrigin

WHOLE = {
    "model": {
        "spec": "net.py:Net",
        "checkpoint": None,
        "matched": ["a", "b"],
        "head": {"file": "h", "sha256": "0", "objective": "ce"},
    },
    "data": {"spec": "d.npz", "fingerprint": "f", "limit": 3, "license": "CC0"},
    "layers": {"conv": {"type": "Conv2d", "pooling": "gap", "shape": [4, 3]}, "fc": {}},
    "transform": "none",
    "run": {"command": "embedscope extract", "seed": 0, "logits": False, "host": {"name": "a", "cores": 2}},
    "finetune": {"head": "linear", "seed": 1, "classes": ["a"], "objective": "ce"},
    "site": ["lab", 3],
}


def test_json_comes_back_as_it_was_with_keys_that_are_not_known():
    found = Provenance.parse(json.dumps(WHOLE), "a.h5")
    assert found.model.head.objective == "ce"
    assert found.data.extra == {"license": "CC0"}
    assert found.layers["conv"] == LayerOrigin("Conv2d", "gap", (4, 3))
    assert found.pooling("fc") is None
    assert json.loads(found.text()) == WHOLE


def test_record_that_is_made_has_every_key_of_the_format():
    laid_out = Provenance(model=ModelOrigin(spec="m"), run=RunOrigin(seed=1)).as_json()
    assert list(laid_out) == ["model", "data", "layers", "transform", "run"]
    assert {"spec", "checkpoint", "sha256", "matched", "missing"} <= set(laid_out["model"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": "x"}', "a.h5: provenance data must be an object, got text"),
        ('{"data": [1]}', "provenance data must be an object, got a list"),
        ('{"layers": []}', "provenance layers must be an object, got a list"),
        ('{"layers": {"emb": 1}}', r"provenance layers \(emb\) must be an object, got a whole number"),
        ('{"layers": {"emb": null}}', r"provenance layers \(emb\) must be an object, got null"),
        ('{"run": {"command": 1}}', "provenance run command must be text, got a whole number"),
        ('{"run": {"seed": true}}', "provenance run seed must be a whole number, got true or false"),
        ('{"model": {"matched": [1]}}', "an entry of .* matched must be text"),
        ('{"model": {"sources": {"a.py": 1}}}', r"sources \(a.py\) must be text"),
        ("[]", "a.h5: provenance must be an object, got a list"),
        ("{", "a.h5 is damaged: /provenance is not JSON"),
        ("[" * 100_000, "a.h5 is damaged: /provenance is not JSON"),
    ],
)
def test_another_type_is_named(text, message):
    with pytest.raises(InputError, match=message):
        Provenance.parse(text, "a.h5")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({"data": DataOrigin("d", "g")}, [("data (fingerprint)", "f", "g")]),
        ({"run": RunOrigin(torch="2", command="other")}, [("run (torch)", "1", "2")]),
        ({"model": ModelOrigin(sources={"a.py": "1", "c.py": "9"})}, [("source file a.py", "0", "1")]),
        ({"model": ModelOrigin(libraries={"timm": "2"})}, [("version of timm", "1", "2")]),
        (
            {"layers": {"fc": LayerOrigin(pooling="cls")}},
            [("layers (fc)", {"type": None, "pooling": "gap", "shape": []}, None)],
        ),
        ({"transform": "none"}, [("transform", None, "none")]),
    ],
)
def test_differences_that_decide_the_numbers(now, expected):
    begun = {
        "model": ModelOrigin(sources={"a.py": "0", "b.py": "0"}, libraries={"timm": "1"}),
        "data": DataOrigin("d", "f"),
        "layers": {"fc": LayerOrigin(pooling="gap")},
        "run": RunOrigin(torch="1", command="one"),
    }
    found = list(Provenance(**begun).differences(Provenance(**{**begun, **now})))
    assert [what for what, _, _ in found] == [what for what, _, _ in expected]
    assert found[0][1] == expected[0][1]
