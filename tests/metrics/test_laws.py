"""Every metric is held to each line of its declaration."""

import pytest
import torch

from embedscope import plugins
from embedscope.metrics import INVARIANCES, declaration, metric
from embedscope.metrics import measure as measure_all

NAMES = plugins.names("metrics")


def measure(features, labels, spec, class_names, **options):
    return measure_all(features, labels, [spec], class_names, **options)[0].measurement


def load(name):
    return plugins.load("metrics", name)


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


@pytest.mark.parametrize("name", NAMES)
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
    value = float(load(name)(torch.eye(6, dtype=torch.float64)[labels] + noise * (features - 0.5), labels))
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


@pytest.mark.parametrize("name", [name for name in NAMES if declaration(load(name)).details])
def test_details_hold_the_value(name, sample):
    details = declaration(load(name)).details
    assert float(details(*sample)["value"]) == float(load(name)(*sample))


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_no_tensor(name, sample):
    """What a store gives: a shape, a dtype and row slices."""

    class Lazy:
        shape, dtype = sample[0].shape, sample[0].dtype

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            return sample[0][rows]

    assert float(load(name)(Lazy(), sample[1])) == pytest.approx(float(load(name)(*sample)), abs=1e-12)


def test_rows_are_read_once_for_all_that_can_share_a_pass(sample):
    read = []

    class Counted:
        shape, dtype = sample[0].shape, sample[0].dtype

        def __getitem__(self, rows):
            read.append(rows)
            return sample[0][rows]

    names = ["gini", "class_kl", "explained_variance", "rankme", "stable_rank"]
    together = measure_all(Counted(), sample[1], [plugins.Spec(name) for name in names], list("abcd"))
    assert len(read) == 1
    for name, found in zip(names, together, strict=True):
        assert found.measurement.value == pytest.approx(float(load(name)(*sample)), abs=1e-13)
    read.clear()
    specs = [plugins.parse("silhouette(distance='cosine')"), plugins.parse("soft_silhouette(distance='cosine')")]
    measure_all(Counted(), sample[1], specs, list("abcd"))
    assert len(read) == 3  # class moments once for both, then each


def test_measure_collects_values_by_class(sample):
    found = measure(*sample, plugins.parse("silhouette(distance='cosine')"), ["a", "b", "c", "d"])
    assert found.options == {"distance": "cosine"}
    assert list(found.per_class) == ["a", "b", "c", "d"]
    counts = torch.bincount(sample[1]).tolist()
    mean = sum(value * count for value, count in zip(found.per_class.values(), counts, strict=True)) / 60
    assert found.value == pytest.approx(mean, abs=1e-12)


def test_measure_reads_magnitudes_where_a_metric_wants_them(sample):
    features, labels = sample
    by_channel = measure(features, labels, plugins.parse("gini"), list("abcd"), magnitudes=features**2)
    assert by_channel.value == pytest.approx(float(load("gini")(features**2, labels)), abs=0)
    by_row = measure(features, labels, plugins.parse("silhouette"), list("abcd"), magnitudes=features**2)
    assert by_row.value == pytest.approx(float(load("silhouette")(features, labels)), abs=0)


def test_measure_gives_null_with_the_reason(sample):
    found = measure(sample[0], torch.zeros_like(sample[1]), plugins.parse("silhouette"), ["only"])
    assert found.value is None
    assert found.note == "needs at least 2 classes, got 1"


def test_declaration_refuses_unknown_invariances():
    with pytest.raises(ValueError, match="unknown invariances"):
        metric(better=None, bounds=(0, 1), invariant=("mirror",), reference="doi:1")


def test_declaration_of_a_plain_function():
    with pytest.raises(TypeError, match="lacks the @metric declaration"):
        declaration(print)
