"""The numbers of each kind against other libraries or naive loops, and that each kind draws whatever it may meet."""

import inspect
import shutil

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances, silhouette_samples

from embedscope import metrics, plugins
from embedscope.errors import InputError, UndefinedError
from embedscope.evaluation import score
from embedscope.finetuning import finetune
from embedscope.metrics import STANDARD as METRICS
from embedscope.metrics.class_kl import class_kl
from embedscope.metrics.gini import gini_channels
from embedscope.plotting import STANDARD, KindDeclaration, declaration, plot, worst_classes
from embedscope.plotting.comparison import bounds
from embedscope.plotting.figure import WIDTHS, palette
from embedscope.plotting.inputs import prepare
from embedscope.plotting.pictures import picture
from embedscope.plotting.training import Band, _spread
from embedscope.store import read_features


def numbers(kind, *inputs, **options):
    return plugins.load("plotting", kind)(inputs, **options)


@pytest.fixture
def crowded():
    """Four classes that overlap, of unequal size, one of one member: (83, 5), (83,)."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 3], [40, 30, 12, 1])
    return np.abs(generator.normal(size=(83, 5)) + 1.5 * np.eye(5)[labels]), labels


@pytest.fixture
def run(make_store, blobs, tmp_path):
    """A run of two objectives, two trials each."""
    finetune(read_features(str(make_store(*blobs))), tmp_path / "run", epochs=3, trials=2)
    return tmp_path / "run"


@pytest.mark.parametrize("kind", plugins.names("plotting"))
def test_kind_keeps_its_contract(kind):
    function = plugins.load("plotting", kind)
    assert isinstance(declaration(function), KindDeclaration)
    first, *others = inspect.signature(function).parameters.values()
    assert first.name == "inputs"
    assert all(each.kind is each.KEYWORD_ONLY and each.default is not each.empty for each in others)


def test_what_is_drawn_by_default_is_there():
    assert set(STANDARD) <= set(plugins.names("plotting"))


def test_undeclared_function_is_no_kind():
    with pytest.raises(TypeError, match="lacks the @kind declaration"):
        declaration(lambda inputs: [])


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_silhouettes_against_scikit_learn(crowded, embed, distance):
    [found] = numbers("silhouette", embed(*crowded), distance=distance)
    expected = silhouette_samples(*crowded, metric=distance)
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert found.mean == pytest.approx(expected.mean(), abs=1e-12)
    assert found.below == pytest.approx((expected < 0).mean(), abs=1e-12)
    means = [expected[crowded[1] == label].mean() for label in range(4)]
    np.testing.assert_array_equal(found.classes, np.argsort(-np.array(means), kind="stable"))
    np.testing.assert_allclose(found.means, np.sort(means)[::-1], atol=1e-12)


def test_silhouettes_of_some_rows_are_against_all_rows(crowded, embed):
    shown = np.array([0, 3, 41, 42, 50, 71, 72, 82])
    [found] = numbers("silhouette", embed(*crowded, shown=shown))
    expected = silhouette_samples(*crowded)[shown]
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    of_class = [expected[crowded[1][shown] == label].mean() for label in range(4)]
    assert found.mean == pytest.approx(np.dot(of_class, [40, 30, 12, 1]) / 83, abs=1e-6)


def test_spectrum_against_scikit_learn(crowded, embed):
    [found] = numbers("spectrum", embed(*crowded))
    expected = PCA().fit(crowded[0]).explained_variance_ratio_
    np.testing.assert_allclose(found.shares, expected, atol=1e-12)
    np.testing.assert_allclose(found.curve, expected.cumsum(), atol=1e-12)
    for threshold, count in found.components.items():
        assert expected[:count].sum() >= threshold - 1e-12 > expected[: count - 1].sum()


def test_channels_against_naive_loops(crowded, embed):
    features, labels = crowded
    features = np.concatenate([features, np.zeros((83, 1))], axis=1)
    [found] = numbers("gini", embed(features, labels, class_names=["a", "b", "c", "d", "absent"]))
    owned = [0, 0, 0, 0]
    for channel in range(5):
        means = [np.mean([abs(x[channel]) for x, y in zip(features, labels, strict=True) if y == c]) for c in range(4)]
        owned[means.index(max(means))] += 1
        shares = np.array(means) / sum(means)
        assert found.impurity[channel] == pytest.approx(1 - (shares**2).sum(), abs=1e-12)
    assert found.impurity[5] == 1
    assert found.dead == 1
    assert found.owned.tolist() == [*owned, -1]


def test_channels_are_those_of_the_magnitudes(crowded, embed):
    magnitudes = np.random.default_rng(1).random((83, 7))
    [found] = numbers("gini", embed(*crowded, magnitudes=magnitudes))
    np.testing.assert_allclose(found.impurity, gini_channels(torch.from_numpy(magnitudes), torch.from_numpy(crowded[1])))


def test_classes_against_naive_loops(crowded, embed):
    features, labels = crowded
    [found] = numbers("classes", embed(features, labels, class_names=["a", "b", "c", "d", "absent"]))
    np.testing.assert_array_equal(found.classes, range(4))
    np.testing.assert_allclose(found.label_share, np.bincount(labels) / 83)
    kl = (found.label_share * np.log(found.label_share / found.feature_share)).sum()
    assert found.divergence["target_to_feature"] == pytest.approx(kl, abs=1e-12)
    assert kl == pytest.approx(float(class_kl(torch.from_numpy(features), torch.from_numpy(labels))), abs=1e-9)
    distances = pairwise_distances(features)
    counted, misplaced = {}, {}
    for row, label in enumerate(labels):
        means = {c: distances[row][labels == c].mean() for c in range(4) if c != label}
        pair = label, min(means, key=means.get)
        counted[pair] = counted.get(pair, 0) + 1
        own = distances[row][labels == label].sum() / max((labels == label).sum() - 1, 1)
        misplaced[pair] = misplaced.get(pair, 0) + (own > min(means.values()))
    assert {tuple(pair): count for pair, count in zip(found.pairs, found.nearest, strict=True)} == counted
    assert dict(zip(map(tuple, found.pairs), found.misplaced, strict=True)) == misplaced
    assert sum(misplaced.values()) > 3
    for (own, _), count, share in zip(found.pairs, found.nearest, found.share, strict=True):
        assert share == pytest.approx(count / (labels == own).sum())


def test_trajectory_says_what_score_says(make_store, blobs):
    sources = [f"{name}={make_store(blobs[0] * scale, blobs[1], name=name)}" for name, scale in (("a.h5", 1), ("b.h5", -2))]
    given = prepare(sources, layers=(), split=None, max_points=1000, seed=0)
    for stage, expected in zip(numbers("trajectory", *given.embeddings, seed=5), score(sources, ci=True, seed=5), strict=True):
        assert list(stage.metrics) == list(METRICS)
        for name, found in stage.metrics.items():
            assert found.value == expected.metrics[name].value
            if name in ("silhouette", "soft_silhouette"):
                assert found.ci95 == expected.metrics[name].ci95


def test_training_bands_are_mean_and_spread_over_trials(run):
    given = prepare([str(run)], layers=(), split=None, max_points=1000, seed=0)
    [found] = numbers("training", *given.runs)
    assert list(found.terms) == ["ce", "ce + 0.5*silhouette"]
    assert list(found.terms["ce + 0.5*silhouette"]) == ["objective", "ce", "silhouette"]
    lines = [np.genfromtxt(run / f"ce_0.5-silhouette/trial-{trial}/log.csv", delimiter=",", names=True) for trial in (0, 1)]
    for column, band in found.terms["ce + 0.5*silhouette"].items():
        values = np.stack([line[column] for line in lines])
        np.testing.assert_allclose(band.mean, values.mean(axis=0))
        np.testing.assert_allclose(band.std, values.std(axis=0, ddof=1))
        np.testing.assert_array_equal(band.epochs, [1, 2, 3])


def test_training_knows_validation_columns_and_trials_that_stopped_early(run):
    logs = {
        "ce/trial-0": "epoch,objective,ce,val_macro_f1\n1,2,2,0.5\n2,1,1,0.6\n3,0.5,0.5,\n",
        "ce/trial-1": "epoch,objective,ce,val_macro_f1\n1,4,4,0.7\n",
        "ce_0.5-silhouette/trial-0": "epoch,objective,ce,silhouette,val_macro_f1\n1,2,2,,0.1\n2,1,1,-0.2,0.2\n",
        "ce_0.5-silhouette/trial-1": "epoch,objective,ce,silhouette,val_macro_f1\n1,2,2,,0.1\n2,1,1,-0.4,0.2\n",
    }
    for name, text in logs.items():
        (run / name / "log.csv").write_text(text)
    given = prepare([str(run)], layers=(), split=None, max_points=1000, seed=0)
    [found] = numbers("training", *given.runs)
    assert list(found.validation) == ["macro_f1"]
    assert list(found.terms["ce"]) == ["objective", "ce"]
    band = found.validation["macro_f1"]["ce"]
    np.testing.assert_allclose(band.mean, [0.6, 0.6])
    np.testing.assert_allclose(band.std, [np.sqrt(0.02), 0])
    late = found.terms["ce + 0.5*silhouette"]["silhouette"]
    np.testing.assert_array_equal(late.epochs, [2])
    np.testing.assert_allclose(late.mean, [-0.3])
    [path] = plot([str(run)], run.parent / "a.svg", kinds=["training"])
    for text in ("validation macro_f1", "Training of run, 60 training samples of embedding", "mean over 2 trials"):
        assert text in path.read_text()


def test_comparison_against_scipy(run):
    given = prepare([str(run)], layers=(), split=None, max_points=1000, seed=0)
    [found] = numbers("comparison", *given.runs)
    assert found.before == given.runs[0].result.before
    for objective in given.runs[0].result.objectives:
        for metric, outcomes in found.after.items():
            values = [trial.after[metric] for trial in objective.trials]
            outcome = outcomes[objective.expression]
            np.testing.assert_array_equal(outcome.values, values)
            if np.ptp(values):
                expected = stats.t.interval(0.95, 1, loc=np.mean(values), scale=stats.sem(values))
                low, high = (
                    metrics.declaration(plugins.load("metrics", metric)).bounds
                    if metric in plugins.names("metrics")
                    else (0, 1)
                )
                np.testing.assert_allclose(outcome.ci95, np.clip(expected, low, high))
            called = objective.summary[metric].called
            assert outcome.differs == bool(called)


@pytest.mark.parametrize(("column", "limits"), [("loss", (0, None)), ("accuracy", (0, 1)), ("silhouette", (-1, 1))])
def test_bands_of_validation_end_at_what_is_possible(column, limits):
    band = Band(np.array([1, 2]), np.array([2.3, 0.1]), np.array([0.5, 0.4]))
    low, high = _spread(band, bounds(column))
    np.testing.assert_allclose(low, np.clip([1.8, -0.3], *limits), rtol=1e-15)
    np.testing.assert_allclose(high, np.clip([2.8, 0.5], *limits), rtol=1e-15)


def test_default_kinds_are_those_that_suit(make_store, blobs, run, tmp_path):
    store = str(make_store(*blobs, name="c.h5"))
    of_embeddings = {"tsne", "silhouette", "classes", "gini", "spectrum"}

    def drawn(*sources):
        return {path.stem for path in plot(sources, tmp_path / str(len(list(tmp_path.iterdir()))))}

    assert drawn(store) == of_embeddings
    assert drawn(str(run)) == of_embeddings | {"training", "comparison"}
    assert drawn(store, f"b={store}", f"c={store}") == of_embeddings | {"trajectory"}


def test_default_kinds_that_are_undefined_are_left_out_and_said(make_store, blobs, tmp_path):
    said = []
    store = str(make_store(blobs[0], np.zeros(90, dtype=int)))
    drawn = plot([store], tmp_path / "out", say=said.append)
    assert {path.stem for path in drawn} == {"tsne", "gini", "spectrum"}
    assert said == [f"skipping {kind}: needs at least 2 classes, got 1" for kind in ("silhouette", "classes")]
    with pytest.raises(UndefinedError, match="needs at least 2 classes, got 1"):
        plot([store], tmp_path / "a.png", kinds=["silhouette"])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("training", "training needs a run directory, which embedscope finetune writes; none was given"),
        ("trajectory", "trajectory needs two or more checkpoints or layers, in order; only one embedding was given"),
    ],
)
def test_kind_that_does_not_suit(make_store, blobs, tmp_path, kind, message):
    with pytest.raises(InputError, match=message):
        plot([str(make_store(*blobs))], tmp_path / "a.png", kinds=[kind])


def test_damaged_run(run, tmp_path):
    (run / "ce" / "trial-0" / "log.csv").write_text("epoch,ce\n1,x\n")
    with pytest.raises(InputError, match=r"log.csv is damaged or missing"):
        plot([str(run)], tmp_path / "a.png", kinds=["training"])


NAMES = [
    "$x^$",
    "<b>",
    "\u8c93",
    "a very long name of a class that goes on and on and on, and does not end before it has to",
    "",
]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("classes", "inputs"), [(2, 1), (5, 6), (45, 1), (130, 2)])
@pytest.mark.parametrize("kind", ["pca", "silhouette", "classes", "gini", "spectrum", "trajectory", "neighbors", "issues"])
def test_drawing(kind, width, classes, inputs, embed, tmp_path):
    """Nothing collapses, and nothing warns: long names, names in other scripts, classes of one member."""
    generator = np.random.default_rng(0)
    labels = np.r_[np.arange(classes), generator.integers(0, max(classes // 2, 1), size=100)]
    names = [f"{NAMES[place % 5]}{place}" for place in range(classes)]
    features = generator.normal(size=(len(labels), 9))
    given = [embed(features * each, labels, name=f"{NAMES[3]} {each}", class_names=names) for each in range(1, inputs + 1)]
    records = numbers(kind, *given)
    path = tmp_path / "a.svg"
    with picture(path, WIDTHS[width], lambda: palette(names, list(range(classes)), "because"), 1) as [sheet]:
        declaration(plugins.load("plotting", kind)).draw(sheet, records)
    assert sheet.height < 45
    assert path.read_text().startswith("<?xml")


def test_a_damaged_run_is_said(run):
    (run / "ce" / "trial-0" / "log.csv").unlink()
    assert plot([str(run)], run.parent / "a.svg", kinds=["pca"])
    with pytest.raises(InputError, match=r"log.csv is damaged or missing"):
        plot([str(run)], run.parent / "b.svg", kinds=["training"])
    (run / "run.json").write_text(
        '{"schema": "embedscope.finetune/1", "objectives": [], "options": {}, "data": {"train": 2, "test": 2}, "seconds": 1}'
    )
    with pytest.raises(InputError, match=r"run.json is damaged: no objective, or an objective without trials"):
        plot([str(run)], run.parent / "c.svg")
    (run / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run.json is damaged"):
        plot([str(run)], run.parent / "d.svg")


def test_runs_of_one_name_are_told_apart(run, tmp_path):
    shutil.copytree(run, tmp_path / "other" / run.name)
    given = prepare([str(run), str(tmp_path / "other" / run.name)], layers=(), split=None, max_points=100, seed=0)
    assert [each.name for each in given.runs] == [str(run), str(tmp_path / "other" / run.name)]
    assert len({each.name for each in given.embeddings}) == len(given.embeddings)


def test_classes_of_one_sample_are_not_the_worst(make_store):
    labels = np.array([0] * 10 + [1] * 10 + [2])
    rows = np.random.default_rng(0).normal(size=(21, 4))
    given = prepare([str(make_store(rows, labels))], layers=(), split=None, max_points=100, seed=0)
    assert worst_classes(given.embeddings[0])[-1] == 2


def test_thinned_inputs_show_the_same_rows_though_one_lacks_a_row(make_store):
    rows, labels = np.random.default_rng(0).normal(size=(300, 4)), np.arange(300) % 3
    whole = make_store(rows, labels)
    less = make_store(rows[:-1], labels[:-1], name="less.h5")
    given = prepare([str(whole), str(less)], layers=(), split=None, max_points=60, seed=0)
    first, second = ({*each.ids} for each in given.embeddings)
    assert second == first - {"row299"}


@pytest.mark.parametrize("differs", [False, True])
def test_a_comparison_says_of_a_difference_only_what_was_called(differs, monkeypatch, make_store, blobs, tmp_path):
    finetune(read_features(str(make_store(*blobs))), tmp_path / "run", epochs=1, trials=2)
    monkeypatch.setattr("embedscope.plotting.comparison._differs", lambda summary: differs)
    plot([str(tmp_path / "run")], tmp_path / "a.svg", kinds=["comparison"])
    text = (tmp_path / "a.svg").read_text()
    assert ("differs from that of" in text, "No significant difference in" in text) == (differs, not differs)
