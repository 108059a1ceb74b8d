import json

import numpy as np
import pytest

from embedscope.errors import InputError, UsageError
from embedscope.evaluation import score
from embedscope.metrics.silhouette import silhouette_samples
from embedscope.store import read_features


def test_values_are_those_of_the_metrics(make_store, blobs):
    path = make_store(*blobs)
    (found,) = score([str(path)])
    assert list(found.metrics) == ["silhouette", "soft_silhouette", "gini", "class_kl", "explained_variance"]
    features = read_features(str(path)).features[:]
    import torch

    samples = silhouette_samples(features, torch.from_numpy(blobs[1]))
    assert found.metrics["silhouette"].value == pytest.approx(float(samples.mean()), abs=1e-12)
    expected = {str(c): pytest.approx(float(samples[blobs[1] == c].mean()), abs=1e-12) for c in range(3)}
    assert found.metrics["silhouette"].per_class == expected
    assert (found.samples, found.dimensions, found.classes, found.layer) == (90, 8, 3, "embedding")
    assert found.warnings == []


def test_json_is_as_the_contract_says(make_store, blobs):
    document = score([f"late={make_store(*blobs)}"], device="cpu").as_json()
    document = json.loads(json.dumps(document, allow_nan=False))
    assert document["schema"] == "embedscope.score/1"
    (result,) = document["results"]
    assert set(result) == {
        "name", "source", "layer", "samples", "dimensions", "classes", "device", "metrics", "warnings", "findings", "examined",
    }  # fmt: skip
    assert (result["name"], result["device"]) == ("late", "cpu")
    common = {"value", "ci95", "better", "bounds", "options", "per_class", "note"}
    assert set(result["metrics"]["silhouette"]) == common
    assert result["metrics"]["silhouette"]["bounds"] == [-1, 1]
    assert set(result["metrics"]["gini"]) == common | {"per_channel", "dead_channels", "owned_channels"}
    assert len(result["metrics"]["gini"]["per_channel"]) == 8
    assert set(result["metrics"]["class_kl"]["feature_histogram"]) == {"0", "1", "2"}
    assert result["metrics"]["explained_variance"]["threshold"] == 0.95
    assert len(result["metrics"]["explained_variance"]["curve"]) == 8
    assert result["metrics"]["explained_variance"]["better"] is None


def test_options_of_a_metric(make_store, blobs):
    (found,) = score([str(make_store(*blobs))], metrics=["silhouette(distance='cosine')", "silhouette", "soft-silhouette"])
    assert list(found.metrics) == ["silhouette", "silhouette(distance='euclidean')", "soft_silhouette"]
    assert found.metrics["silhouette"].options == {"distance": "cosine"}


def test_one_class_is_null_with_the_reason(make_store, blobs):
    (found,) = score([str(make_store(blobs[0], np.zeros(90, int)))])
    assert found.metrics["silhouette"].value is None
    assert found.metrics["silhouette"].note == "needs at least 2 classes, got 1"
    assert found.metrics["gini"].value == pytest.approx(0)
    assert "silhouette is undefined: needs at least 2 classes, got 1" in found.warnings


def test_constant_features(make_store):
    (found,) = score([str(make_store(np.ones((6, 2)), [0, 1] * 3))])
    assert found.metrics["silhouette"].value == 0
    assert found.metrics["silhouette"].note == "all rows are equal: every distance is 0"
    assert found.metrics["explained_variance"].note == "all rows are equal: there is no variance to explain"


def test_unlabeled_rows_and_lonely_classes_are_counted(make_store):
    labels = [0, 0, 1, 1, 2, -1, -1]
    (found,) = score([str(make_store(np.random.default_rng(0).normal(size=(7, 3)), labels))])
    assert found.samples == 5
    assert found.warnings == [
        "1 class has one sample; its silhouette is 0 by convention",
        "2 unlabeled rows are left out (labels below 0, NaN or empty)",
    ]


def test_classes_without_rows_do_not_count(make_store, blobs):
    (found,) = score([str(make_store(blobs[0], blobs[1] * 2, class_names=list("abcdef")))])
    assert found.classes == 3
    assert list(found.metrics["silhouette"].per_class) == ["a", "c", "e"]


def test_split(make_store, blobs):
    path = make_store(*blobs, split=["train"] * 60 + ["test"] * 30)
    (found,) = score([str(path)], split="test")
    assert found.samples == 30


def test_magnitudes_are_read_where_they_are(make_store, blobs):
    (plain,) = score([str(make_store(*blobs))], metrics=["gini", "silhouette"])
    (with_magnitudes,) = score([str(make_store(*blobs, name="b.h5", magnitudes=blobs[0] ** 2))], metrics=["gini", "silhouette"])
    assert plain.metrics["gini"].value != with_magnitudes.metrics["gini"].value
    assert plain.metrics["silhouette"].value == with_magnitudes.metrics["silhouette"].value


def test_npz(tmp_path, blobs):
    np.savez(tmp_path / "a.npz", X=blobs[0], y=blobs[1])
    (found,) = score([str(tmp_path / "a.npz")])
    assert found.metrics["silhouette"].value > 0.3


def test_unknown_metric_before_any_file_is_read():
    with pytest.raises(UsageError, match="no metric 'giny'; did you mean 'gini'"):
        score(["nowhere.h5"], metrics=["silhouette", "giny"])


def test_nan(make_store, blobs):
    blobs[0][3, 1] = np.nan
    with pytest.raises(InputError, match=r"1 of 90 rows holds NaN or infinite values: row 3 \(row3\)"):
        score([str(make_store(*blobs))])


def test_nan_in_an_unlabeled_row_does_not_matter(make_store, blobs):
    blobs[0][3, 1] = np.nan
    blobs[1][3] = -1
    assert score([str(make_store(*blobs))])[0].samples == 89
