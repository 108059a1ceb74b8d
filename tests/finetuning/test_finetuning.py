import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from embedscope.errors import InputError, OutputError, UsageError
from embedscope.evaluation import score
from embedscope.finetuning import finetune
from embedscope.finetuning.splitting import part
from embedscope.finetuning.validation import apply
from embedscope.models.head import build_head
from embedscope.store import read_features
from embedscope.store.in_memory import feature_set
from embedscope.store.runs import directory_names, open_run


@pytest.fixture
def features(make_store, blobs):
    """Classes that overlap, so that training has something to mend."""
    rows, labels = blobs
    return read_features(str(make_store(rows - 2.5 * np.eye(8, dtype=np.float32)[labels], labels)))


@pytest.fixture
def run(features, tmp_path):
    return finetune(features, tmp_path / "run", trials=2, epochs=5, batch_size=16)


def test_whole_numbers_before_training_are_as_they_came(tmp_path, blobs):
    rows, labels = blobs
    whole = np.round(rows).astype(np.int64) * 2 + 2**24 + 1
    given = feature_set(whole, labels)
    finetune(given, tmp_path / "run", objectives=["ce"], epochs=1)
    before = read_features(str(tmp_path / "run" / "before.h5"))
    assert before.features.dtype == torch.float64
    kept = [int(name) for name in before.ids]
    assert before.features[:].tolist() == whole[kept].tolist()


def test_run_directory_is_as_the_contract_says(run, tmp_path):
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["schema"] == "embedscope.finetune/1"
    assert document["options"]["trials"] == 2
    assert [document["data"][part] for part in ("train", "validation", "test")] == [60, 6, 24]
    assert [objective["expression"] for objective in document["objectives"]] == ["ce", "ce + 0.5*silhouette"]
    for objective in document["objectives"]:
        assert [trial["seed"] for trial in objective["trials"]] == [0, 1]
        for trial in objective["trials"]:
            assert set(trial) == {
                "seed",
                "epochs",
                "best_epoch",
                "before",
                "after",
                "seconds",
                "directory",
                "validation",
                "split",
            }
            folder = tmp_path / "run" / trial["directory"]
            assert {path.name for path in folder.iterdir()} == {"head.safetensors", "after.h5", "log.csv", "predictions.csv"}
        summary = objective["summary"]["silhouette"]
        values = [trial["after"]["silhouette"] for trial in objective["trials"]]
        assert summary["mean"] == pytest.approx(np.mean(values))
        assert summary["std"] == pytest.approx(np.std(values, ddof=1))
    first, second = (objective["trials"] for objective in document["objectives"])
    gaps = [b["after"]["gini"] - a["after"]["gini"] for a, b in zip(first, second, strict=True)]
    assert document["objectives"][0]["summary"]["gini"]["difference"] is None
    assert document["objectives"][1]["summary"]["gini"]["difference"] == pytest.approx(np.mean(gaps))
    assert not (tmp_path / "run.partial").exists()


def test_stores_of_a_run_score_as_the_run_says(run, tmp_path):
    before, after, _ = open_run(str(tmp_path / "run"))
    assert (before.name, after.name) == ("before", "after ce")
    assert list(before.ids) == list(after.ids)
    trial = run.objectives[0].trials[0]
    for source, expected in ((before.source, run.before), (after.source, trial.after)):
        (found,) = score([source])
        for name, measurement in found.metrics.items():
            assert measurement.value == pytest.approx(expected[name], abs=1e-9), name


def test_log_has_a_line_an_epoch(run, tmp_path):
    with (tmp_path / "run" / "ce_0.5-silhouette" / "trial-1" / "log.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["epoch"] for line in lines] == ["1", "2", "3", "4", "5"]
    assert list(lines[0]) == [
        *("epoch", "objective", "ce", "silhouette", "learning_rate"),
        *("val_loss", "val_accuracy", "val_macro_f1"),
    ]
    for line in lines:
        assert float(line["objective"]) == pytest.approx(float(line["ce"]) + 0.5 * float(line["silhouette"]), abs=1e-6)
    assert float(lines[-1]["objective"]) < float(lines[0]["objective"])


def test_head_can_be_put_back(run, features, tmp_path):
    folder = tmp_path / "run" / "ce" / "trial-0"
    head = build_head("linear", 8, 3, 1.0)
    head.load_state_dict(load_file(folder / "head.safetensors"))
    test = part(features, test_share=0.25, val_share=0.1, seed=0).test
    embedding, *_ = apply(head, test.features, torch.from_numpy(test.labels))
    torch.testing.assert_close(embedding, read_features(str(folder / "after.h5")).features[:])


def test_terms_that_switch_on_later_are_empty_before(features, tmp_path):
    finetune(features, tmp_path / "run", objectives=["ce + silhouette@2"], epochs=2)
    with (tmp_path / "run" / "ce_silhouette@2" / "trial-0" / "log.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first["silhouette"] == ""
    assert float(second["silhouette"]) < 1


def test_same_seed_same_result(features, tmp_path):
    first = finetune(features, tmp_path / "a", objectives=["ce"], epochs=3)
    second = finetune(features, tmp_path / "b", objectives=["ce"], epochs=3)
    assert first.objectives[0].trials[0].after == second.objectives[0].trials[0].after


def test_silhouette_objective_raises_the_soft_silhouette(run):
    ce, both = run.objectives
    assert both.summary["soft_silhouette"].mean > ce.summary["soft_silhouette"].mean


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "`trials=` must be an integer of at least 1, got 0"),
        ({"epochs": 0}, "`epochs=` must be an integer of at least 1, got 0"),
        ({"objectives": []}, "`objectives=` is empty; name at least one"),
        ({"objectives": ["ce", "siloette"]}, "no loss 'siloette'"),
        ({"test_share": 1.0}, "`test_share=`, the share of rows to hold out, must be between 0 and 1, got 1.0"),
        ({"learning_rate": -1.0}, "`learning_rate=` must be a number above 0 and at most 1e\\+30, got -1.0"),
        ({"weight_decay": float("nan")}, "`weight_decay=` must be a number of at least 0, got nan"),
        ({"objectives": ["ce@99"]}, "'ce@99': ce would start in epoch 99, after the last one"),
        ({"head": "mpl(3)"}, "no head 'mpl'; did you mean 'mlp'"),
        ({"sampler": "balanced(samples=1)"}, "samples of balanced must be an integer of at least 2, got 1"),
        ({"optimizer": "sdg"}, "no optimizer 'sdg'; did you mean 'sgd'"),
        ({"schedule": "cosin"}, "no schedule 'cosin'; did you mean 'cosine'"),
        ({"patience": 0}, "`patience=` must be an integer of at least 1, got 0"),
        ({"patience": 3, "val_share": 0}, "patience needs validation rows, but there are none: a val_share of 0"),
        ({"select_by": "silhouette", "val_share": 0}, "selecting by silhouette needs validation rows"),
        ({"select_by": "macro_f1(k=3)"}, "macro_f1 takes no options"),
        ({"learning_rate": 3e38}, "`learning_rate=` must be a number above 0 and at most 1e\\+30"),
        ({"schedule": "plateau", "val_share": 0}, "the schedule plateau needs validation rows"),
        ({"objectives": ["[1, 2]*ce"], "val_share": 0}, "a sweep needs validation rows"),
        ({"val_share": 1.0}, "`val_share=`, the share of rows to validate on, must be from 0 to below 1, got 1.0"),
        ({"select_by": "silhuette"}, "no criterion to select by 'silhuette'; did you mean 'silhouette'"),
        ({"select_by": "explained_variance"}, "no criterion to select by 'explained_variance'"),
        ({"weights": "equity"}, "no weighting of samples 'equity'; did you mean 'dataset_equity'"),
        ({"weights": "dataset_equity(eta=-1)"}, "eta of dataset_equity must be a number of at least 0, got -1"),
        ({"label_map": {}}, "a label map applies to the classes of a separate test file"),
    ],
)
def test_bad_options_write_nothing(features, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        finetune(features, tmp_path / "run", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["store.h5"]


def test_existing_run_is_refused_or_replaced(run, features, tmp_path):
    with pytest.raises(OutputError, match="exists; choose another name or pass `overwrite=True`"):
        finetune(features, tmp_path / "run", epochs=1)
    finetune(features, tmp_path / "run", epochs=1, objectives=["ce"], overwrite=True)
    assert not (tmp_path / "run" / "ce_0.5-silhouette").exists()


def test_other_folders_are_never_replaced(features, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(OutputError, match="exists and is not a run of finetune"):
        finetune(features, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_folder_with_another_run_json_is_never_replaced(features, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text('{"schema": "other"}')
    with pytest.raises(OutputError, match="exists and is not a run of finetune"):
        finetune(features, tmp_path / "mine", overwrite=True)


def test_link_to_a_run_is_followed(run, features, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    finetune(features, tmp_path / "link", epochs=1, objectives=["ce"], overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "run" / "ce_0.5-silhouette").exists()


def test_current_folder_is_refused(features, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(OutputError, match="is the current folder"):
        finetune(features, ".", epochs=1)


def test_damaged_manifest(tmp_path):
    (tmp_path / "run.json").write_text('{"schema": "embedscope.finetune/1"}')
    with pytest.raises(InputError, match="is damaged: run lacks 'options'; run finetune again"):
        open_run(str(tmp_path))


def test_interrupted_run_leaves_nothing(features, tmp_path):
    def interrupt(items, description, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(features, tmp_path / "run", track=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["store.h5"]


def test_directory_names_are_distinct_and_plain():
    names = directory_names(["ce", "ce + 0.5*silhouette(tau_s=0.05)@10", "c/e", "ce", "***", "x" * 300])
    assert names == ["ce", "ce_0.5-silhouettetau_s=0.05@10", "ce-3", "ce-4", "---", "x" * 100]


def test_accuracies_are_those_of_scikit_learn(run, features, tmp_path):
    from sklearn.metrics import f1_score
    from sklearn.neighbors import KNeighborsClassifier

    parts = part(features, test_share=0.25, val_share=0.1, seed=0)
    rest, test = parts.train, parts.test
    trial = run.objectives[0].trials[0]
    head = build_head("linear", 8, 3, 1.0)
    head.load_state_dict(load_file(tmp_path / "run" / trial.directory / "head.safetensors"))
    with torch.no_grad():
        known, _ = head(rest.features[:])
        rows, logits = head(test.features[:])
    nearest = KNeighborsClassifier(5).fit(known, rest.labels)
    assert trial.after["knn_accuracy"] == pytest.approx(nearest.score(rows, test.labels))
    assert trial.after["macro_f1"] == pytest.approx(f1_score(test.labels, logits.argmax(1).numpy(), average="macro"))
    before = KNeighborsClassifier(5).fit(rest.features[:], rest.labels)
    assert run.before["knn_accuracy"] == pytest.approx(before.score(test.features[:], test.labels))


def test_tensorboard_shows_what_the_log_has(features, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    finetune(features, tmp_path / "run", objectives=["ce"], epochs=3, tensorboard=True)
    folder = tmp_path / "run" / "ce" / "trial-0"
    with (folder / "log.csv").open() as file:
        lines = list(csv.DictReader(file))
    events = EventAccumulator(str(folder))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(lines[0]) - {"epoch"}
    found = [(event.step, event.value) for event in events.Scalars("val_macro_f1")]
    assert found == [(epoch, pytest.approx(float(line["val_macro_f1"]))) for epoch, line in enumerate(lines, 1)]


def test_another_data_set_is_tested_on(features, make_store, blobs, tmp_path):
    rows, labels = blobs
    other = read_features(str(make_store(rows + 0.1, labels, name="other.h5", class_names=["a", "b", "c"])))
    result = finetune(
        features, tmp_path / "run", objectives=["ce"], epochs=3, test=other, label_map={"a": "0", "b": "1", "c": ""}
    )
    assert result.data.held_out.endswith("other.h5, all of its rows")
    assert (result.data.test, result.data.train + result.data.validation) == (60, 90)
    (before, _) = open_run(str(tmp_path / "run"))
    assert list(before.ids) == [id for id, label in zip(other.ids, labels, strict=True) if label < 2]
    assert before.class_names == features.class_names


def test_a_criterion_with_a_dash(features, tmp_path):
    finetune(features, tmp_path / "run", objectives=["ce"], epochs=2, select_by="macro-f1")


def test_a_sweep_without_rows_to_validate_on(make_store, tmp_path):
    features = read_features(str(make_store(np.random.default_rng(0).normal(size=(4, 3)), [0, 0, 1, 1])))
    with pytest.raises(UsageError, match="a sweep needs validation rows, but there are none: nothing"):
        finetune(features, tmp_path / "run", objectives=["[1,2]*ce"])


def test_rows_that_are_trained_on_are_no_test(features, make_store, blobs, tmp_path):
    with pytest.raises(InputError, match="all of its rows are also training rows; give rows of another data set"):
        finetune(features, tmp_path / "run", test=features, val_share=0, test_share=0.01)
    mixed = np.concatenate([features.features[:].numpy()[:30], blobs[0][:30] + 0.5])
    other = read_features(str(make_store(mixed, np.tile(blobs[1][:30], 2), name="other.h5")))
    said = []
    finetune(features, tmp_path / "run", objectives=["ce"], epochs=1, test=other, say=said.append)
    assert any("of the 60 rows of" in text and "are also training rows" in text for text in said)
