import json

import pytest
import torch
from safetensors.torch import save_file

from embedscope.data import open_dataset
from embedscope.errors import InputError, UsageError
from embedscope.extraction import extract
from embedscope.finetuning import finetune
from embedscope.models import open_model
from embedscope.models.head import build_head, open_head
from embedscope.store import read_features
from tests.conftest import ROOT

SAMPLE = ROOT / "sample_data"


def test_linear_head_starts_as_the_identity(digits):
    head = build_head("linear", 64, 10, 3.0)
    embedding, logits = head(digits[0][:5].float())
    torch.testing.assert_close(embedding * 3, digits[0][:5].float())
    assert logits.shape == (5, 10)


def test_mlp_head_has_its_widths():
    embedding, logits = build_head("mlp(16, 7)", 8, 3, 1.0)(torch.randn(5, 8))
    assert (embedding.shape, logits.shape) == ((5, 7), (5, 3))
    assert embedding.min() >= 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mpl(3)", "no head 'mpl'; did you mean 'mlp'"),
        ("mlp", "mlp takes widths from 1"),
        ("mlp(0)", "mlp takes widths from 1"),
        ("mlp('a')", "mlp takes widths from 1"),
        ("linear(3)", "cannot read the head"),
        ("mlp(3, depth=2)", "cannot read the head"),
    ],
)
def test_heads_that_cannot_be(spec, message):
    with pytest.raises(UsageError, match=message):
        build_head(spec, 8, 3, 1.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Features of the sample network, and a run on them."""
    folder = tmp_path_factory.mktemp("head")
    extract(*digit_net(), folder / "features.h5")
    finetune(read_features(str(folder / "features.h5")), folder / "run", objectives=["ce"], head="mlp(9, 7)", epochs=2)
    return folder


def digit_net():
    model = open_model(f"{SAMPLE / 'network.py'}:DigitNet", str(SAMPLE / "early.safetensors"))
    return model, open_dataset(str(SAMPLE / "digits"))


def test_a_head_on_the_model_gives_what_the_run_has(trained, tmp_path):
    path = trained / "run" / "ce" / "trial-0" / "head.safetensors"
    head = open_head(path)
    assert (head.dim, head.width, head.objective) == (64, 7, "ce")
    assert head.classes == tuple("0123456789")
    said = []
    done = extract(*digit_net(), tmp_path / "headed.h5", head=head, say=said.append)
    assert done.layers == {"embedding": 7}
    assert "classifier is passed through the head trained with ce, 64 to 7" in said
    found, expected = (
        read_features(str(tmp_path / "headed.h5")),
        read_features(str(trained / "run" / "ce" / "trial-0" / "after.h5")),
    )
    assert found.magnitudes is None
    rows = {name: row for row, name in enumerate(found.ids)}
    chosen = [rows[name] for name in expected.ids]
    torch.testing.assert_close(found.features[:][chosen], expected.features[:], rtol=1e-5, atol=1e-6)
    assert found.provenance.model.head.as_json() == {"file": str(path), "sha256": head.sha256, "objective": "ce"}


def test_a_head_on_the_wrong_layer(trained, tmp_path):
    head = open_head(trained / "run" / "ce" / "trial-0" / "head.safetensors")
    with pytest.raises(
        InputError, match=r"head.safetensors takes 64 values per row, but the layer gives \d+; it was trained on "
    ):
        extract(*digit_net(), tmp_path / "a.h5", head=head, layers=["output"])
    with pytest.raises(UsageError, match="belongs to a single layer, but 2 are selected; select one"):
        extract(*digit_net(), tmp_path / "a.h5", head=head, layers=[head.layer, f"{head.layer}:none"])


def test_files_that_are_no_heads(trained, tmp_path):
    with pytest.raises(InputError, match="no such file: nowhere"):
        open_head("nowhere")
    with pytest.raises(
        InputError, match=r"run is a folder; give the head.safetensors of a finetune run; there is .*trial-0/head"
    ):
        open_head(trained / "run")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(
        InputError, match=r"other.safetensors is not a head written by finetune .*; give the head.safetensors of a run"
    ):
        open_head(tmp_path / "other.safetensors")
    save_file(
        {"weight": torch.zeros(3)}, tmp_path / "b.safetensors", {"head": json.dumps("linear"), "dim": "2", "classes": "[1]"}
    )
    with pytest.raises(InputError, match="is not a head written by finetune"):
        open_head(tmp_path / "b.safetensors")
