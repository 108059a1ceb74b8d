"""Pages of formats: the JSON of `score` and `finetune`, and the feature store."""

from __future__ import annotations

import dataclasses

from embedscope.evaluation.changes import ClassChange, SideChanges
from embedscope.evaluation.comparing import Difference
from embedscope.evaluation.comparison import Comparison
from embedscope.evaluation.finding import Finding
from embedscope.evaluation.scores import Measurement, Scores
from embedscope.evaluation.shift import ClassShift, Shift
from embedscope.store import format as store_format
from embedscope.store import provenance, results

from .markdown import annotation, attributes, code, docstring, escaped, table

# Fields that stay in Python.
_NOT_IN_JSON = {
    "Scores": {"table", "ids", "labels"},
    "Measurement": {"name", "pseudo_values", "arrays", "by_class"},
    "Finding": {"weight"},
    "Comparison": {"alone"},
}
# Keys that are not fields of their record: key -> type and meaning.
_FURTHER = {
    "Comparison": {
        "paired": ("bool", "whether rows were matched by their ids."),
        "only_first": ("int", "number of rows that only the first embedding has."),
        "only_second": ("int", "number of rows that only the second embedding has."),
    },
    "ClassChange": {"significant": ("bool", "whether the interval excludes 0.")},
}
# `results[].issues`, of `score --issues`.
_ISSUES = {
    "label": ("int | null", "Rows with a label that is probably wrong."),
    "leakage": ("int | null", "Rows with a copy in another split."),
    "duplicate": ("int | null", "Rows with a copy in the same split."),
    "outlier": ("int | null", "Rows far from all others."),
    "leakage_groups": ("int", "Groups that the copies across splits form."),
    "duplicate_groups": ("int", "Groups that the copies within splits form."),
    "groups_with_different_labels": ("int", "Groups of copies whose labels differ."),
    "expected_precision": ("float | null", "Share of the listed labels that is expected to be wrong."),
    "expected_precision_low": ("float | null", "Its lower bound."),
    "label_noise": ("float | null", "Estimated share of wrong labels among all."),
    "notes": ("list[str]", "What could not be computed, and why."),
}
# Key -> the record that its value is made of, where a record is described.
_SCORE = (
    (Scores, "results[]", "One embedding."),
    (Measurement, "results[].metrics", "One metric of one embedding; the key is the metric as it was typed after `-m`."),
    (Finding, "results[].findings[]", "One thing that stands out, the weightiest first."),
    (Difference, "differences[]", "With `--ci` and several embeddings: how each differs from the first one."),
    (Comparison, "comparisons[]", "With `--compare`: what changed from the first embedding to another."),
    (ClassChange, "comparisons[].classes[]", "One class in both embeddings."),
    (SideChanges, "comparisons[].sides", "Samples that changed sides between their class and the nearest other one."),
    (Shift, "shifts[]", "With `--against`: how far other rows are from those of an embedding."),
    (ClassShift, "shifts[].classes[]", "One class in both data sets."),
)
_RUN = (
    (results.Finetuning, "run.json", "The run."),
    (results.RunData, "data", "The rows of the run."),
    (results.ObjectiveResult, "objectives[]", "One objective."),
    (results.Trial, "objectives[].trials[]", "One training."),
    (results.Summary, "objectives[].summary", "One metric over the trials, by its name."),
    (results.Candidate, "objectives[].candidates[]", "One point of a sweep."),
)


def json_keys() -> str:
    """Return the page of every key of `score --json` and `run.json`."""
    parts = [
        "Keys are added in later versions; none is renamed or removed. `schema` names the version of the layout.\n",
        "## score --json { #score }",
        table(
            ["Key", "Type", "Meaning"],
            [
                [code("schema"), code("str"), "`embedscope.score/1`"],
                [code("embedscope"), code("str"), "The version that wrote it."],
                [code("results"), code("list"), "One [result](#results) per embedding and layer, in the order given."],
                [code("differences"), code("list"), "With `--ci` and several embeddings only: [differences](#differences)."],
                [code("comparisons"), code("list"), "With `--compare` only: [comparisons](#comparisons)."],
                [code("shifts"), code("list"), "With `--against` only: [shifts](#shifts)."],
            ],
        ),
        *(_record(*each) for each in _SCORE),
        "### results[].issues { #results-issues }",
        "With `--issues` only: how many rows of each kind the file lists.\n",
        table(["Key", "Type", "Meaning"], [[code(key), code(kind), meaning] for key, (kind, meaning) in _ISSUES.items()]),
        "Further keys of a measurement, such as `per_channel` of `gini`, are described with their "
        "[metric](metrics.md). A metric that is undefined on the data has `null` as its value and the reason in `note`.\n",
        "## finetune: run.json { #run }",
        "`embedscope finetune --json` prints the same document.\n",
        *(_record(*each) for each in _RUN),
    ]
    return "\n\n".join(parts)


def _record(record: type, key: str, meaning: str) -> str:
    known, left_out = attributes(record), _NOT_IN_JSON.get(record.__name__, set())
    rows = [
        [code(each.name), code(_json_type(annotation(each.type))), escaped(known.get(each.name, ""), in_table=True)]
        for each in dataclasses.fields(record)
        if each.name not in left_out
    ]
    further = _FURTHER.get(record.__name__, {})
    rows += [[code(name), code(kind), escaped(text, in_table=True)] for name, (kind, text) in further.items()]
    anchor = key.replace("[]", "").replace(".", "-").replace("_", "-")
    return f"### {key} {{ #{anchor} }}\n\n{meaning}\n\n{table(['Key', 'Type', 'Meaning'], rows)}"


def _json_type(kind: str) -> str:
    """Return a type of Python in JSON's terms."""
    for python, in_json in (("Better", "str"), ("Severity", "str"), ("Mapping", "dict"), ("Sequence", "list"), ("Path", "str")):
        kind = kind.replace(python, in_json)
    return kind.replace("tuple[", "list[").replace("None", "null")


def store() -> str:
    """Return the page of the layout of a feature store, and of its provenance."""
    parts = [
        "A feature store is one HDF5 file, written by [`embedscope extract`](cli.md#extract). "
        "[`embedscope inspect`](cli.md#inspect) prints what it holds; any HDF5 reader opens it.\n",
        docstring(store_format.__doc__),
        "## Provenance { #provenance }",
        "How the features were made, as JSON. A `null` says that it is not known.\n",
    ]
    for name, record in vars(provenance).items():
        if not name.startswith("_") and dataclasses.is_dataclass(record) and record.__module__ == provenance.__name__:
            assert isinstance(record, type)
            known = attributes(record)
            rows = [
                [code(each.name), code(_json_type(annotation(each.type))), escaped(known.get(each.name, ""), in_table=True)]
                for each in dataclasses.fields(record)
            ]
            parts += [f"### {name}", docstring(record.__doc__, skip=["Attributes"]), table(["Key", "Type", "Meaning"], rows)]
    return "\n\n".join(parts)
