"""The pass that computes few pairs, against the ones that compute all; and what its bounds rule out, against the truth."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from embedscope.errors import InputError
from embedscope.ops import blocks, class_distances, nearest_class, pass_costs
from embedscope.ops.class_bounds import ClassBounds, candidates, class_bounds, square_of_upper, stage_one, stage_two
from embedscope.ops.class_moments import present_classes
from embedscope.ops.frames import surveyed
from embedscope.ops.nearest_class import laid_out
from embedscope.ops.sorted_rows import SortedRows, sorted_on_disk
from tests.conftest import ROOT
from tests.oracles import metrics as oracles

WIDTH = 12


class Lazy:
    """Rows that can only be sliced."""

    def __init__(self, rows):
        self._rows, self.shape, self.dtype = rows, rows.shape, rows.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._rows[rows]


def made(name):
    """Features (N, WIDTH), float32 unless the name says otherwise, and labels (N,)."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    labels = torch.arange(160)[torch.randperm(160, generator=generator)] % 8 * 3 - 5
    index = present_classes(labels).index
    features = 2 * normal(8, WIDTH)[index] + normal(160, WIDTH) * torch.linspace(2, 0.1, WIDTH)
    if name == "equal means":
        features = normal(160, WIDTH) * (1 + index[:, None])
        means = torch.stack([features[index == each].mean(dim=0) for each in range(8)])
        features = features - means[index]
    elif name == "coincident classes":
        for each in (1, 5):
            features[index == each] = features[index == 0]
    elif name == "heavy tails":
        features = features / torch.rand(160, 1, generator=generator) ** 2
    elif name == "one member":
        labels = torch.where(index < 3, labels, torch.arange(160) + 100)
    elif name == "two members":
        labels = torch.arange(160) // 2
    elif name == "large and small":
        labels = (torch.arange(160) > 130) * (1 + torch.arange(160) % 7)
    elif name == "offset":
        features = features + 1000
    elif name == "float16":
        features = features.half()
    elif name == "float64":
        features = features.double()
    elif name == "duplicates":
        features = features[torch.randint(40, (160,), generator=generator)]
    elif name == "equal rows":
        features = torch.full((160, WIDTH), 1.1)
    elif name == "collapsed classes":
        features = normal(8, WIDTH)[index]
    elif name == "outlier":
        features[7] = 1e6
    elif name == "far class":
        features = features + 1e4 * (index == 3)[:, None]
    elif name == "tiny":
        features = features * 1e-30
    elif name == "one dimension":
        features = features[:, :1].contiguous()
    return features, labels


NAMES = (
    *("ordinary", "equal means", "coincident classes", "heavy tails", "one member", "two members", "large and small"),
    *("offset", "float16", "float64", "duplicates", "equal rows", "collapsed classes", "outlier", "far class", "tiny"),
    "one dimension",
)


@pytest.fixture
def always(monkeypatch):
    """Take the pass under test whatever it costs."""
    monkeypatch.setattr(class_distances, "may_pay", lambda *_, **__: True)
    monkeypatch.setattr(class_distances, "bounds_pay", lambda *_, **__: True)


def never(monkeypatch):
    monkeypatch.setattr(class_distances, "may_pay", lambda *_, **__: False)


def prepared(name):
    features, labels = made(name)
    classes = present_classes(labels)
    by_size = classes.counts.argsort(stable=True)
    order = by_size.argsort()[classes.index].argsort(stable=True)
    frame = surveyed(features, classes, unit=False).frame
    return SortedRows(features, order, frame, features.device, unit=False), laid_out(classes.counts[by_size])


def all_bounds(rows, layout, rank):
    groups = [slice(label, label + 1) for label in range(len(layout.counts))]
    packed = [
        class_bounds(rows.part(layout.rows(group.start)).left[:, : rows.shape[1]], layout.counts[group], rank).packed()
        for group in groups
    ]
    return nearest_class.unpacked(torch.cat(packed), rows.shape[1])


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_no_bound_is_broken(name, rank):
    rows, layout = prepared(name)
    x = rows.whole.exact(torch.arange(len(layout.index)))
    pairs = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    member = torch.nn.functional.one_hot(layout.index).double()
    means = pairs @ member / layout.counts  # (N, K)
    variances = pairs.square().square() @ member / layout.counts - (pairs.square() @ member / layout.counts).square()
    bounds = all_bounds(rows, layout, rank)
    left, norms = rows.whole.left, rows.whole.norms
    m = left @ bounds.upper.T
    upper = square_of_upper(m.flatten(), norms.repeat_interleave(len(layout.counts)), rows.shape[1]).view_as(m)
    slack = upper.double() - pairs.square() @ member / layout.counts
    assert (slack >= 0).all()
    assert (upper.double() >= means.square()).all()
    # Ruled out for a distance that is the true one: the smallest for which that has to be no mistake.
    square = (means.square() * (1 + 1e-6)).float() if left.dtype == torch.float32 else means.square() * (1 + 1e-12)
    for label in range(len(layout.counts)):
        fields = (bounds.upper, bounds.slack, bounds.spread, bounds.slope, bounds.level)
        single = ClassBounds(*(each[label : label + 1] for each in fields), bounds.columns[:, label : label + 1])
        near = left @ single.upper.T
        assert stage_one(near, norms, square[:, label : label + 1], single).all()
        still, spread = stage_two(left, near, square[:, label : label + 1], single.columns)
        assert still.all()
        assert (spread[:, 0].double() >= variances[:, label] * (1 - 1e-6) - 1e-12 * pairs.max() ** 4).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_nearest_class_is_never_ruled_out(name):
    rows, layout = prepared(name)
    x = rows.whole.exact(torch.arange(len(layout.index)))
    pairs = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    means = pairs @ torch.nn.functional.one_hot(layout.index).double() / layout.counts
    means[torch.arange(len(x)), layout.index] = torch.inf
    found = candidates(rows.whole.left, rows.whole.norms, layout.index, all_bounds(rows, layout, 4), 100)
    left = torch.zeros(means.shape, dtype=torch.bool)
    left[torch.arange(len(x)), found.first] = True
    left[found.rows, found.classes] = True
    assert left[torch.arange(len(x)), means.argmin(dim=1)].all()
    assert (means > means.amin(dim=1, keepdim=True))[~left].all()
    assert (found.lower.double().sqrt() <= means[found.rows, found.classes] * (1 + 1e-6)).all()


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_few_pairs_give_what_all_pairs_give(name, unit, monkeypatch, always):
    features, labels = made(name)
    monkeypatch.setattr(nearest_class, "_CHUNK", 16)
    monkeypatch.setattr(nearest_class, "_PIECE", 1000)
    monkeypatch.setattr(nearest_class, "_TILE", 9)
    monkeypatch.setattr(nearest_class, "_WITHIN", 5)
    found = class_distances.class_distances(features, labels, normalize=unit)
    never(monkeypatch)
    exact = class_distances.class_distances(features.double(), labels, normalize=unit)
    close = {"rtol": 1e-12, "atol": 1e-12} if features.dtype == torch.float64 else {"rtol": 4e-6, "atol": 0}
    torch.testing.assert_close(found.own, exact.own, **close)
    torch.testing.assert_close(found.other, exact.other, **close)
    assert torch.equal(found.alone, exact.alone)
    if name not in ("coincident classes", "equal rows", "collapsed classes"):  # ties are as below
        assert torch.equal(found.nearest, exact.nearest)


@pytest.mark.parametrize("name", ["ordinary", "heavy tails", "one member", "coincident classes", "large and small"])
def test_few_pairs_equal_naive_loops(name, always):
    features, labels = made(name)
    found = class_distances.class_distances(features.double(), labels)
    for row, (own, others) in enumerate(oracles._means(features.double().tolist(), labels.tolist(), "euclidean")):
        assert float(found.other[row]) == pytest.approx(min(others.values()), rel=1e-10, abs=1e-10)
        assert own is None or float(found.own[row]) == pytest.approx(own, rel=1e-10, abs=1e-10)


def test_of_classes_as_near_the_smaller_and_then_the_first_is_nearest(always, monkeypatch):
    rows = torch.tensor([0.0, 1, 2, 10, 11, 10, 11, 10, 10, 11, 11])[:, None].double()
    labels = torch.tensor([4, 4, 4, 9, 9, 7, 7, 2, 2, 2, 2])
    found = class_distances.class_distances(rows, labels).nearest
    never(monkeypatch)
    assert found.tolist() == class_distances.class_distances(rows, labels).nearest.tolist()
    assert found.tolist() == [7, 7, 7, 7, 7, 9, 9, 7, 7, 7, 7]


@pytest.mark.parametrize("lazy", [False, True])
def test_anchors_against_all_rows(lazy, always):
    features, labels = made("large and small")
    anchors = torch.arange(1, 160, 3)
    whole = class_distances.class_distances(features.double(), labels)
    rows = Lazy(features.double()) if lazy else features.double()
    found = class_distances.class_distances(rows, labels, anchors=anchors)
    torch.testing.assert_close(found.own, whole.own[anchors], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.other, whole.other[anchors], rtol=1e-12, atol=1e-12)
    assert torch.equal(found.nearest, whole.nearest[anchors])


@pytest.mark.parametrize("name", ["ordinary", "float16", "one member"])
def test_rows_on_disk_are_sorted_into_a_file_that_vanishes(name, always, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    features, labels = made(name)
    whole = class_distances.class_distances(features, labels)
    with blocks.limits(memory=40_000):  # a dozen rows at a time
        found = class_distances.class_distances(Lazy(features), labels)
    torch.testing.assert_close(found.own, whole.own, rtol=4e-6, atol=0)
    torch.testing.assert_close(found.other, whole.other, rtol=4e-6, atol=0)
    assert torch.equal(found.nearest, whole.nearest)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("unlinks", [True, False], ids=["posix", "windows"])
def test_the_file_vanishes_after_an_error(monkeypatch, tmp_path, unlinks):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("embedscope.ops.sorted_rows._UNLINKS_OPEN_FILES", unlinks)
    rows = torch.randn(5, 2)

    def fail():
        with sorted_on_disk(Lazy(rows), torch.tensor([4, 2, 0, 1, 3])) as stored:
            assert len(list(tmp_path.iterdir())) == (not unlinks)
            assert torch.equal(stored[1:4], rows[[2, 0, 1]])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_the_file(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with (
        pytest.raises(InputError, match=r"takes 0.0 GB in .*set TMPDIR to a folder with more"),
        sorted_on_disk(Lazy(torch.randn(5, 2)), torch.arange(5)),
    ):
        pass


def test_no_folder_for_the_file_that_can_be_written_to(monkeypatch, tmp_path):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with (
        pytest.raises(InputError, match=r"Permission denied.*set TMPDIR to a writable folder"),
        sorted_on_disk(Lazy(torch.randn(5, 2)), torch.arange(5)),
    ):
        pass


def test_not_a_number_shows(monkeypatch):
    """Comparisons with it would rule everything out, so all pairs are computed."""
    monkeypatch.setattr(pass_costs, "_SMALL", 0)
    monkeypatch.setattr(pass_costs, "_CALLS", {"cpu": 0})
    features, labels = made("ordinary")
    features[3, 2] = torch.nan
    assert class_distances.class_distances(features, labels).own.isnan().all()


@pytest.mark.parametrize(("spread", "pays"), [(1.0, True), (1000.0, False)])
def test_bounds_pay_where_classes_lie_apart(spread, pays, monkeypatch):
    """With classes of one mean, nothing can be ruled out."""
    monkeypatch.setattr(pass_costs, "_SMALL", 0)
    monkeypatch.setattr(pass_costs, "_CALLS", {"cpu": 0})
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3000) % 30
    features = 3 * torch.randn(30, 20, generator=generator)[labels] + spread * torch.randn(3000, 20, generator=generator)
    asked = []

    def ask(*arguments, **options):
        asked.append(pass_costs.bounds_pay(*arguments, **options))
        return asked[-1]

    monkeypatch.setattr(class_distances, "bounds_pay", ask)
    class_distances.class_distances(features, labels)
    assert asked == [pays]


def test_small_work_is_not_sampled(monkeypatch):
    monkeypatch.setattr(class_distances, "bounds_pay", lambda *_, **__: pytest.fail("sampled"))
    class_distances.class_distances(*made("ordinary"))


WORKER = """
import os
import datetime, json, os, sys
import torch
from torch import distributed as group
from embedscope.ops import class_distances
from tests.ops.test_nearest_class import Lazy, made

rank, size, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
os.environ["LOCAL_WORLD_SIZE"] = str(size)
group.init_process_group("gloo", f"file://{path}", rank=rank, world_size=size, timeout=datetime.timedelta(seconds=60))
class_distances.may_pay = class_distances.bounds_pay = lambda *_, **__: True
found = []
for name in ("large and small", "one member"):
    features, labels = made(name)
    rows = features.double()
    for given, anchors in ((rows, None), (Lazy(rows), None), (rows, torch.arange(0, 160, 3))):
        each = class_distances.class_distances(given, labels, anchors=anchors)
        found.append([each.own.tolist(), each.other.tolist(), each.nearest.tolist()])
group.destroy_process_group()
print(json.dumps(found), flush=True)
os._exit(0)  # see embedscope/__main__.py
"""


def test_processes_share_the_work(tmp_path, always):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), "2", str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for output in outputs:
        found = iter(json.loads(output))
        for name in ("large and small", "one member"):
            features, labels = made(name)
            whole = class_distances.class_distances(features.double(), labels)
            for picked in (slice(None), slice(None), slice(None, None, 3)):
                own, other, nearest = next(found)
                np.testing.assert_allclose(own, whole.own[picked], rtol=1e-12, atol=1e-12)
                np.testing.assert_allclose(other, whole.other[picked], rtol=1e-12, atol=1e-12)
                assert nearest == whole.nearest[picked].tolist()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("embedscope-")] == []
