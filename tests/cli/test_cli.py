import importlib.metadata
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import typer.main

from embedscope import __version__
from embedscope.cli import app, main
from tests.conftest import ROOT

SAMPLE = ROOT / "sample_data"
COMMANDS = typer.main.get_command(app).commands


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def store(make_store, blobs):
    return make_store(*blobs, split=["train"] * 60 + ["test"] * 30)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom embedscope.cli import main\n"
        "code = main(['--help'])\n"
        "print([m for m in ('torch', 'numpy', 'h5py', 'sklearn', 'matplotlib') if m in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[] 0"
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name):
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{name}: {parameter.name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_shared_options_have_an_environment_variable(name):
    for parameter in COMMANDS[name].params:
        if parameter.name in ("device", "seed", "json", "quiet", "verbose", "split"):
            assert parameter.envvar == f"EMBEDSCOPE_{parameter.name.upper()}"


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_from_checkpoints_to_pictures(tmp_path, capsys):
    """The main job, as README has it."""
    for name in ("early", "late"):
        checkpoint = SAMPLE / f"{name}.safetensors"
        model = f"{SAMPLE / 'network.py'}:DigitNet"
        assert run("extract", model, SAMPLE / "digits", "--checkpoint", checkpoint, "-o", tmp_path / f"{name}.h5") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(r"1,797 rows of classifier.input \(64\) in .* s, .* rows/s; next: embedscope score", captured.err)
    assert run("score", tmp_path / "early.h5", tmp_path / "late.h5", "--split", "test", "--json") == 0
    results = json.loads(capsys.readouterr().out)["results"]
    early, late = (result["metrics"]["silhouette"]["value"] for result in results)
    assert 0.2 < early < late
    assert [result["samples"] for result in results] == [582, 582]
    run_dir = tmp_path / "run"
    assert run("finetune", tmp_path / "early.h5", "-o", run_dir, "--head", "mlp(32, 16)", "--epochs", 3) == 0
    captured = capsys.readouterr()
    assert "after ce + 0.5*silhouette" in captured.out
    chosen = "chosen by 122 (10% of each class of the rest, drawn with seed 1)"
    held_out = "evaluated on 582 held-out rows (the split 'test' of the features)"
    assert f"trained on 1,093 rows, {chosen}, {held_out}" in captured.err
    assert run("plot", run_dir, "-k", "pca", "-o", tmp_path / "run.png") == 0
    assert (tmp_path / "run.png").stat().st_size > 10_000


def test_table_marks_the_best_and_the_direction(make_store, blobs, capsys):
    generator = np.random.default_rng(1)
    worse = make_store(blobs[0] + 3 * generator.normal(size=(90, 8)), blobs[1], name="worse.h5")
    assert run("score", make_store(*blobs), worse, "-q") == 0
    out, err = capsys.readouterr()
    assert re.search(r"metric +store +worse", out)
    assert re.search(r"silhouette ↑ +0\.\d{4} \* +0\.\d{4} *\n", out)
    assert re.search(r"gini ↓ +0\.\d{4} \* +0\.\d{4} *\n", out)
    assert re.search(r"explained_variance +\d +\d *\n", out)
    assert err == ""


def test_table_is_not_cut_in_a_pipe(make_store, blobs, capsys):
    stores = [f"a_rather_long_name_number_{number}={make_store(*blobs, name=f'{number}.h5')}" for number in range(6)]
    assert run("score", *stores, "-q", "-m", "silhouette") == 0
    assert "a_rather_long_name_number_5" in capsys.readouterr().out.splitlines()[1]


def test_per_class(make_store, blobs, capsys):
    assert run("score", make_store(*blobs, class_names=["cat", "[red]dog", "eel"]), "--per-class", "-q") == 0
    out = capsys.readouterr().out
    assert "silhouette by class" in out
    assert re.search(r"\[red\]dog +0\.\d{4}", out)


def test_undefined_metric_is_said_and_shown(make_store, blobs, capsys):
    path = make_store(blobs[0], np.zeros(90, int))
    assert run("score", path, "-q") == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == "warning: store: silhouette is undefined: needs at least 2 classes, got 1"
    assert re.search(r"silhouette ↑ +– *\n", out)


def test_verbose_and_quiet(store, capsys):
    run("score", store, "-m", "silhouette", "-v")
    assert "silhouette with {'distance': 'euclidean'}" in capsys.readouterr().err
    run("score", store, "-m", "silhouette", "-q", "-v")
    assert capsys.readouterr().err == ""


def test_environment_variables_stand_for_options(store, capsys, monkeypatch):
    monkeypatch.setenv("EMBEDSCOPE_SPLIT", "test")
    monkeypatch.setenv("EMBEDSCOPE_JSON", "1")
    monkeypatch.setenv("EMBEDSCOPE_QUIET", "1")
    assert run("score", store) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["samples"] == 30


@pytest.mark.parametrize(
    ("command", "names"),
    [("score", ["silhouette", "gini"]), ("finetune", ["ce", "silhouette"]), ("plot", ["tsne", "umap", "pca"])],
)
def test_list(command, names, capsys):
    assert run(command, "--list") == 0
    out = capsys.readouterr().out
    for name in names:
        assert re.search(rf"^{name} +\S.*\S$", out, re.MULTILINE)


def test_model_without_a_checkpoint_is_warned_about(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", X=np.zeros((6, 1, 8, 8), np.float32), y=[0, 1] * 3)
    assert run("extract", f"{SAMPLE / 'network.py'}:DigitNet", tmp_path / "a.npz", "-o", tmp_path / "a.h5", "-q") == 0
    assert capsys.readouterr().err.startswith("warning: no --checkpoint: using the initial weights of")


def extracted(tmp_path, *options):
    arguments = [f"{SAMPLE / 'network.py'}:DigitNet", SAMPLE / "digits", "--checkpoint", SAMPLE / "late.safetensors"]
    return run("extract", *arguments, "-o", tmp_path / "a.h5", *options)


def test_list_layers(tmp_path, capsys):
    assert extracted(tmp_path, "--list-layers") == 0
    out, err = capsys.readouterr()
    assert re.search(r"conv1 +Conv2d +32 x 8 x 8 +320", out)
    assert err == ""
    assert not list(tmp_path.iterdir())
    assert extracted(tmp_path, "--list-layers", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["shape"] == [32, 8, 8]


def test_json_of_an_extraction(tmp_path, capsys):
    assert extracted(tmp_path, "--json", "--limit", 100, "-l", "conv*", "--logits", "-q") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["layers"], found["skipped"]) == (100, {"conv1": 32, "conv2": 32}, {})


def test_inspect(tmp_path, capsys):
    assert extracted(tmp_path, "-q") == 0
    assert run("inspect", tmp_path / "a.h5") == 0
    out = capsys.readouterr().out
    assert re.search(r"features/classifier.input +1797 x 64 +float32 +none +Linear", out)
    assert "split test: 582 rows" in out
    assert run("inspect", tmp_path / "a.h5", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["complete"], found["rows"], found["classes"]["3"]) == (True, 1797, 183)


def test_resuming_from_the_command_line(tmp_path, capsys, monkeypatch):
    from embedscope.data.folder import ImageFiles

    real = ImageFiles.__getitem__

    def stops(images, index):
        if index == 1500:
            raise MemoryError
        return real(images, index)

    monkeypatch.setattr("embedscope.store.format.BLOCK_BYTES", 2**14)
    monkeypatch.setattr(ImageFiles, "__getitem__", stops)
    with pytest.raises(MemoryError):
        extracted(tmp_path, "-q")
    monkeypatch.setattr(ImageFiles, "__getitem__", real)
    assert run("inspect", tmp_path / "a.h5") == 1
    assert "unfinished: 1,280 rows written; finish it with:" in capsys.readouterr().out
    assert run("score", tmp_path / "a.h5.partial") == 1
    assert "is unfinished (1,280 of 1,797 rows)" in capsys.readouterr().err
    assert extracted(tmp_path) == 1
    assert "1,280 of 1,797 rows of an unfinished run: --resume continues it" in capsys.readouterr().err
    assert extracted(tmp_path, "--resume") == 0
    assert re.search(r"1,797 rows of classifier.input .*, 1,280 of them written earlier; next", capsys.readouterr().err)
    assert extracted(tmp_path, "--resume") == 0
    assert "is already complete; nothing to do" in capsys.readouterr().err


def test_model_that_prints_does_not_disturb_the_json(tmp_path, capsys):
    (tmp_path / "net.py").write_text(
        "from torch import nn\nclass Net(nn.Linear):\n"
        "    def __init__(self):\n        print('made')\n        super().__init__(2, 3)\n"
        "    def forward(self, x):\n        print('called')\n        return super().forward(x)\n"
    )
    np.savez(tmp_path / "d.npz", X=np.eye(2, dtype=np.float32), y=[0, 1])
    assert run("extract", f"{tmp_path}/net.py:Net", tmp_path / "d.npz", "-o", tmp_path / "a.h5", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["rows"] == 2
    assert "called" in err


def test_env_of_a_folder_that_is_not_installed(capsys, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert run("env") == 0
    assert "packages\n  embedscope: not installed\n" in capsys.readouterr().out


def test_env_lists_what_users_install(capsys):
    assert run("env", "--json") == 0
    packages = json.loads(capsys.readouterr().out)["packages"]
    assert {"torch", "timm", "tensorboard"} <= packages.keys()
    assert not {"mkdocs", "mkdocs-material", "nbclient", "pytest", "ruff"} & packages.keys()


def test_a_format_from_the_environment_is_checked_too(store, capsys, monkeypatch):
    monkeypatch.setenv("EMBEDSCOPE_FORMAT", "jsn")
    assert run("score", store) == 2
    assert "no format 'jsn'; did you mean 'json'?" in capsys.readouterr().err


def test_env(capsys, monkeypatch):
    monkeypatch.setenv("EMBEDSCOPE_SEED", "3")
    assert run("env", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["embedscope"] == __version__
    assert found["packages"]["torch"].startswith("2.")
    assert found["variables"] == {"EMBEDSCOPE_SEED": "3"}
    assert run("env") == 0
    assert "usable cores" in capsys.readouterr().out


BAD = [
    ("score nowhere.h5", 1, "no such file: nowhere.h5"),
    ("score {text}", 1, "text.h5 is not an HDF5 feature store"),
    ("score {unfinished}", 1, "is unfinished (0 of 90 rows); finish it with: embedscope extract"),
    ("score {nan}", 1, "1 of 90 rows holds NaN or infinite values: row 7 (row7)"),
    ("score {lengths}", 1, "X has 90 rows, but y has shape (89,)"),
    ("score {store} -l embeding", 2, "{store} has no layer 'embeding'; did you mean 'embedding'?"),
    ("score {store} -m siloette", 2, "no metric 'siloette'; did you mean 'silhouette'?"),
    ("score {store} -m silhouette(distanse=1)", 2, "silhouette has no option 'distanse'; did you mean 'distance'?"),
    ("score {store} -m soft_silhouette(tau_s=0)", 2, "tau_s must be a number above 0, got 0"),
    ("score {store} --split tests", 2, "did you mean 'test'?"),
    ("score {store} --ci raw", 1, "no such file: raw"),
    ("score {store} --ci fixd", 2, "no kind of interval 'fixd'; did you mean 'fixed'? There are: drawn, fixed"),
    ("score {store} -m knn", 2, "no metric 'knn'; did you mean 'knn_accuracy'?"),
    ("score {store} --format jsn", 2, "no format 'jsn'; did you mean 'json'? There are: table, json, csv"),
    ("merge {store} --format yaml", 2, "no format 'yaml'. There are: csv, markdown, hf, json"),
    ("plot {store} -o {new} --format jpg", 2, "no format 'jpg'; did you mean 'png'? There are: png, svg, pdf"),
    ("score {store} --sample x", 2, "Invalid value for '--sample' / '--subsample': must be an integer. Try --help."),
    ("score {store} --sample 0", 2, "must be greater than or equal to 1. Try --help."),
    ("score {store} --samples {new}.csv --issues {new}.csv", 2, "--samples and --issues both write"),
    ("score {table} --issues {table} --overwrite", 1, "is the input"),
    ("score {table}(label='label') --samples {table} --overwrite", 1, "is the input"),
    ("score {store} --against {table}(label='label') --samples {table} --overwrite", 1, "is the input"),
    ("score {store} --against {table} --issues {table} --overwrite", 1, "is the input"),
    ("score {late} --model {net}:DigitNet --data {table} --samples {table} --overwrite", 1, "is the input"),
    ("score {text}/a.npz", 1, "text.h5/a.npz: Not a directory"),
    ("finetune {net}:DigitNet {digits} -o {folder}", 1, "exists and is not a run of finetune"),
    ("finetune {net}:DigitNet {digits} -o {text}/run", 1, "text.h5 is not a writable folder"),
    ("score {store} --device cuda:99", 1, "device cuda:99 is not available"),
    ("score {store} --device gpu", 2, "no device 'gpu'"),
    ("score", 2, "Missing argument 'features'"),
    ("score {store} --jsn", 2, "No such option: --jsn"),
    ("scor {store}", 2, "No such command 'scor'"),
    ("extract {net}:DigitNet {digits} -o {new} -l conv3", 2, "no layer 'conv3'; did you mean 'conv2'?"),
    ("extract {net}:DigitNet {digits} -o {store}", 1, "exists; choose another name or pass --overwrite"),
    ("extract {net}:DigitNet nowhere -o {new}", 1, "no such data: nowhere"),
    ("extract {net}:DigitNet {digits} -o {new} --checkpoint {text}", 1, "cannot be read as a checkpoint"),
    ("extract {net}:DigitNot {digits} -o {new}", 1, "did you mean 'DigitNet'?"),
    ("extract {net} {digits} -o {new}", 2, "cannot read the model"),
    (
        "extract {net}:DigitNet {digits} -o {new} --batch-size 0",
        2,
        "--batch-size must be a positive integer or auto, got '0'",
    ),
    ("extract {net}:DigitNet {digits}", 2, "no output given; pass -o FEATURES.h5, or --list-layers"),
    ("extract {net}:DigitNet {digits} -o {new} --pool max", 2, "no pooling 'max'"),
    ("extract {net}:DigitNet {digits} -o {new} --size 0x3", 2, "cannot read the size '0x3'"),
    ("extract {net}:DigitNet {digits} -o {new} --mean x", 2, "cannot read the mean 'x'"),
    ("extract {net}:DigitNet {digits} -o {new} --on-error ignore", 2, "--on-error must be stop or skip, got 'ignore'"),
    ("extract {net}:DigitNet {digits} -o {new} --weights ema --checkpoint {late}", 2, "has no ema weights"),
    ("extract {net}:DigitNet {store} -o {new}", 1, "is not a recognized data set"),
    ("extract timm:resnet_18 {digits} -o {new}", 2, "did you mean 'resnet18'?"),
    ("extract {late} {digits} -o {new}", 2, "is not a model by itself; give the model and the file as its weights"),
    ("inspect nowhere.h5", 1, "no such file: nowhere.h5"),
    ("inspect {text}", 1, "text.h5 is not an HDF5 feature store"),
    ("finetune {one_class} -o {new}", 1, "the rows to train on have 1 class; a comparison needs"),
    ("finetune {nan} -o {new}", 1, "holds NaN or infinite values"),
    ("finetune {store} -o {new} --objective ce+siloette", 2, "no loss 'siloette'; did you mean 'silhouette'?"),
    ("finetune {store} -o {new} --objective ce+", 2, "objective 'ce+»': cannot parse this"),
    ("finetune {store} -o {new} --head mpl(3)", 2, "did you mean 'mlp'?"),
    ("finetune {store} -o {folder}", 1, "exists and is not a run of finetune"),
    ("finetune {store} -o {new} --objective []*ce", 2, "objective '»[]*ce': a sweep over an empty list"),
    ("finetune {store} -o {new} --sampler balance", 2, "no sampler 'balance'; did you mean 'balanced'?"),
    ("finetune {store} -o {new} --optimizer sgd(lr=3)", 2, "sgd takes momentum=0.9, nesterov=False"),
    ("finetune {store} -o {new} --schedule cosinus", 2, "no schedule 'cosinus'; did you mean 'cosine'?"),
    ("finetune {store} -o {new} --select-by loss", 2, "no criterion to select by 'loss'"),
    ("finetune {store} -o {new} --sample-weights equity", 2, "no weighting of samples 'equity'"),
    ("finetune {store} -o {new} --test nowhere.h5", 1, "no such file: nowhere.h5"),
    ("finetune {store} -o {new} --test {store} --label-map nowhere.csv", 1, "cannot read nowhere.csv: No such file"),
    ("finetune {store} -o {new} --label-map {text}", 1, "line 1: 1 column; expected two"),
    ("finetune {store} -o {new} --memory lots", 2, "cannot read the size 'lots'"),
    ("extract {net}:DigitNet {digits} -o {new} --head nowhere", 1, "no such file: nowhere"),
    ("extract {net}:DigitNet {digits} -o {new} --head {late}", 1, "is not a head written by finetune"),
    ("plot {store} -o {new}.jpg", 2, "the name must end with .png, .svg, .pdf"),
    ("plot {store} -o {new}.png -k tsn", 2, "no kind of plot 'tsn'; did you mean 'tsne'?"),
    ("plot {nan} -o {new}.png", 1, "holds NaN or infinite values"),
]


@pytest.fixture
def places(make_store, blobs, tmp_path):
    import h5py

    features, labels = blobs
    broken = features.copy()
    broken[7, 2] = np.nan
    (tmp_path / "text.h5").write_text("no HDF5")
    (tmp_path / "table.csv").write_text("label,d0,d1\n" + "a,0,1\nb,1,0\n" * 5)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("")
    np.savez(tmp_path / "lengths.npz", X=features, y=labels[:-1])
    unfinished = make_store(features, labels, name="unfinished.h5")
    with h5py.File(unfinished, "a") as file:
        file.attrs["complete"] = False
        file["rows/done"][()] = 0
    return {
        "store": make_store(features, labels, split=["train"] * 60 + ["test"] * 30),
        "nan": make_store(broken, labels, name="nan.h5"),
        "one_class": make_store(features, labels * 0, name="one.h5"),
        "unfinished": unfinished,
        "text": tmp_path / "text.h5",
        "lengths": tmp_path / "lengths.npz",
        "folder": tmp_path / "folder",
        "table": tmp_path / "table.csv",
        "new": tmp_path / "new",
        "net": SAMPLE / "network.py",
        "digits": SAMPLE / "digits",
        "late": SAMPLE / "late.safetensors",
    }


@pytest.mark.parametrize(("line", "code", "message"), BAD, ids=[line for line, _, _ in BAD])
def test_bad_input_is_one_line(line, code, message, places, tmp_path, capsys):
    def everything():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    before = everything()
    arguments = [word.format(**places) for word in line.split(" ")]
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    talk = ("warning: no --checkpoint", "opening timm:", f"{SAMPLE / 'late.safetensors'}: 8 of 8 tensors")
    lines = [text for text in err.splitlines() if not text.startswith(talk)]
    assert len(lines) == 1, err
    assert message.format(**places) in lines[0]
    assert lines[0].startswith("embedscope: ")
    assert everything() == before


def test_a_sweep_is_a_table_and_a_sentence(store, tmp_path, capsys):
    objective = "ce + [0,1]*silhouette"
    assert run("finetune", store, "-o", tmp_path / "run", "--objective", objective, "--epochs", 2) == 0
    captured = capsys.readouterr()
    assert re.search(r"sweep ce \+ \[0,1\]\*silhouette +validation macro_f1", captured.out)
    assert re.search(r"ce \+ [01]\*silhouette +0\.\d{4} \*", captured.out)
    assert "best of the 2 of ce + [0,1]*silhouette by validation: ce + " in captured.err


def test_interrupt_ends_with_130(store, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("embedscope.evaluation.score", interrupt)
    assert run("score", store) == 130
    assert capsys.readouterr().out == ""


def test_a_bug_keeps_its_traceback(store, monkeypatch):
    def bug(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("embedscope.evaluation.score", bug)
    with pytest.raises(ZeroDivisionError):
        run("score", store)


def test_module_can_be_run():
    done = subprocess.run([sys.executable, "-m", "embedscope", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == __version__


def test_metrics_of_finetune_and_plot_are_chosen(make_store, blobs, tmp_path, capsys):
    store = make_store(*blobs)
    options = ["-m", "gini(dead='ignore')", "-m", "rankme", "--objective", "ce", "--epochs", "1", "--json"]
    assert run("finetune", store, "-o", tmp_path / "run", *options) == 0
    before = json.loads(capsys.readouterr().out)["before"]
    assert list(before) == ["gini", "rankme", "knn_accuracy", "macro_f1", "accuracy"]
    assert run("plot", store, "-o", tmp_path / "a.png", "-k", "pca", "-m", "gini") == 2
    assert "--metric applies to a page (.html) and to the kind trajectory" in capsys.readouterr().err


def test_a_note_of_many_embeddings_is_printed_once(make_store, blobs, capsys):
    store = make_store(*blobs)
    names = [f"{name}={store}" for name in "abcd"]
    arguments = ["score", *names[:3], "-m", "explained_variance", "--ci"]
    assert main(arguments) == 0
    assert capsys.readouterr().err.count("no interval") == 3
    arguments.insert(1, names[3])
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert said.count("no interval") == 1
    assert "(and so for 3 others; --verbose and --json have all)" in said
    assert main([*arguments, "--verbose"]) == 0
    assert capsys.readouterr().err.count("no interval") == 4
