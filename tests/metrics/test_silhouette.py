import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from embedscope.errors import UndefinedError, UsageError
from embedscope.metrics.silhouette import silhouette, silhouette_samples
from embedscope.ops.blocks import limits
from embedscope.ops.class_distances import class_distances
from embedscope.ops.silhouettes import hard_silhouette
from tests.oracles import metrics as oracles

DISTANCES = ("euclidean", "sqeuclidean", "cosine")


def sklearn_samples(features, labels, distance):
    return torch.from_numpy(sklearn_metrics.silhouette_samples(features.numpy(), labels.numpy(), metric=distance))


@pytest.mark.parametrize("distance", DISTANCES)
def test_digits_equal_sklearn(digits, distance):
    # Whole numbers: scikit-learn's own product is exact here, so nothing but rounding of means is left.
    features, labels = digits
    found = silhouette_samples(features, labels, distance=distance)
    torch.testing.assert_close(found, sklearn_samples(features, labels, distance), atol=1e-10, rtol=0)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("rows", "classes"), [(40, 2), (60, 7), (120, 60), (50, 49)])
def test_random_equal_sklearn(rows, classes, distance):
    # From two classes to N - 1, so with one-member classes; labels with gaps, not sorted, some negative.
    generator = torch.Generator().manual_seed(rows)
    features = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    labels = (torch.arange(rows) % classes)[torch.randperm(rows, generator=generator)] * 3 - 5
    found = silhouette_samples(features, labels, distance=distance)
    torch.testing.assert_close(found, sklearn_samples(features, labels, distance), atol=1e-10, rtol=0)


@pytest.mark.parametrize("distance", DISTANCES)
def test_duplicates_equal_naive_loops(distance):
    # scikit-learn is 2e-8 off here: its product leaves equal rows at a distance that is not zero.
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(24, 6, generator=generator, dtype=torch.float64)
    features[4:8] = features[0]
    features[12] = features[1]
    features[20:22] = 0
    labels = torch.tensor([0, 1, 2, 0] * 5 + [3, 3, 4, 5])
    found = silhouette_samples(features, labels, distance=distance)
    np.testing.assert_allclose(found, oracles.silhouette(features, labels, distance), atol=1e-10, rtol=0)


def test_zero_rows_have_cosine_zero_like_sklearn():
    features = torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 2], [3, 3], [0, 0], [-1, 1]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    expected = sklearn_samples(features, labels, "cosine")
    torch.testing.assert_close(silhouette_samples(features, labels, distance="cosine"), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_float32_features_far_from_the_origin(distance, offset):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(300) % 10
    features = torch.randn(300, 32, generator=generator) + torch.randn(10, 32, generator=generator)[labels] + offset
    exact = torch.from_numpy(oracles.silhouette(features[:300:6].double(), labels[:300:6], distance))
    found = silhouette_samples(features[:300:6], labels[:300:6], distance=distance)
    # Euclidean products of float32 rows are in float32, about the mean; the closed forms are in float64.
    torch.testing.assert_close(found, exact, atol=1e-6 if distance == "euclidean" else 1e-10, rtol=0)


@pytest.mark.parametrize("distance", DISTANCES)
def test_two_collapsed_classes_in_one_place_are_zero(distance):
    features = torch.tensor([[0.1, 0.7, 0.3]]).repeat(9, 1).double()
    features[6:] += torch.tensor([2.0, -1.0, 0.5])
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    found = silhouette_samples(features, labels, distance=distance)
    assert found.tolist() == pytest.approx([0.0] * 6 + [1.0] * 3, abs=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
def test_constant_features_are_zero(distance):
    found = silhouette_samples(torch.full((30, 3), 1.1), torch.arange(30) % 3, distance=distance)
    assert found.abs().max() == 0


def test_blocks_do_not_change_the_result(digits, monkeypatch):
    features, labels = digits[0][:200], digits[1][:200]
    for distance in DISTANCES:
        whole = silhouette_samples(features, labels, distance=distance)
        monkeypatch.setattr("embedscope.ops.all_pairs._TILE", 17)
        with limits(memory=20_000):
            torch.testing.assert_close(silhouette_samples(features, labels, distance=distance), whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_float_dtype_gives_float64(digits, dtype):
    features, labels = digits[0][:100].to(dtype), digits[1][:100]  # 0..16 is exact in all of them
    found = silhouette_samples(features, labels)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, silhouette_samples(features.double(), labels), atol=1e-6, rtol=0)


def labeled(name):
    """Features that are hard on float32: (600, 48), and labels of 12 classes."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(600) % 12
    centers = torch.randn(12, 48, generator=generator)
    noise = torch.randn(600, 48, generator=generator)
    if name == "offset":
        return centers[labels] + noise + 1000, labels
    if name == "tiny clusters":
        return centers[labels] + 1e-3 * noise, labels
    if name == "tiny clusters in pairs":
        return centers[labels // 2] + 1e-3 * (noise + 3 * centers[labels]), labels
    if name == "duplicates":
        return (centers[labels] + noise)[torch.randint(0, 300, (600,), generator=generator)], labels
    if name == "collapsed classes":
        return centers[labels], labels
    if name == "classes of 1 to 300":
        labels = torch.repeat_interleave(torch.arange(12), torch.tensor([1, 1, 2, 3, 5, 9, 17, 30, 52, 80, 100, 300]))
        return centers[labels] + noise, labels
    if name == "outlier":
        features = centers[labels] + noise
        features[0] = 1e6
        return features, labels
    if name.startswith("outlier of"):
        features = centers[labels] + noise
        features[0] = float(name.split()[-1])
        return features, labels
    if name == "pairs around a few centers":
        labels = torch.arange(600) % 300
        return 10 * centers[labels % 5] + 0.3 * torch.randn(300, 48, generator=generator)[labels] + 1.3 * noise, labels
    if name == "far class":
        return centers[labels] + noise + 1e4 * (labels == 11)[:, None], labels
    if name in ("tiny", "huge"):
        return (centers[labels] + noise) * (1e-30 if name == "tiny" else 1e30), labels
    if name == "few dimensions":
        return centers[labels, :2] + 0.3 * noise[:, :2], labels
    return centers[labels] + noise, labels


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("ordinary", 1e-6),
        ("few dimensions", 1e-6),
        ("classes of 1 to 300", 1e-6),
        ("outlier", 1e-5),
        ("outlier of 1e15", 1e-5),
        ("outlier of 1e20", 1e-5),
        ("outlier of 1e30", 1e-5),
        ("pairs around a few centers", 1e-6),
        ("far class", 1e-5),
        ("tiny", 1e-6),
        ("huge", 1e-6),
        ("offset", 1e-5),
        ("tiny clusters", 1e-5),
        ("tiny clusters in pairs", 1e-5),
        ("duplicates", 1e-5),
        ("collapsed classes", 1e-5),
    ],
)
def test_float32_is_near_float64(name, bound, monkeypatch):
    monkeypatch.setattr("embedscope.ops.all_pairs._TILE", 100)
    features, labels = labeled(name)
    error = silhouette_samples(features, labels) - silhouette_samples(features.double(), labels)
    assert error.abs().max() <= bound


@pytest.mark.parametrize(("rows", "classes"), [(60, 30), (61, 7), (64, 2), (50, 49), (90, 5)])
@pytest.mark.parametrize("tile", [1, 7, 16, 1000])
def test_every_way_of_cutting_gives_the_same(rows, classes, tile, monkeypatch):
    """All pairs once, and some rows against all, with blocks that hold many classes, one, or a part of one."""
    generator = torch.Generator().manual_seed(rows)
    features = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    labels = (torch.rand(rows, generator=generator) ** 2 * classes).long()
    expected = sklearn_samples(features, labels, "euclidean")
    monkeypatch.setattr("embedscope.ops.all_pairs._TILE", tile)
    torch.testing.assert_close(silhouette_samples(features, labels), expected, atol=1e-10, rtol=0)
    anchors = torch.arange(1, rows, 3)
    found = class_distances(features, labels, anchors=anchors)
    torch.testing.assert_close(hard_silhouette(found.own, found.other, found.alone), expected[anchors], atol=1e-10, rtol=0)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("factor", [2.0**-480, 2.0**480])
def test_scale_does_not_matter_in_float64(distance, factor):
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 5, generator=generator, dtype=torch.float64), torch.arange(40) % 4
    expected = silhouette_samples(features, labels, distance=distance)
    found = silhouette_samples(features * factor, labels, distance=distance)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("factor", [1e-170, 1e160, 1e300])
def test_unit_rows_of_any_length(factor):
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 5, generator=generator, dtype=torch.float64), torch.arange(40) % 4
    expected = silhouette_samples(features, labels, distance="cosine")
    found = silhouette_samples(features * factor, labels, distance="cosine")
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_few_classes_in_a_block_where_memory_is_short():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(300, 4, generator=generator, dtype=torch.float64), torch.arange(300) % 60
    whole = silhouette_samples(features, labels)
    with limits(memory=4 * 3 * 8 * 300 * 7):
        torch.testing.assert_close(silhouette_samples(features, labels), whole, atol=1e-12, rtol=0)


def test_half_as_many_classes_as_rows():
    """15,000 classes of two rows: N x K alone would be 3.6 GB."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30_000, 8, generator=generator)
    labels = torch.arange(30_000) % 15_000
    features[15_000:] = features[:15_000] + 0.3 * features[15_000:]
    found = class_distances(features, labels)
    anchors = torch.arange(0, 30_000, 1500)
    exact = torch.cdist(features[anchors].double(), features.double(), compute_mode="donot_use_mm_for_euclid_dist")
    means = torch.zeros(len(anchors), 15_000, dtype=torch.float64).index_add_(1, labels, exact) / 2
    rows = torch.arange(len(anchors))
    own = means[rows, labels[anchors]] * 2
    means[rows, labels[anchors]] = torch.inf
    # A mean of one or two distances: the bound of a single float32 distance, eps / (2 * 2^-6), see `ops.pairwise`.
    torch.testing.assert_close(found.own[anchors], own, atol=0, rtol=4e-6)
    torch.testing.assert_close(found.other[anchors], means.min(dim=1).values, atol=0, rtol=4e-6)
    assert torch.equal(found.nearest[anchors], means.argmin(dim=1))


@pytest.mark.parametrize("distance", DISTANCES)
def test_nearest_is_the_class_with_the_smallest_mean(distance):
    generator = torch.Generator().manual_seed(6)
    features, labels = torch.randn(40, 3, generator=generator, dtype=torch.float64), torch.arange(40) % 5 * 2
    found = class_distances(features, labels, distance=distance)
    for row, (_, others) in enumerate(oracles._means(features.tolist(), labels.tolist(), distance)):
        assert int(found.nearest[row]) == min(others, key=others.get)
        assert float(found.other[row]) == pytest.approx(min(others.values()), abs=1e-10)


def test_one_class_is_undefined():
    with pytest.raises(UndefinedError, match="needs at least 2 classes, got 1"):
        silhouette(torch.randn(5, 2), torch.zeros(5, dtype=torch.int64))


def test_unknown_distance():
    with pytest.raises(UsageError, match="no distance 'cosin'; did you mean 'cosine'"):
        silhouette(torch.randn(4, 2), torch.tensor([0, 0, 1, 1]), distance="cosin")
