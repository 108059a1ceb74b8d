import json

import numpy as np
import pytest

from embedscope.errors import InputError, UsageError
from embedscope.finetuning import conclusions, finetune
from embedscope.losses.expression import build, expand, parse
from embedscope.store import read_features


@pytest.fixture
def features(make_store, blobs):
    rows, labels = blobs
    return read_features(str(make_store(rows - 2.5 * np.eye(8, dtype=np.float32)[labels], labels)))


def test_the_best_by_validation_stands_for_a_sweep(features, tmp_path):
    result = finetune(
        features, tmp_path / "run", objectives=["ce", "ce + [0,0.5,5]*silhouette"], trials=2, epochs=3, select_by="silhouette"
    )
    plain, swept = result.objectives
    assert (plain.sweep, plain.candidates) == (None, ())
    assert swept.sweep == "ce + [0,0.5,5]*silhouette"
    assert [each.expression for each in swept.candidates] == [f"ce + {weight}*silhouette" for weight in ("0", "0.5", "5")]
    best = max(swept.candidates, key=lambda each: each.mean)
    assert swept.expression == best.expression
    assert [trial.validation for trial in swept.trials] == list(best.validation)
    assert best.mean == pytest.approx(np.mean(best.validation))
    # Weight 0 is cross-entropy: the same start, the same batches, the same validation.
    assert list(swept.candidates[0].validation) == pytest.approx([trial.validation for trial in plain.trials])
    assert f"best of the 3 of ce + [0,0.5,5]*silhouette by validation: {best.expression}" in conclusions(result)
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["objectives"][1]["candidates"][0]["directories"] == ["ce_0-silhouette/trial-0", "ce_0-silhouette/trial-1"]


def test_only_the_chosen_one_meets_the_held_out_rows(features, tmp_path):
    result = finetune(features, tmp_path / "run", objectives=["ce + [0.1,5]*silhouette"], epochs=2)
    (swept,) = result.objectives
    for candidate in swept.candidates:
        names = {path.name for path in (tmp_path / "run" / candidate.directories[0]).iterdir()}
        chosen = candidate.expression == swept.expression
        assert names == {"head.safetensors", "log.csv"} | ({"after.h5", "predictions.csv"} if chosen else set())


def test_a_criterion_where_lower_is_better(features, tmp_path):
    result = finetune(
        features, tmp_path / "run", objectives=["ce + [0,5]*gini"], epochs=3, select_by="gini", learning_rate=0.03
    )
    (swept,) = result.objectives
    assert swept.expression == min(swept.candidates, key=lambda each: each.mean).expression


@pytest.mark.parametrize(
    ("expression", "grid"),
    [
        ("ce", ["ce"]),
        (" ce + 0.5 * gini@3 ", ["ce + 0.5 * gini@3"]),
        ("[0.25, 1]*ce@[1,2]", ["0.25*ce@1", "0.25*ce@2", "1*ce@1", "1*ce@2"]),
        (
            "silhouette(tau_s=[0.1], softmin=['lse','lme'])",
            ["silhouette(tau_s=0.1, softmin='lse')", "silhouette(tau_s=0.1, softmin='lme')"],
        ),
        ("ce + [1,1]*gini", ["ce + 1*gini"]),
        ("pml.Löss(a='é', b=[1,2])", ["pml.Löss(a='é', b=1)", "pml.Löss(a='é', b=2)"]),
        ("ce +\n[1,2]*gini", ["ce + 1*gini", "ce + 2*gini"]),
    ],
)
def test_grids(expression, grid):
    assert expand(expression) == grid


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("ce + []*gini", r"objective 'ce \+ »\[\]\*gini': a sweep over an empty list"),
        ("ce + [1,[2]]*gini", r"objective 'ce \+ \[1,»\[2\]\]\*gini': a sweep takes a list of numbers"),
        ("ce + [1,-2]*gini", r"objective 'ce \+ »-2\*gini': the weight before .* must be a number of at least 0"),
        ("[ce, gini]", r"a sweep takes a list of numbers"),
        ("[1,2]", r"expected a loss"),
        (f"{list(range(40))}*ce@{list(range(1, 40))}", "1,560 objectives in a grid; the limit is 1,000, in"),
    ],
)
def test_grids_that_cannot_be(expression, message):
    with pytest.raises(UsageError, match=message):
        expand(expression)


def test_a_list_is_no_objective_of_its_own():
    with pytest.raises(UsageError, match=r"the weight before .* must be a number of at least 0"):
        parse("[1,2]*ce")
    with pytest.raises(UsageError, match=r"tau_s must be a number above 0, got \[0.1\]"):
        build("silhouette(tau_s=[0.1])", 3, 4)


def test_a_point_that_diverges_is_left_out(features, tmp_path):
    result = finetune(features, tmp_path / "run", objectives=["ce + [0.1,1e39]*silhouette"], epochs=2, trials=2)
    (swept,) = result.objectives
    assert swept.expression == "ce + 0.1*silhouette"
    broken = swept.candidates[1]
    assert (broken.mean, list(broken.validation)) == (None, [])
    assert "is not finite in epoch 1, step 1 of " in broken.note
    assert ": silhouette" in broken.note
    with pytest.raises(InputError, match="no objective of the sweep stays finite; the first: 1e39"):
        finetune(features, tmp_path / "other", objectives=["[1e39,2e39]*ce"], epochs=2)
