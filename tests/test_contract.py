"""What scripts rely on: commands, options, keys and names of version 0.1.0. They may gain, and lose nothing."""

import csv
import inspect
import io
import json

import numpy as np
import pytest
import torch
import typer.main

import embedscope
from embedscope import TrainingConfig
from embedscope.cli import app, main
from embedscope.losses.expression import build
from embedscope.metrics.class_kl import class_kl
from embedscope.metrics.explained_variance import explained_variance, explained_variance_curve
from embedscope.metrics.gini import gini, gini_channels
from embedscope.metrics.silhouette import silhouette, silhouette_samples
from embedscope.metrics.soft_silhouette import soft_silhouette, soft_silhouette_samples

COMMANDS = typer.main.get_command(app).commands

# Every option with its short form; those that take a value with its default.
OPTIONS = {
    "extract": "--output|-o=None --checkpoint=None --weights=None --allow-partial --unsafe-pickle --layer|-l=None "
    "--list-layers --pool=auto --logits --head=None --size=None --mean=None --std=None --channels=None --batch-size=256 "
    "--device=auto --amp --dtype=float32 --workers=None --limit=None --on-error=stop --deterministic --seed=0 --resume "
    "--overwrite --json --quiet|-q --verbose|-v",
    "score": "--metric|-m=None --layer|-l=None --split=None --per-class --ci --sample=None --samples=None --fail-under=None "
    "--memory=None --device=auto --seed=0 --format=table --json --overwrite --list --quiet|-q --verbose|-v --compare --layers "
    "--against=None",
    "finetune": "--output|-o=None --objective=None --head=linear --layer|-l=None --trials=1 --epochs=50 --batch-size=128 "
    "--sampler=shuffled --sample-weights=None --optimizer=adamw --learning-rate=0.003 --weight-decay=0.0001 --schedule=cosine "
    "--patience=None --select-by=macro_f1 --test=None --label-map=None --test-share=0.25 --val-share=0.1 --memory=None "
    "--device=auto --seed=0 --tensorboard --resume --overwrite --json --list --quiet|-q --verbose|-v",
    "plot": "--output|-o=None --kind|-k=None --layer|-l=None --split=None --width=page --format=png --max-points=10000 "
    "--coordinates=None --layout=None --seed=0 --overwrite --json --list --quiet|-q --verbose|-v",
    "merge": "--output|-o=None --format=None --dataset=None --overwrite --quiet|-q",
    "inspect": "--json",
    "env": "--json",
}
ARGUMENTS = {
    "extract": ["model", "data"],
    "score": ["features"],
    "finetune": ["features", "data"],
    "plot": ["features"],
    "merge": ["files"],
}
# Two are gone on purpose: EMBEDSCOPE_OVERWRITE, which replaced files, and EMBEDSCOPE_BATCH_SIZE, which meant two things.
VARIABLES = "AMP DETERMINISTIC DEVICE DTYPE FORMAT JSON MEMORY ON_ERROR POOL QUIET SEED SPLIT VERBOSE WORKERS"

MEASUREMENT = {"value", "ci95", "better", "bounds", "options", "per_class", "note"}
METRICS = {
    "silhouette": (MEASUREMENT, "higher", {"distance": "euclidean"}),
    "soft_silhouette": (
        MEASUREMENT,
        "higher",
        {"tau_s": 0.1, "tau_m": 0.1, "softmin": "lse", "distance": "euclidean", "normalize": True},
    ),
    "gini": (MEASUREMENT | {"per_channel", "dead_channels", "owned_channels"}, "lower", {"activation": "abs", "dead": "keep"}),
    "class_kl": (
        MEASUREMENT | {"feature_histogram", "label_histogram", "directions"},
        "lower",
        {"activation": "abs", "direction": "target_to_feature"},
    ),
    "explained_variance": (MEASUREMENT | {"threshold", "curve", "components"}, None, {"threshold": 0.95}),
}


def run(*arguments):
    return main([str(argument) for argument in arguments])


def keys(value):
    """Every path through nested mappings; of a list, through its first item."""
    if isinstance(value, dict):
        return {path for key, each in value.items() for path in (key, *(f"{key}/{inner}" for inner in keys(each)))}
    return keys(value[0]) if isinstance(value, list) and value else set()


@pytest.fixture
def store(make_store, blobs):
    return make_store(*blobs)


@pytest.mark.parametrize(("command", "text"), [(command, text) for command, line in OPTIONS.items() for text in line.split()])
def test_an_option_is_accepted_and_has_its_default(command, text):
    names, separator, default = text.partition("=")
    (found,) = [each for each in COMMANDS[command].params if names.split("|")[0] in each.opts]
    assert set(names.split("|")) <= set(found.opts)
    assert found.is_flag is not bool(separator)
    assert not separator or str(found.default) == default


@pytest.mark.parametrize("command", ARGUMENTS)
def test_arguments_come_in_their_order(command):
    named = [each.name for each in COMMANDS[command].params if each.param_type_name == "argument"]
    assert named == ARGUMENTS[command]


def test_variables_stand_for_options():
    known = {each.envvar for command in COMMANDS.values() for each in command.params}
    assert {f"EMBEDSCOPE_{name}" for name in VARIABLES.split()} <= known


def test_json_of_score(store, capsys):
    assert run("score", store, "--json", "-q") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["embedscope"]) == ("embedscope.score/1", embedscope.__version__)
    (result,) = found["results"]
    facts = {key: result[key] for key in ("name", "layer", "samples", "dimensions", "classes", "device", "warnings")}
    assert facts == {
        "name": "store", "layer": "embedding", "samples": 90, "dimensions": 8, "classes": 3, "device": "cpu", "warnings": [],
    }  # fmt: skip
    assert result["source"] == str(store)
    assert list(result["metrics"]) == list(METRICS)
    for name, (expected, better, options) in METRICS.items():
        measured = result["metrics"][name]
        assert expected <= measured.keys()
        assert (measured["better"], measured["options"], measured["ci95"], measured["note"]) == (better, options, None, None)
    assert list(result["metrics"]["silhouette"]["per_class"]) == ["0", "1", "2"]
    assert result["metrics"]["silhouette"]["bounds"] == [-1, 1]


def test_json_of_what_score_compares(store, make_store, blobs, tmp_path, capsys):
    other = make_store(blobs[0] * np.arange(8), blobs[1], name="other.h5")
    options = ["--compare", "--against", other, "-m", "silhouette", "--json", "-q", "--samples", tmp_path / "s.csv"]
    assert run("score", store, other, *options) == 0
    found = json.loads(capsys.readouterr().out)
    (difference,), (comparison,), shift = found["differences"], found["comparisons"], found["shifts"][0]
    assert {"metric", "first", "second", "value", "ci95", "paired", "note"} <= difference.keys()
    assert {
        "first", "second", "rows", "paired", "reason", "only_first", "only_second", "differences", "cka", "mutual_knn",
        "neighbors", "classes", "sides", "notes",
    } <= comparison.keys()  # fmt: skip
    assert {"name", "samples", "first", "second", "difference", "ci95", "significant"} <= comparison["classes"][0].keys()
    assert {"right", "wrong", "gained", "lost", "p_value"} <= comparison["sides"].keys()
    assert {
        "name", "against", "layer", "rows", "drawn", "auc", "auc_ci95", "mmd", "mmd_p_value", "detected", "beyond", "furthest",
        "classes", "proportions_p_value",
    } <= shift.keys()  # fmt: skip
    assert (tmp_path / "s.csv").read_text().splitlines()[0] == "name,id,label,silhouette,nearest,split,change"
    assert run("score", store, other, "--layers", "-m", "silhouette", "--json", "-q") == 0
    ranking = json.loads(capsys.readouterr().out)["layers"]
    assert {"metric", "better", "take", "reason", "order"} <= ranking.keys()
    assert {"name", "source", "layer", "dimensions", "value", "ci95", "difference_ci95"} <= ranking["order"][0].keys()


def test_csv_and_samples_of_score(store, tmp_path, capsys):
    assert run("score", store, "--format", "csv", "--samples", tmp_path / "s.csv", "-q") == 0
    lines = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert lines[0] == ["name", "layer", "metric", "class", "value", "ci95_low", "ci95_high", "better"]
    assert lines[1][:4] == ["store", "embedding", "silhouette", ""]
    header = (tmp_path / "s.csv").read_text().splitlines()[0]
    assert header == "name,id,label,silhouette,soft_silhouette,nearest,split"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["score", "STORE", "--fail-under", "silhouette=2"], 3),
        (["score", "STORE", "--fail-under", "gini=1", "-m", "gini", "-m", "class-kl"], 0),
        (["score", "missing.h5"], 1),
        (["score", "STORE", "-m", "siluette"], 2),
        (["score", "STORE", "--device", "cuda:99"], 1),
        (["score", "renamed=STORE", "--ci", "--per-class", "--sample", "30", "--memory", "1GB"], 0),
    ],
)
def test_exit_codes(store, arguments, code, capsys):
    assert run(*(text.replace("STORE", str(store)) for text in arguments), "-q") == code


def test_run_directory(store, tmp_path, capsys):
    options = ["--objective", "ce", "--objective", "ce + 0.5*silhouette", "--trials", 2, "--epochs", 1, "--device", "cpu"]
    assert run("finetune", store, "-o", tmp_path / "run", *options, "--json", "-q") == 0
    found = json.loads((tmp_path / "run" / "run.json").read_text())
    assert json.loads(capsys.readouterr().out) == found
    assert found["schema"] == "embedscope.finetune/1"
    assert {"options", "data", "objectives", "embedscope"} <= found.keys()
    assert {
        "objectives", "head", "trials", "epochs", "batch_size", "sampler", "weights", "optimizer", "learning_rate",
        "weight_decay", "schedule", "patience", "select_by", "test_share", "val_share", "seed", "label_map", "device",
        "processes", "command",
    } <= found["options"].keys()  # fmt: skip
    assert {
        "train", "test", "validation", "name", "source", "layer", "held_out", "validated_on", "unlabelled", "dimensions",
        "classes",
    } <= found["data"].keys()  # fmt: skip
    measured = {*METRICS, "knn_accuracy", "macro_f1", "accuracy"}
    for objective in found["objectives"]:
        assert {"expression", "trials", "summary", "sweep", "candidates", "warnings"} <= objective.keys()
        assert measured <= objective["summary"].keys()
        compared = {"mean", "std", "difference", "ci95", "p_value", "p_corrected", "wilcoxon_p", "wilcoxon_corrected"}
        assert compared <= objective["summary"]["silhouette"].keys()
        for trial in objective["trials"]:
            assert {"seed", "epochs", "best_epoch", "before", "after", "seconds", "directory", "validation"} <= trial.keys()
            assert measured <= trial["before"].keys() & trial["after"].keys()
            folder = tmp_path / "run" / trial["directory"]
            assert {path.name for path in folder.iterdir()} >= {"head.safetensors", "after.h5", "log.csv"}
            assert (folder / "log.csv").read_text().startswith("epoch,objective,ce,")
    directories = [trial["directory"] for objective in found["objectives"] for trial in objective["trials"]]
    assert directories == ["ce/trial-0", "ce/trial-1", "ce_0.5-silhouette/trial-0", "ce_0.5-silhouette/trial-1"]
    assert (tmp_path / "run" / "before.h5").is_file()
    assert run("score", tmp_path / "run" / "before.h5", tmp_path / "run" / "ce" / "trial-0" / "after.h5", "-q") == 0


def test_json_of_the_other_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))\n"
    )
    np.savez(tmp_path / "d.npz", X=np.eye(12, 8, dtype=np.float32), y=np.arange(12) % 3)

    def printed(*arguments):
        assert run(*arguments, "--json") == 0
        return keys(json.loads(capsys.readouterr().out))

    extracted = {"path", "rows", "seconds", "batch_size", "resumed", "not_finite", "layers", "layers/2.input"}
    assert extracted <= printed("extract", "net.py:Net", "d.npz", "-o", "a.h5")
    assert {"name", "type", "shape", "parameters"} <= printed("extract", "net.py:Net", "d.npz", "--list-layers")
    described = {"path", "rows", "schema_version", "complete", "done", "resume", "unlabelled", "classes/0", "layers/name"}
    provenance = {
        "model/spec", "model/checkpoint", "model/sha256", "model/matched", "model/missing", "model/origin", "data/spec",
        "data/fingerprint", "data/limit", "layers/2.input/pooling", "layers/2.input/shape", "layers/2.input/type", "transform",
        "run/device", "run/dtype", "run/torch", "run/seed", "run/command", "run/embedscope", "run/created",
    }  # fmt: skip
    assert described | {f"provenance/{key}" for key in provenance} <= printed("inspect", "a.h5")
    assert {"embedscope", "python", "system", "packages/torch", "devices/cpu", "threads/torch"} <= printed("env")
    assert {"path", "pictures"} <= printed("plot", "a.h5", "-k", "pca", "-o", "a.png")


def test_public_names():
    assert set(embedscope.__all__) >= {
        "__version__", "EmbedscopeError", "extract", "finetune", "list_layers", "open_dataset", "open_features", "open_model",
        "plot", "score",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("function", "positional", "options"),
    [
        (silhouette, ["features", "labels"], {"distance": "euclidean"}),
        (soft_silhouette, ["features", "labels"], METRICS["soft_silhouette"][2]),
        (gini, ["features", "labels"], METRICS["gini"][2]),
        (class_kl, ["features", "labels"], METRICS["class_kl"][2]),
        (explained_variance, ["features", "labels"], METRICS["explained_variance"][2]),
        (explained_variance_curve, ["features", "labels"], {}),
        (silhouette_samples, ["features", "labels"], {}),
        (soft_silhouette_samples, ["features", "labels"], {}),
        (gini_channels, ["features", "labels"], {}),
        (build, ["expression", "num_classes", "dim"], {}),
        (embedscope.score, ["sources"], {"metrics": tuple(METRICS), "layers": (), "split": None, "sample": None, "ci": False}),
        (embedscope.extract, ["encoder", "dataset", "output"], {"layers": (), "pooling": "auto", "batch_size": 256}),
        (embedscope.finetune, ["features"], {"test": None, "label_map": None, "overwrite": False, "resume": False}),
        (embedscope.plot, ["sources", "output"], {"kinds": (), "layers": (), "width": "page", "form": "png", "seed": 0}),
        (embedscope.open_model, ["spec", "checkpoint"], {"weights": None, "unsafe_pickle": False, "seed": 0}),
        (embedscope.open_dataset, ["location"], {}),
        (embedscope.open_features, ["sources"], {"layers": ()}),
        (embedscope.list_layers, ["encoder", "dataset"], {"device": "auto"}),
        (TrainingConfig, [], {"objectives": ("ce", "ce + 0.5*silhouette"), "head": "linear", "trials": 1, "val_share": 0.1}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_signatures(function, positional, options):
    parameters = inspect.signature(function).parameters
    assert list(parameters)[: len(positional)] == positional
    assert {name: parameters[name].default for name in options} == options


@pytest.mark.parametrize(
    ("function", "options", "shape"),
    [
        (silhouette_samples, {"distance": "cosine"}, (30,)),
        (soft_silhouette_samples, {"tau_s": 0.2, "tau_m": 0.2, "softmin": "lme", "normalize": False}, (30,)),
        (gini_channels, {"activation": "relu", "dead": "ignore"}, (6,)),
        (explained_variance_curve, {}, (6,)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_shapes(function, options, shape):
    features = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    assert function(features, torch.arange(30) % 3, **options).shape == shape


def test_an_objective():
    generator = torch.Generator().manual_seed(0)
    objective = build("ce + 0.5*silhouette(tau_s=0.05) + 0.5*gini@10", num_classes=10, dim=64)
    value = objective(torch.randn(20, 64, generator=generator), torch.arange(20) % 10, torch.randn(20, 10, generator=generator))
    assert value.shape == ()
    assert list(objective.terms) == ["ce", "silhouette"]
