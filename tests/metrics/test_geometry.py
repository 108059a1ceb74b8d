"""Spread of classes, neural collapse, directions and the intrinsic dimension: against scikit-learn, closed forms and edges."""

import numpy as np
import pytest
import torch
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score

from embedscope import plugins
from embedscope.errors import UndefinedError, UsageError
from embedscope.evaluation import evaluate
from embedscope.ops.blocks import limits

NAMES = (
    "calinski_harabasz", "davies_bouldin", "cdnv", "nc1", "nc2", "lda_rank", "alignment", "uniformity", "anisotropy",
    "collapse_std", "two_nn", "linear_probe",
)  # fmt: skip
OF_CLASSES = ("calinski_harabasz", "davies_bouldin", "cdnv", "nc1", "nc2", "lda_rank", "linear_probe")


def load(name):
    return plugins.load("metrics", name)


def data(rows=300, width=7, classes=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    features = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return features + 2 * torch.randn(classes, width, generator=generator, dtype=torch.float64)[labels] + 3, labels


def collapsed(classes=4, rows=10):
    """Every class at one corner of a simplex."""
    return torch.eye(classes, dtype=torch.float64).repeat_interleave(rows, dim=0), torch.arange(classes).repeat_interleave(rows)


@pytest.mark.parametrize(
    ("name", "score"), [("calinski_harabasz", calinski_harabasz_score), ("davies_bouldin", davies_bouldin_score)]
)
def test_equals_scikit_learn(name, score):
    features, labels = data()
    # scikit-learn expands |x - y|², which costs half of the digits of near rows.
    assert float(load(name)(features, labels)) == pytest.approx(score(features, labels), rel=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_of_any_size_give_the_same(name):
    features, labels = data()
    with limits(memory=2**18 if name == "linear_probe" else 2**13):  # a probe is fitted to what fits in memory
        small = float(load(name)(features, labels))
    assert small == pytest.approx(float(load(name)(features, labels)), rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_more_dimensions_than_rows_give_what_a_rotation_into_fewer_does(name):
    features, labels = data(rows=30, width=7)
    if name == "collapse_std":
        pytest.skip("is of channels")
    generator = torch.Generator().manual_seed(3)
    wide = features @ torch.linalg.qr(torch.randn(40, 7, generator=generator, dtype=torch.float64))[0].T
    options = {"C": 1e-9} if name == "linear_probe" else {}  # standardized channels are others after a rotation
    found, expected = float(load(name)(wide, labels, **options)), float(load(name)(features, labels, **options))
    if name == "linear_probe":
        assert 0 <= found <= 1
    else:
        # The 33 further dimensions of the LDA rank hold 1e-7 each.
        assert found == pytest.approx(expected, rel=1e-4 if name == "lda_rank" else 1e-9)


def test_a_collapsed_embedding():
    features, labels = collapsed()
    assert float(load("nc1")(features, labels)) == 0
    assert float(load("nc2")(features, labels)) == pytest.approx(0, abs=1e-12)
    assert load("nc2")(features, labels).arrays["angle_error"] == pytest.approx(0, abs=1e-12)
    assert float(load("cdnv")(features, labels)) == 0
    assert float(load("davies_bouldin")(features, labels)) == 0
    assert float(load("alignment")(features, labels)) == 0
    assert float(load("lda_rank")(features, labels)) == pytest.approx(3, abs=1e-4)
    assert float(load("linear_probe")(features, labels)) == 1
    with pytest.raises(UndefinedError, match="no spread within classes"):
        load("calinski_harabasz")(features, labels)


def test_nc1_of_a_known_spread():
    """Rows off their corner along an axis in which no class differs, and then along one in which they do."""
    features, labels = collapsed(rows=2)
    across = torch.cat([features, torch.tensor([[0.5], [-0.5]] * 4, dtype=torch.float64)], dim=1)
    assert float(load("nc1")(across, labels)) == pytest.approx(0, abs=1e-15)
    assert float(load("nc1")(across, labels, form="trace")) == pytest.approx(0.25 / 0.75)
    along = torch.tensor([[1.5], [0.5], [-0.5], [-1.5]], dtype=torch.float64)
    assert float(load("nc1")(along, torch.tensor([0, 0, 1, 1]))) == pytest.approx(0.25 / 1 / 2)


def test_nc1_reads_a_tiny_spread_beside_far_classes():
    """S_W is gathered about the class means, not as what S_T leaves over."""
    features, labels = collapsed(rows=50)
    noise = 1e-9 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ratio = float(load("nc1")(features + noise, labels)) / float(load("nc1")(features + 1e3 * noise, labels))
    assert ratio == pytest.approx(1e-6, rel=1e-4)


def test_nc2_of_two_classes_is_0():
    features, labels = data(classes=2)
    found = load("nc2")(features, labels)
    assert float(found) == pytest.approx(0, abs=1e-12)
    assert found.note == "always 0 with two classes"


@pytest.mark.parametrize("name", OF_CLASSES)
def test_one_class_is_undefined(name):
    features, labels = data()
    with pytest.raises(UndefinedError, match=r"one class|two classes"):
        load(name)(features, torch.zeros_like(labels))


@pytest.mark.parametrize("name", ["davies_bouldin", "cdnv"])
def test_two_classes_at_one_place(name):
    features = torch.tensor([[1.0], [-1.0], [2.0], [-2.0], [5.0]])
    with pytest.raises(UndefinedError, match="two classes have the same mean"):
        load(name)(features, torch.tensor([0, 0, 1, 1, 2]))


@pytest.mark.parametrize("name", ["calinski_harabasz", "davies_bouldin", "cdnv", "nc1", "lda_rank"])
def test_classes_of_one_row_each_have_no_spread_and_are_not_called_perfect(name):
    features, _ = data(rows=12)
    with pytest.raises(UndefinedError, match="no spread within classes"):
        load(name)(features, torch.arange(12))


@pytest.mark.parametrize("name", ["nc1", "nc2", "lda_rank"])
@pytest.mark.parametrize("rows", [6, 300])
def test_equal_class_means(name, rows):
    features = torch.full((rows, 9), 0.1)
    with pytest.raises(UndefinedError, match="all class means are equal"):
        load(name)(features, torch.arange(rows) % 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alignment", "^no class has two nonzero rows$"),
        ("uniformity", "^fewer than two rows are nonzero$"),
        ("anisotropy", "^fewer than two rows are nonzero$"),
        ("collapse_std", "^fewer than two rows are nonzero$"),
    ],
)
def test_zero_rows_are_left_out_and_counted(name, message):
    features, labels = data(rows=80)
    with_zeros = features.clone()
    with_zeros[[3, 40, 41]] = 0
    left = features[(with_zeros != 0).any(dim=1)], labels[(with_zeros != 0).any(dim=1)]
    found = load(name)(with_zeros, labels)
    assert float(found) == pytest.approx(float(load(name)(*left)), rel=1e-12)
    assert found.note == "3 zero rows are left out"
    with pytest.raises(UndefinedError, match=message):
        load(name)(torch.zeros_like(features), labels)


def test_directions_of_known_embeddings():
    same, labels = torch.full((20, 4), 0.1), torch.arange(20) % 2
    assert float(load("uniformity")(same, labels)) == pytest.approx(0, abs=1e-7)
    assert float(load("anisotropy")(same, labels)) == 1
    assert float(load("collapse_std")(same, labels)) == pytest.approx(0, abs=1e-15)
    opposite = torch.tensor([[1.0, 0], [-1, 0]], dtype=torch.float64)
    assert float(load("anisotropy")(opposite, torch.tensor([0, 1]))) == -1
    assert float(load("uniformity")(opposite, torch.tensor([0, 1]))) == pytest.approx(-8)
    sphere = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    spread = load("collapse_std")(sphere, torch.zeros(2000, dtype=torch.int64))
    assert float(spread) == pytest.approx(1 / 8, rel=0.01)
    assert spread.arrays["uniform"] == 1 / 8


def test_uniformity_is_the_loss():
    features, labels = data(rows=40)
    criterion = plugins.load("losses", "uniformity")(5, 7, t=1.5)
    assert float(load("uniformity")(features, labels, t=1.5)) == pytest.approx(
        float(criterion(features, labels, features)), abs=1e-12
    )


def test_uniformity_has_the_interval_of_a_jackknife():
    features, labels = data(rows=60)
    found = load("uniformity")(features, labels)
    values = load("uniformity").declaration.pseudo_values(features, labels, found, fixed=False, t=2.0)
    left_out = torch.tensor(
        [float(load("uniformity")(features[torch.arange(60) != row], labels[torch.arange(60) != row])) for row in range(60)]
    )
    jackknife = 60 * float(found) - 59 * left_out.double()
    # First order: what is left is of the order of 1 / N of the spread.
    assert float(values.std()) == pytest.approx(float(jackknife.std()), rel=0.05)
    assert np.corrcoef(values, jackknife)[0, 1] > 0.999


def test_two_nn_of_a_plane_in_many_dimensions():
    generator = torch.Generator().manual_seed(0)
    plane = torch.rand(2000, 2, generator=generator, dtype=torch.float64) @ torch.randn(2, 30, generator=generator).double()
    # 2 within the edge effect and the noise of 2,000 rows.
    assert float(load("two_nn")(plane, torch.zeros(2000, dtype=torch.int64))) == pytest.approx(2, abs=0.15)


def test_two_nn_leaves_duplicates_out_and_counts_them():
    features, labels = data(rows=60)
    found = load("two_nn")(torch.cat([features, features[:4]]), torch.cat([labels, labels[:4]]))
    assert found.note == "8 rows with duplicates are left out"
    with pytest.raises(UndefinedError, match="have no duplicate"):
        load("two_nn")(features[:1].expand(9, -1), labels[:9])
    with pytest.raises(UndefinedError, match="at least three rows"):
        load("two_nn")(features[:2], labels[:2])


def test_linear_probe_of_lone_rows_and_many_rows(monkeypatch):
    features, labels = data(rows=100)
    labels[7] = 11
    found = load("linear_probe")(features, labels, C=0.1)
    assert float(found.per_sample[7]) == 0
    assert found.note == "1 class has fewer rows than the 5 folds"
    monkeypatch.setattr("embedscope.ops.probes._WORK", 0)
    monkeypatch.setattr("embedscope.ops.probes._LEAST_PER_CLASS", 10)
    assert "fitted to 50 of 80 training rows per fold" in load("linear_probe")(*data(rows=100), C=0.1).note


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nc1", {"form": "ratio"}),
        ("lda_rank", {"delta": 0}),
        ("lda_rank", {"divisors": "n"}),
        ("uniformity", {"t": -1}),
        ("two_nn", {"discard": 0}),
        ("anisotropy", {"centered": "yes"}),
        ("linear_probe", {"folds": 1}),
        ("linear_probe", {"C": -1}),
    ],
)
def test_bad_options(name, options):
    features, labels = data(rows=20)
    with pytest.raises(UsageError, match=next(iter(options))):
        load(name)(features, labels, **options)


def test_one_run_reads_the_rows_once_for_all_that_is_gathered(monkeypatch):
    features, labels = data(rows=60)
    reads = []
    from embedscope.ops import gathering

    original = gathering.over_rows
    monkeypatch.setattr(gathering, "over_rows", lambda *args: reads.append(1) or original(*args))
    names = ["calinski_harabasz", "cdnv", "nc1", "nc2", "lda_rank", "alignment", "anisotropy", "collapse_std"]
    scores = evaluate((features, labels), names)
    assert len(reads) == 1
    for name in names:
        assert scores.metrics[name].value == pytest.approx(float(load(name)(features, labels)), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_intervals(name):
    features, labels = data(rows=150, classes=3)
    found = evaluate((features, labels), name, ci=True).metrics[name]
    if name in ("calinski_harabasz", "lda_rank", "two_nn"):
        assert found.ci95 is None
        assert "depends on the number of samples" in found.note
    else:
        assert found.ci95[0] < found.value < found.ci95[1]
