"""The run file of a monitor: what a kill leaves, what is measured again, what is somebody else's."""

import json

import pytest

from embedscope.errors import InputError, OutputError
from embedscope.store.trajectories import Point, append_points, is_trajectory, read_points

FIRST = Point(0, "fc", {"silhouette": 0.25, "gini": None}, loss=2.5, findings=("a", "b"))
SECOND = Point(500, "fc", {"silhouette": 0.5})


@pytest.fixture
def path(tmp_path):
    append_points(tmp_path / "runs" / "monitor.jsonl", [FIRST, SECOND])
    return tmp_path / "runs" / "monitor.jsonl"


def test_points_come_back(path):
    assert read_points(path) == [FIRST, SECOND]
    first = json.loads(path.read_text().splitlines()[0])
    assert first == {
        "step": 0, "layer": "fc", "metrics": {"silhouette": 0.25, "gini": None}, "loss": 2.5, "findings": ["a", "b"],
    }  # fmt: skip


def test_a_kill_at_any_byte_loses_at_most_the_last_line(path, tmp_path):
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    killed = tmp_path / "killed.jsonl"
    for size in range(len(whole)):
        killed.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends)
        complete = size in [end - 1 for end in ends]  # all but the line break is there
        assert read_points(killed) == [FIRST, SECOND][: kept + complete]
        append_points(killed, [SECOND])
        assert read_points(killed) == [FIRST, SECOND][: max(kept + complete, 0)] + [SECOND] * (kept + complete < 2)
        assert all(json.loads(line) for line in killed.read_text().splitlines())


def test_steps_that_are_measured_again_replace_earlier_ones(path):
    again = Point(500, "fc", {"silhouette": 0.75})
    other = Point(500, "conv", {"silhouette": 0.1})
    append_points(path, [again, Point(250, "fc", {"silhouette": 0.3}), other])
    assert [(point.step, point.layer, point.metrics["silhouette"]) for point in read_points(path)] == [
        (0, "fc", 0.25), (250, "fc", 0.3), (500, "fc", 0.75), (500, "conv", 0.1),
    ]  # fmt: skip


def test_numbers_that_are_not_finite_are_null(tmp_path):
    append_points(tmp_path / "a.jsonl", [Point(1, "fc", {"gini": float("nan")}, loss=float("inf"))])
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"step": 1, "layer": "fc", "metrics": {"gini": None}, "loss": None}
    assert read_points(tmp_path / "a.jsonl")[0].metrics == {"gini": None}


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "1", '{"step": 1}', '{"step": "1", "layer": "fc", "metrics": {}}', '{"step": 1, "layer": "fc", "metrics": [1]}',
     '{"step": 1, "layer": "fc", "metrics": {"gini": "x"}}', '{"step": 1, "layer": "fc", "metrics": {}, "loss": "x"}',
     "\udcff"],
)  # fmt: skip
def test_a_damaged_line_in_the_middle_is_named(path, line):
    text = path.read_bytes()
    path.write_bytes(line.encode("utf-8", "surrogateescape") + b"\n" + text)
    with pytest.raises(InputError, match="line 1 is not a measurement"):
        read_points(path)
    assert not is_trajectory(path)


def test_later_versions_may_add_keys(path):
    with path.open("a") as file:
        file.write('{"step": 900, "layer": "fc", "metrics": {}, "color": "red"}\n')
    assert read_points(path)[-1] == Point(900, "fc", {})


def test_files_that_cannot_be(tmp_path, path):
    with pytest.raises(InputError, match="cannot read"):
        read_points(tmp_path / "none.jsonl")
    with pytest.raises(OutputError, match="cannot write"):
        append_points(path / "below.jsonl", [FIRST])
    assert is_trajectory(path)
    assert not is_trajectory(tmp_path / "none.jsonl")
    assert not is_trajectory(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": 1}\n')
    assert not is_trajectory(tmp_path / "rows.jsonl")
