"""Every metric with every option against its oracle, and every oracle against a comparison that it can fail."""

import functools
import inspect

import numpy as np
import pytest
import torch

from embedscope import plugins
from embedscope.metrics import declaration
from tests.oracles import metrics as oracles

NAMES = plugins.names("metrics")
CHANNELS = [{}, {"activation": "relu"}, {"activation": "none"}]
OPTIONS = {
    "silhouette": [{}, {"distance": "sqeuclidean"}, {"distance": "cosine"}],
    "soft_silhouette": [
        {},
        *({"softmin": form, "tau_s": 0.5, "tau_m": 0.3} for form in ("lse", "lme", "weighted", "hard")),
        *({"distance": distance, "normalize": False} for distance in ("euclidean", "sqeuclidean", "cosine")),
    ],
    "gini": [*CHANNELS, *({**options, "dead": "ignore"} for options in CHANNELS)],
    "class_kl": [*CHANNELS, *({**options, "direction": "feature_to_target"} for options in CHANNELS)],
    "explained_variance": [{}, {"threshold": 0.5}, {"threshold": 1.0}],
    "effective_rank": [{}],
    "rankme": [{}],
    "participation_ratio": [{}],
    "stable_rank": [{}],
    "calinski_harabasz": [{}],
    "davies_bouldin": [{}],
    "cdnv": [{}],
    "nc1": [{}, {"form": "trace"}],
    "nc2": [{}],
    "lda_rank": [{}, {"delta": 1e-6, "divisors": "none"}],
    "alignment": [{}],
    "uniformity": [{}, {"t": 0.5}],
    "anisotropy": [{}, {"centered": True}],
    "collapse_std": [{}],
    "two_nn": [{}, {"discard": 0.3}],
    "linear_probe": [{}, {"C": 0.1}, {"C": 1.0, "folds": 3, "seed": 4}, {"train": "a", "seed": 1}],
    "nc3": [{}],
    "nc4": [{}],
    "knn_accuracy": [
        {},
        {"k": 3, "vote": "uniform"},
        {"k": 5, "vote": "distance", "distance": "euclidean"},
        {"k": 100, "temperature": 0.5, "distance": "euclidean"},
        {"k": 4, "train": "a"},
    ],
    "neighbor_purity": [{}, {"k": 3, "distance": "euclidean"}],
    "recall_at_k": [{}, {"k": 2, "distance": "euclidean"}],
    **{name: [{}, {"distance": "euclidean"}] for name in ("mrr", "map_at_r", "r_precision")},
    "hubness": [{}, {"k": 3, "distance": "euclidean"}],
    "power_law_alpha": [{"first": 1, "last": 100}, {"first": 2, "last": 3}],
}
CASES = [(name, options) for name in NAMES for options in OPTIONS.get(name, [{}])]
# What an oracle gives where that is not the value: values per sample, of which the value is the mean, or an array by name.
PARTS = {
    "silhouette": lambda found: found.per_sample,
    "soft_silhouette": lambda found: found.per_sample,
    "linear_probe": lambda found: found.per_sample,
    "gini": lambda found: found.arrays["per_channel"],
    "explained_variance": lambda found: found.arrays["curve"],
    "knn_accuracy": lambda found: found.per_sample,
    "neighbor_purity": lambda found: found.per_sample,
    **dict.fromkeys(
        ("recall_at_k", "mrr", "map_at_r", "r_precision"), lambda found: found.per_sample[~found.per_sample.isnan()]
    ),
}


def sample(activation="abs", **_):
    """(26, 5) rows of 4 classes with a dead channel, and of a class with one member; none negative if taken as they are."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(26, 5, generator=generator, dtype=torch.float64)
    features[:, 3] = 0
    labels = torch.tensor([0, 1, 2, 2, 0] * 5 + [7])
    return features.abs() if activation == "none" else features, labels


def logits():
    """(26, 4) of a linear head: a column for each class of the sample."""
    generator = torch.Generator().manual_seed(6)
    head = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    return sample()[0] @ head + torch.randn(4, generator=generator, dtype=torch.float64)


def splits():
    """(26,): the last row, alone in its class, is of the split that does not teach."""
    return np.array(list("aab" * 8 + "ab"), dtype=object)


def expected(name, options):
    features, labels = sample(**options)
    oracle = getattr(oracles, name)
    arguments = {"features": features.numpy(), "labels": labels, "logits": logits().numpy(), "splits": splits(), **options}
    return oracle(**{key: value for key, value in arguments.items() if key in inspect.signature(oracle).parameters})


@pytest.mark.parametrize(("name", "options"), CASES)
def test_equals_its_oracle(name, options):
    function = plugins.load("metrics", name)
    more = {"logits": logits()} if declaration(function).takes_logits else {}
    more |= {"splits": splits()} if declaration(function).takes_splits else {}
    found = function(*sample(**options), **options, **more)
    reference = expected(name, options)
    np.testing.assert_allclose(PARTS.get(name, float)(found), reference, atol=1e-10, rtol=1e-10)
    if name == "explained_variance":
        assert float(found) == 1 + int((reference < options.get("threshold", 0.95) - 1e-12).sum())
    else:
        assert float(found) == pytest.approx(np.nanmean(reference), abs=1e-10)


def test_every_oracle_is_compared(monkeypatch):
    """An oracle that is off by a little fails the comparison of its metric: no oracle is there for show."""
    functions = [name for name, each in vars(oracles).items() if inspect.isfunction(each) and not name.startswith("_")]
    assert sorted(functions) == sorted(OPTIONS) == NAMES
    for name in NAMES:
        oracle = getattr(oracles, name)
        shifted = functools.wraps(oracle)(lambda *args, oracle=oracle, **options: oracle(*args, **options) + 1e-8)
        with monkeypatch.context() as patched:
            patched.setattr(oracles, name, shifted)
            for options in OPTIONS[name]:
                with pytest.raises(AssertionError):
                    test_equals_its_oracle(name, options)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_a_metric_is_compared_with_its_oracle(name):
    varied = {option for options in OPTIONS[name] for option in options}
    assert varied == plugins.keywords(plugins.load("metrics", name)).keys() - {"anchors", "logits", "splits"}
