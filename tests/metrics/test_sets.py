"""Sets of metrics: what their names stand for, wherever a metric can be named."""

import json

import pytest
import torch

from embedscope import plugins
from embedscope.cli import main
from embedscope.errors import UsageError
from embedscope.evaluation import evaluate, score
from embedscope.evaluation.evaluating import bound
from embedscope.evaluation.thresholds import parse_threshold
from embedscope.metrics import ALL, SETS, STANDARD, expanded, members

FEATURES = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).numpy()
LABELS = ["a", "b", "c", "a"] * 10


def test_sets_hold_metrics_that_there_are():
    known = plugins.names("metrics")
    assert members("all")[: len(STANDARD)] == list(STANDARD)
    assert sorted(members("all")) == known
    assert members("standard") == list(STANDARD)
    for name in SETS:
        assert members(name) == list(SETS[name])
    assert members("gini") is None


def test_no_metric_has_the_name_of_a_set():
    assert not {ALL, *SETS} & {*plugins.names("metrics"), *plugins.aliases("metrics")}


def test_a_set_is_its_metrics_and_dashes_are_underscores():
    assert [each.name for each in bound("neural-collapse")] == ["nc1", "nc2", "nc3", "nc4", "cdnv"]
    assert [each.name for each in bound(["standard", "nc1"])] == [*STANDARD, "nc1"]


def test_a_metric_that_two_sets_hold_is_measured_once():
    names = [each.name for each in bound(["collapse", "effective_rank", "neural_collapse", "all", "standard"])]
    assert len(names) == len(set(names)) == len(plugins.names("metrics"))
    assert names[: len(SETS["collapse"])] == list(SETS["collapse"])


def test_a_metric_of_a_set_with_other_options_is_measured_beside_it():
    scores = evaluate((FEATURES, LABELS), ["standard", "gini(dead='ignore')"])
    assert [*scores.metrics][:-1] == list(STANDARD)
    assert [*scores.metrics][-1].startswith("gini(")


def test_a_set_takes_no_options():
    with pytest.raises(UsageError, match="the metric set all takes no options"):
        expanded("all(k=3)")


def test_the_nearest_name_may_be_that_of_a_set():
    with pytest.raises(UsageError, match="did you mean 'neural_collapse'"):
        bound("neural_colapse")


def test_a_threshold_on_a_metric_of_a_set():
    assert parse_threshold("cdnv=0.3", ["neural_collapse"]) == ("cdnv", 0.3)
    with pytest.raises(UsageError, match="not measured; measured: nc1, nc2, nc3, nc4, cdnv"):
        parse_threshold("gini=0.3", ["neural_collapse"])


def test_all_of_a_tiny_embedding_has_values_or_reasons():
    for table in (score(FEATURES, LABELS, metrics="all"), score(FEATURES[:3], LABELS[:3], metrics="all")):
        for found in table[0].metrics.values():
            assert found.value is not None or found.note
        assert list(table[0].metrics) == members("all")


def test_the_command_line(tmp_path, capsys):
    path = tmp_path / "x.csv"
    rows = [",".join([*map(str, row), label]) for row, label in zip(FEATURES.tolist(), LABELS, strict=True)]
    path.write_text("\n".join(["d0,d1,d2,d3,d4,label", *rows]))
    assert main(["score", str(path), "-m", "neural_collapse", "-m", "gini", "--json", "-q"]) == 0
    captured = capsys.readouterr()
    metrics = json.loads(captured.out)["results"][0]["metrics"]
    assert list(metrics) == ["nc1", "nc2", "nc3", "nc4", "cdnv", "gini"]
    assert metrics["nc3"]["value"] is None
    assert "nc3 is undefined: there are no logits; extract the features with --logits\n" in captured.err


def test_the_list_groups_metrics_by_set(capsys):
    assert main(["score", "--list"]) == 0
    *groups, last = capsys.readouterr().out.split("\n\n")
    listed = {lines[0]: [line.split()[0] for line in lines[1:]] for lines in map(str.splitlines, groups)}
    assert listed.pop("Set standard (the default):") == list(STANDARD)
    others = listed.pop("Other metrics:")
    assert listed == {f"Set {name}:": members(name) for name in SETS if name != "standard"}
    assert {*others, *(member for name in SETS for member in SETS[name])} == set(plugins.names("metrics"))
    assert last == f"-m takes a metric, a set, or '{ALL}' for every metric.\n"
