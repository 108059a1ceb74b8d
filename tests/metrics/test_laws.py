"""Every metric is held to each line of its declaration."""

import pytest
import torch

from embedscope import plugins
from embedscope.errors import UndefinedError
from embedscope.metrics import INVARIANCES, Result, declaration, metric


def load(name):
    return plugins.load("metrics", name)


# Those that read logits too are held to their laws in test_logits.py.
NAMES = [name for name in plugins.names("metrics") if not declaration(load(name)).takes_logits]


@pytest.fixture
def sample():
    """(60, 6) float64 rows of 4 unequal classes, (60,) labels, some classes overlapping."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.tensor([0, 1, 2, 3, 3, 1] * 10)
    features = (
        torch.randn(60, 6, generator=generator, dtype=torch.float64) + torch.eye(6, dtype=torch.float64)[labels] * 2 + 0.5
    )
    return features, labels


def transformed(features, name):
    generator = torch.Generator().manual_seed(8)
    width = features.shape[1]
    if name == "translation":
        return features + 3 * torch.arange(1, width + 1)
    if name == "rotation":
        return features @ torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
    if name == "scale":
        return features * 37
    if name == "row_scale":
        return features * torch.linspace(0, 8, len(features), dtype=torch.float64).exp()[:, None]
    return features * torch.tensor([100.0, 1, 2, 3, 4, 5], dtype=torch.float64)  # channel_scale


@pytest.mark.parametrize("change", INVARIANCES)
@pytest.mark.parametrize("name", NAMES)
def test_invariant_exactly_where_declared(name, change, sample):
    features, labels = sample
    function = load(name)
    before, after = float(function(features, labels)), float(function(transformed(features, change), labels))
    if change in declaration(function).invariant:
        assert after == pytest.approx(before, abs=1e-9)
    else:
        assert abs(after - before) > 1e-6


# A metric with a seed draws rows by position.
@pytest.mark.parametrize("name", [name for name in NAMES if "seed" not in plugins.keywords(load(name))])
def test_order_and_names_of_labels_do_not_matter(name, sample):
    features, labels = sample
    function = load(name)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(9))
    renamed = torch.tensor([40, -3, 7, 0])[labels]
    expected = float(function(features, labels))
    assert float(function(features[order], renamed[order])) == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("noise", [0.0, 0.01, 1.0, 100.0])
def test_bounds(name, noise, sample):
    features, labels = sample
    low, high = declaration(load(name)).bounds
    try:
        value = float(load(name)(torch.eye(6, dtype=torch.float64)[labels] + noise * (features - 0.5), labels))
    except UndefinedError as error:
        pytest.skip(f"undefined: {error}")
    assert low is None or value >= low - 1e-9
    assert high is None or value <= high + 1e-9


@pytest.mark.parametrize("name", [name for name in NAMES if declaration(load(name)).better])
def test_better_points_to_the_better_embedding(name, sample):
    _, labels = sample
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    # A channel a class, and pure noise whose channels answer to rare classes only.
    good = torch.eye(6, dtype=torch.float64)[labels][:, :4] + 0.01
    bad = noise.abs() * torch.tensor([5.0, 1, 1, 1], dtype=torch.float64)[labels][:, None]
    better = declaration(load(name)).better
    good_value, bad_value = float(load(name)(good, labels)), float(load(name)(bad, labels))
    assert good_value > bad_value if better == "higher" else good_value < bad_value


@pytest.mark.parametrize("name", NAMES)
def test_input_is_left_alone(name, sample):
    features, labels = sample
    copies = features.clone(), labels.clone()
    load(name)(features, labels)
    assert torch.equal(features, copies[0])
    assert torch.equal(labels, copies[1])


@pytest.mark.parametrize("name", NAMES)
def test_float16_is_measured_as_its_float64(name, sample):
    features, labels = sample
    half = features.half()
    # Euclidean products are in float32, everything else in float64.
    assert float(load(name)(half, labels)) == pytest.approx(float(load(name)(half.double(), labels)), abs=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if declaration(load(name)).takes_anchors])
def test_anchors_are_measured_against_all_rows(name, sample):
    anchors = torch.arange(0, 60, 7)
    some, everyone = load(name)(*sample, anchors=anchors), load(name)(*sample)
    torch.testing.assert_close(some.per_sample, everyone.per_sample[anchors], atol=1e-12, rtol=0)
    if everyone.nearest is None:
        assert some.nearest is None
    else:
        assert torch.equal(some.nearest, everyone.nearest[anchors])


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_no_tensor(name, sample):
    """What a store gives: a shape, a dtype and row slices."""

    class Lazy:
        shape, dtype = sample[0].shape, sample[0].dtype

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            return sample[0][rows]

    assert float(load(name)(Lazy(), sample[1])) == pytest.approx(float(load(name)(*sample)), abs=1e-12)


def test_declaration_refuses_unknown_invariances():
    with pytest.raises(ValueError, match="unknown invariances"):
        metric(better=None, bounds=(0, 1), invariant=("mirror",), reference="doi:1")


def test_declaration_of_a_plain_function():
    with pytest.raises(TypeError, match="lacks the @metric declaration"):
        declaration(print)


def test_result_reads_as_its_value():
    found = Result(torch.tensor(0.25))
    assert (float(found), f"{found:.1f}", type(found.value)) == (0.25, "0.2", float)
