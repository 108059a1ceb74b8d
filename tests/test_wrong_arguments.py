"""What the public functions say of arguments that cannot be meant: an error of embedscope's own, never one of Python's."""

import numpy as np
import pytest
import torch

import embedscope
from embedscope.errors import InputError, OutputError, UsageError
from embedscope.ops.blocks import allowance

FEATURES = np.random.default_rng(0).normal(size=(40, 3))
LABELS = np.arange(40) % 2
NET = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
LOADER = [(torch.ones(2, 3), torch.tensor([0, 1]))]
PROBE = (FEATURES.astype(np.float32), LABELS)

SEED = r"`seed=` must be an integer from 0 to 4,294,967,295, got 'x'"
MEMORY = r"`memory=` takes a number of bytes, or a size such as '4GB'; got \[1\]"
LAYERS = r"`layers=` must be a string or a list of strings, got 3"
METRICS = r"`metrics=` must be a string or a list of strings, got 3"
NO_METRIC = r"`metrics=` is empty; name at least one, or omit it for the default"
DEVICE = r"no device 3; choose auto, cpu, cuda, cuda:N or mps"
NO_LABELS = r"ndarray of shape \(40, 3\) is given without labels; give one label per row as well"
OUTPUT = r"`output=` must be a path, got ndarray of shape \(40,\); the second argument is the output; give labels by name"


def refused(function, arguments, options, message, error=UsageError):
    with pytest.raises(error, match=rf"^{message}"):
        function(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"memory": [1]}, UsageError, MEMORY),
        ({"memory": "much"}, UsageError, r"cannot read the size 'much'; use a form such as 500MB or 4GB"),
        ({"memory": -1}, UsageError, r"a memory limit of -1 is too small to work with; give at least 16 MB"),
        ({"memory": "1MB"}, UsageError, r"a memory limit of 1.0 MB is too small to work with; give at least 16 MB"),
        ({"metrics": 3}, UsageError, METRICS),
        ({"metrics": []}, UsageError, NO_METRIC),
        (
            {"metrics": "silhouette,gini"},
            UsageError,
            r"'silhouette,gini' is not one metric; pass a list: `metrics=\['silhouette', 'gini'\]`$",
        ),
        ({"metrics": "soft silhouette"}, UsageError, r"no metric 'soft silhouette'; did you mean 'soft_silhouette'\?"),
        ({"metrics": "gini, silhouet"}, UsageError, r"no metric 'gini, silhouet'"),
        ({"metrics": "linear_probe(seed='x')"}, UsageError, r"seed must be an integer from 0 to 4,294,967,295, got 'x'"),
        ({"against": FEATURES[:1]}, InputError, r"features: 1 row, but a shift needs at least 20"),
        ({"metrics": "knn"}, UsageError, r"no metric 'knn'; did you mean 'knn_accuracy'\?"),
        ({"layers": 3}, UsageError, LAYERS),
        ({"split": 3}, UsageError, r"`split=` must be a string, got 3"),
        ({"split": "test"}, InputError, r"the array has no splits; omit `split=test`"),
        ({"sample": "x"}, UsageError, r"`sample=` must be an integer of at least 1, got 'x'"),
        ({"sample": 0}, UsageError, r"`sample=` must be an integer of at least 1, got 0"),
        ({"sample": 2.5}, UsageError, r"`sample=` must be an integer of at least 1, got 2.5"),
        ({"ci": 3}, UsageError, r"kind of interval must be a string, got 3. There are: drawn, fixed"),
        ({"ci": "fixd"}, UsageError, r"no kind of interval 'fixd'; did you mean 'fixed'\?"),
        ({"compare": "yes"}, UsageError, r"`compare=` must be True or False, got 'yes'"),
        ({"against": 3}, UsageError, r"3 is not an embedding; give features and labels, a path"),
        ({"device": 3}, UsageError, DEVICE),
        ({"seed": "x"}, UsageError, SEED),
    ],
    ids=str,
)
def test_options_of_score(options, error, message):
    refused(embedscope.score, (FEATURES, LABELS), options, message, error)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((FEATURES,), UsageError, NO_LABELS),
        ((3,), UsageError, r"3 is not an embedding; give features and labels"),
        (([],), UsageError, r"\[\] is not an embedding"),
        (({},), UsageError, r"the mapping of sources is empty"),
        ((None, LABELS), InputError, r"features must be numbers of shape \(N, D\), got None"),
        ((LABELS, FEATURES), InputError, r"features must .* got int64 \(40,\); features come first, then labels"),
        ((FEATURES, LABELS[:5]), InputError, r"features have 40 rows, but labels have the shape \(5,\)"),
        ((FEATURES[:1], LABELS), InputError, r"features have 1 row, but labels have the shape \(40,\)"),
        (
            (FEATURES, np.eye(2)[LABELS]),
            InputError,
            r"labels have the shape \(40, 2\); give one per row, such as labels.argmax",
        ),
        ((FEATURES, 3), InputError, r"labels must be one per row, got 3$"),
        (([FEATURES, FEATURES], LABELS), InputError, r"features must .*; give several embeddings as a mapping from names"),
        (([[1, 2], [3]], [0, 1]), InputError, r"features must be an array, or lists of one length, got \[\[1, 2\], \[3\]\]"),
        ((FEATURES.tolist(),), UsageError, r"\[\[.* is given without labels; give one label per row as well"),
        (
            ("a.h5", LABELS),
            UsageError,
            r"labels go with arrays; files and feature sets have their own, got 'a.h5'; omit the labels",
        ),
        (
            (["a.h5", "b.h5"], LABELS),
            UsageError,
            r"labels go with arrays; files and feature sets have their own, got \['a.h5', 'b.h5'\]",
        ),
        (
            ({"a": "a.h5"}, LABELS),
            UsageError,
            r"labels go with arrays; files and feature sets have their own, got {'a': 'a.h5'}",
        ),
        ((FEATURES, "kind"), InputError, r"labels must be one per row, got 'kind'; a column's name goes with AnnData"),
        ((FEATURES[:, 0],), InputError, r"features must be numbers of shape \(N, D\), got ndarray of shape \(40,\)$"),
        (((FEATURES, LABELS), LABELS), UsageError, r"the labels are given twice: in the pair \(features, labels\), and by"),
        (((FEATURES, FEATURES), LABELS), InputError, r"features must .*; give several embeddings as a mapping"),
        ((FEATURES, -np.ones(40, dtype=int)), InputError, r"the array has 40 rows, none of them labeled"),
        (({"late": FEATURES}, -np.ones(40, dtype=int)), InputError, r"late has 40 rows, none of them labeled"),
    ],
)
def test_sources_of_score(arguments, error, message):
    refused(embedscope.score, arguments, {}, message, error)


@pytest.mark.parametrize("function", [embedscope.score, embedscope.find_issues, embedscope.finetune])
def test_a_size_as_text_is_a_memory_limit(function, monkeypatch):
    """It is the number of bytes that the rows may take, in what each function calls."""
    taken = []

    def spy(device, memory):
        taken.append(memory)
        return allowance(device, memory)

    for place in ("evaluation.scoring", "evaluation.evaluating", "evaluation.samples", "finetuning.running"):
        monkeypatch.setattr(f"embedscope.{place}.allowance", spy)
    options = {"objectives": "ce", "epochs": 1, "device": "cpu", "metrics": "gini"} if function is embedscope.finetune else {}
    for memory in ("64MB", 2**26):
        function(FEATURES, LABELS, memory=memory, **options)
    assert set(taken) == {2**26}


@pytest.mark.parametrize(
    ("function", "kind"),
    [(embedscope.score, ""), (embedscope.find_issues, " of the features"), (embedscope.finetune, " of the features")],
)
def test_a_row_that_is_not_finite_is_named_once(function, kind):
    features = FEATURES.copy()
    features[9, 0] = np.nan
    with pytest.raises(InputError, match=rf"^the array: 1 of 40 rows{kind} holds NaN or infinite values: row 9$"):
        function(features, LABELS)
    features[[3, 11]] = np.inf
    with pytest.raises(InputError, match=rf"^late: 3 of 40 rows{kind} hold NaN or infinite values: rows 3, 9, 11$"):
        function({"late": features}, LABELS)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"memory": [1]}, UsageError, MEMORY),
        ({"memory": 1}, UsageError, r"a memory limit of 1 is too small to work with"),
        ({"layer": 3}, UsageError, r"`layer=` must be a string, got 3"),
        ({"split": 3}, UsageError, r"`split=` must be a string, got 3"),
        ({"ids": 3}, InputError, r"features have 40 rows, but ids have the shape \(\)"),
        ({"device": 3}, UsageError, DEVICE),
        ({"seed": "x"}, UsageError, SEED),
    ],
    ids=str,
)
def test_options_of_find_issues(options, error, message):
    refused(embedscope.find_issues, (FEATURES, LABELS), options, message, error)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((FEATURES, LABELS), {}, OUTPUT),
        ((FEATURES, [1, 2]), {}, r"`output=` must be a path, got \[1, 2\]; the second argument is the output"),
        ((FEATURES,), {}, NO_LABELS),
        ((FEATURES, ""), {"labels": LABELS}, r"`output=` must be a path, got ''"),
        (([],), {}, r"there is nothing to draw: the list of sources is empty"),
        ((FEATURES,), {"labels": LABELS, "kind": 3}, r"`kind=` must be a string, got 3"),
        ((FEATURES,), {"labels": LABELS, "kinds": [3]}, r"`kinds=` must be a string or a list of strings, got \[3\]"),
        ((FEATURES,), {"labels": LABELS, "layers": 3}, LAYERS),
        ((FEATURES,), {"labels": LABELS, "metrics": 3}, METRICS),
        ((FEATURES,), {"labels": LABELS, "metrics": []}, NO_METRIC),
        ((FEATURES,), {"labels": LABELS, "split": 3}, r"`split=` must be a string, got 3"),
        ((FEATURES,), {"labels": LABELS, "max_points": "x"}, r"`max_points=` must be an integer of at least 3, got 'x'"),
        ((FEATURES,), {"labels": LABELS, "width": 3}, r"width must be a string, got 3. There are: column, page, slide"),
        ((FEATURES,), {"labels": LABELS, "form": "jpg"}, r"no format 'jpg'; did you mean 'png'\?"),
        ((FEATURES,), {"labels": LABELS, "seed": "x"}, SEED),
        ((FEATURES,), {"labels": LABELS, "images": 3}, r"`images=` must be a path, got 3$"),
        ((FEATURES,), {"labels": LABELS, "layout": 3}, r"`layout=` must be a path, got 3$"),
        ((FEATURES,), {"labels": LABELS, "coordinates": 3}, r"`coordinates=` must be a path, got 3$"),
    ],
)
def test_arguments_of_plot(arguments, options, message):
    refused(embedscope.plot, arguments, options, message)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((FEATURES, LABELS, 3), {}, r"the run directory must be a path, got 3"),
        ((NET, "photos"), {}, r"a network is trained on a data set; open it first: open_dataset\('photos'\)"),
        ((FEATURES, LABELS), {"objectives": "pml(loss=3)"}, r"loss of pml must be a string, got 3"),
        ((FEATURES, LABELS), {"config": 3}, r"`config=` takes a TrainingConfig, got 3"),
        ((FEATURES, LABELS), {"objectives": 3}, r"`objectives=` must be a string or a list of strings, got 3"),
        ((FEATURES, LABELS), {"objectives": []}, r"`objectives=` is empty; name at least one"),
        ((FEATURES, LABELS), {"memory": [1]}, MEMORY),
        ((FEATURES, LABELS), {"memory": "x"}, r"cannot read the size 'x'"),
        ((FEATURES, LABELS), {"layer": 3}, r"`layer=` must be a string, got 3"),
        ((FEATURES, LABELS), {"test": 3}, r"3 is not an embedding"),
        ((FEATURES, LABELS), {"label_map": 3}, r"`label_map=` takes a mapping of class names to class names, got 3"),
        ((FEATURES, LABELS), {"overwrite": "x"}, r"`overwrite=` must be True or False, got 'x'"),
        ((FEATURES, LABELS), {"device": 3}, r"`device=` must be a string, got 3"),
    ],
)
def test_arguments_of_finetune(arguments, options, message):
    refused(embedscope.finetune, arguments, options, message)


def test_a_config_keeps_a_size_as_text():
    assert embedscope.TrainingConfig(memory="1GB").memory == "1GB"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3,), {}, r"a probe is a location, \(location, rows\), a data set, \(X, y\) tensors or a loader; got 3"),
        (((PROBE, 1),), {}, r"a probe needs at least 2 rows, got 1"),
        ((([1], 2),), {}, r"a number of rows needs labeled data, not list"),
        ((PROBE,), {"layers": 3}, LAYERS),
        ((PROBE,), {"metrics": 3}, METRICS),
        ((PROBE,), {"metrics": []}, NO_METRIC),
        ((PROBE,), {"every": "x"}, r"`every=` takes a number of steps from 1"),
        ((PROBE,), {"path": 3}, r"`path=` must be a path, got 3"),
        ((PROBE,), {"stop_on": 3}, r"`stop_on=` must be a string or a list of strings, got 3"),
        ((PROBE,), {"log": 3}, r"`log=` takes a logger"),
        ((PROBE,), {"on_finding": 3}, r"`on_finding=` takes a function of a finding, got 3"),
        ((PROBE,), {"prepare": 3}, r"`prepare=` takes an encoder or a transform"),
        ((PROBE,), {"prepare": str}, r"`prepare=` applies to a data source"),
        ((PROBE,), {"pooling": "men"}, r"no pooling 'men'; did you mean 'mean'\?"),
        ((PROBE,), {"batch_size": "x"}, r"`batch_size=` must be an integer of at least 1, got 'x'"),
        ((PROBE,), {"workers": -1}, r"`workers=` must be an integer of at least 0, got -1"),
        ((PROBE,), {"device": "gpu"}, r"no device 'gpu'"),
        ((PROBE,), {"seed": "x"}, SEED),
        ((PROBE,), {"amp": "x"}, r"`amp=` must be True or False, got 'x'"),
    ],
)
def test_a_monitor_is_refused_when_it_is_made(arguments, options, message):
    refused(embedscope.Monitor, arguments, options, message)


def test_a_monitor_of_data_that_cannot_be_is_refused_when_it_is_made(tmp_path):
    refused(embedscope.Monitor, (str(tmp_path / "none"),), {}, r"no such data: .*none", InputError)
    refused(embedscope.Monitor, ((PROBE[0], LABELS[:3]),), {}, r"the probe has 40 inputs and 3 labels", InputError)
    refused(embedscope.Monitor, ((PROBE[0], LABELS[:1]),), {}, r"the probe has 40 inputs and 1 label$", InputError)
    refused(embedscope.Monitor, (PROBE,), {"path": tmp_path}, r"output .* is a folder; give a file name", OutputError)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3, 3), {}, r"the first argument must be an encoder from open_model or an nn.Module, got 3"),
        ((LOADER, NET), {}, r"the first argument must be an encoder from open_model or an nn.Module, got \["),
        (("timm:resnet18", "photos"), {}, r"the first argument must be an encoder .*, got 'timm:resnet18'"),
        ((NET, 3), {}, r"an nn.Module takes a loader, an iterable of \(inputs, labels\), got 3"),
        ((NET, "photos"), {}, r"an nn.Module takes a loader, .*, got 'photos'; to read data by their location, use open_model"),
        ((NET, LOADER, 3), {}, r"`output=` must be a path, got 3"),
        ((NET, LOADER), {"layers": 3}, LAYERS),
        ((NET, LOADER), {"dtype": 3}, r"dtype must be a string, got 3. There are: float32, float16"),
        ((NET, LOADER), {"limit": "x"}, r"`limit=` must be an integer of at least 1, got 'x'"),
        ((NET, LOADER), {"device": 3}, DEVICE),
        ((NET, LOADER), {"seed": "x"}, SEED),
        ((NET, LOADER), {"amp": "x"}, r"`amp=` must be True or False, got 'x'"),
        ((NET, LOADER), {"on_error": "skip"}, r"`on_error=` applies to an encoder and a data set"),
    ],
)
def test_arguments_of_extract(arguments, options, message):
    refused(embedscope.extract, arguments, options, message)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (embedscope.open_model, (3,), r"the model must be a spec, such as 'timm:resnet18', or a path, got 3"),
        (embedscope.open_model, ("torch.nn:Linear(3, 2)", 3), r"`checkpoint=` must be a path, got 3"),
        (embedscope.open_model, ("tim:resnet18",), r"no model source or Python module 'tim'; did you mean 'timm:resnet18'\?"),
        (embedscope.open_dataset, ("",), r"the location of the data must be a path, got ''"),
        (embedscope.open_dataset, (3,), r"the location of the data must be a path, got 3"),
        (embedscope.open_features, (3,), r"a source of features must be a path, got 3"),
        (embedscope.open_features, ([3],), r"a source of features must be a path, got 3"),
        (embedscope.open_features, ([],), r"no features are given; name at least one file"),
        (embedscope.list_layers, (3, 3), r"list_layers takes an encoder from open_model, got 3"),
        (embedscope.list_layers, (NET, LOADER), r"list_layers takes an encoder from open_model, got an object of type"),
    ],
)
def test_arguments_of_openers(function, arguments, message):
    refused(function, arguments, {}, message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "a"}, r"cannot read the size 'a'"),
        ({"size": (1, 2, 3)}, r"`size=` takes \(height, width\), or one number for both, got \(1, 2, 3\)"),
        ({"size": 0}, r"`size=` must be an integer of at least 1, got 0"),
        ({"size": (3, 16385)}, r"`size=` must be at most 16,384 pixels per side, got 16,385"),
        ({"size": "16385"}, r"cannot read the size '16385'; .*, with at most 16,384 pixels per side$"),
        ({"mean": ("a",)}, r"`mean=` must be a number, got 'a'"),
        ({"std": 0}, r"`std=` must be a number above 0, got 0"),
        ({"std": []}, r"`std=` takes one number per channel, got \[\]"),
        ({"weights": 3}, r"`weights=` must be a string, got 3"),
        ({"value_range": 3}, r"`value_range=` takes two numbers, black and a larger one for white, got 3"),
        ({"seed": "x"}, SEED),
    ],
    ids=str,
)
def test_options_of_open_model(options, message):
    refused(embedscope.open_model, ("torch.nn:Linear(3, 2)",), options, message)


def test_a_size_is_one_number_or_two_or_text():
    texts = {embedscope.open_model("torch.nn:Linear(3, 2)", size=size).prepare.text for size in (8, (8, 8), [8, 8], "8", "8x8")}
    assert len(texts) == 1
    assert "8" in texts.pop()


def test_the_nearest_data_source_is_named():
    refused(embedscope.open_dataset, ("tabl:x.csv",), {}, r"no such data: tabl:x.csv; did you mean 'table:x.csv'\?", InputError)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((NET, "a"), {}, r"a monitor is called with the model and the step; got 'a' for the step"),
        ((0, NET), {}, r"a monitor is called with the model and the step; got an object of type Sequential for the step"),
        ((NET, 0), {"loss": "a"}, r"`loss=` takes a number or a tensor with one, got 'a'"),
        ((NET, 0), {"loss": torch.ones(2)}, r"`loss=` takes a number or a tensor with one, got Tensor of shape \(2,\)"),
    ],
)
def test_calls_of_a_monitor(arguments, options, message):
    refused(embedscope.Monitor(PROBE), arguments, options, message)


def test_labels_of_a_mapping_are_those_of_its_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", X=FEATURES, y=LABELS)
    found = embedscope.score({"file": str(tmp_path / "a.npz"), "array": FEATURES}, LABELS, metrics="gini")
    assert [entry.name for entry in found] == ["file", "array"]


def test_features_of_one_dimension_are_refused_by_shape():
    """Without labels too, which find_issues does not need."""
    refused(
        embedscope.find_issues, (FEATURES[:, 0],), {}, r"features must be numbers of shape \(N, D\), got ndarray", InputError
    )


def test_nested_lists_are_features():
    assert embedscope.find_issues(FEATURES.tolist()).samples == 40


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()

    monkeypatch.setattr("embedscope.data.walking._entries", lambda folder: iter([Entry(str(folder / "cat"))]))
    refused(embedscope.open_dataset, (str(tmp_path),), {}, r".*cat cannot be read: Permission denied", InputError)


class Entry:
    """A link into what may not be read, which root may always read."""

    def __init__(self, path):
        self.name, self.path = "cat", path

    def is_dir(self):
        raise PermissionError(13, "Permission denied", self.path)
