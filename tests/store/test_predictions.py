"""Predictions of a run: names that a spreadsheet would run are guarded, and read back as they were."""

import csv

from embedscope.store.in_memory import feature_set
from embedscope.store.runs import RunWriter


def test_predictions_are_guarded_and_read_back(tmp_path):
    names = ["=cat()", "'quoted'", "plain", "-1"]
    held_out = feature_set([[0.0], [1.0], [2.0], [3.0]], names)
    with RunWriter(tmp_path / "run", {}, overwrite=False) as writer:
        writer.write_predictions("ce/trial-0", held_out, [3, 2, 1, 0])
        assert writer.read_predictions("ce/trial-0", held_out.class_names) == [3, 2, 1, 0]
        with (writer.partial / "ce/trial-0/predictions.csv").open(newline="") as file:
            cells = {line["label"] for line in csv.DictReader(file)}
    assert cells == {"'=cat()", "'quoted'", "plain", "-1"}
