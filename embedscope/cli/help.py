"""Layout of the help: option panels, examples at the end, and no empty columns."""

from __future__ import annotations

from inspect import cleandoc
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

METRICS, CERTAINTY, COMPARISON, PLOTS = "Metrics", "Certainty", "Comparison", "Plots"
MODEL, LAYERS, DATA, TRAINING = "Model", "Layers", "Data", "Training"
OUTPUT, EXECUTION, GENERAL = "Output", "Execution", "General"

# The first one of each command is also shown by `embedscope` alone.
EXAMPLES = {
    "extract": (
        "extract timm:resnet18 photos/ -o features.h5",
        "extract net.py:Net photos/ --checkpoint net.pt -o features.h5",
        "extract net.py:Net photos/ --list-layers",
        "extract timm:resnet18 photos/ -l 'layer*' --logits -o layers.h5",
    ),
    "score": (
        "score features.h5",
        "score early.h5 late.h5 --split test --compare",
        "score features.h5 -m silhouette --ci --fail-under silhouette=0.3",
        "score embeddings.csv --issues issues.csv",
    ),
    "finetune": (
        "finetune features.h5 -o run --trials 5",
        "finetune features.h5 -o run --objective ce --objective 'ce + gini'",
        "finetune timm:resnet18 photos/ -o run --train last:1 --epochs 10",
    ),
    "plot": (
        "plot features.h5 -o report.html",
        "plot early.h5 late.h5 --kind umap --kind silhouette -o late.png",
        "plot run -o run.pdf",
    ),
    "merge": (
        "merge a.json b.json -o results.csv",
        "merge a.json b.json --format markdown",
        "merge run -o results.parquet",
    ),
    "inspect": ("inspect features.h5", "inspect features.h5 --verify"),
    "demo": ("demo", "demo /tmp/embedscope-demo"),
    "env": ("env", "env --json"),
}


class Command(TyperCommand):
    """A command whose help leaves room for option descriptions at 80 columns."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _without_types(self.params)
        if self.help:  # a docstring is broken at the width of the code
            self.help = "\n\n".join(" ".join(part.split()) for part in cleandoc(self.help).split("\n\n"))

    def get_help_option(self, ctx: Any) -> Any:
        """Return `--help`, in the last panel instead of a separate first one."""
        option: Any = super().get_help_option(ctx)
        option.rich_help_panel, option.metavar = GENERAL, ""
        return option


class Group(TyperGroup):
    """The top-level command, with the same layout."""

    def get_params(self, ctx: Any) -> Any:
        """Return the options, including the completion options that Typer adds."""
        return _without_types(super().get_params(ctx))


def _without_types(parameters: Any) -> Any:
    for each in parameters:
        if getattr(each, "is_flag", False):
            each.metavar = ""  # instead of <bool>
        elif each.param_type_name == "argument":
            vars(each)["display_type"] = lambda _: ""  # instead of <list[str]>; its name and help say more
    return parameters


def overview(commands: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the lines printed by a bare `embedscope`: each command with its summary and an example."""
    yield "Usage: embedscope COMMAND [OPTIONS]"
    for name, text in commands:
        yield ""
        yield f"{name:9} {text.partition(chr(10))[0]}"
        yield f"{'':9} $ embedscope {EXAMPLES[name][0]}"
    yield ""
    yield "Options and more examples: embedscope COMMAND --help"


def examples(*lines: str) -> str:
    """Return the examples at the end of a help, one command per line."""
    return "\n".join(["Examples:", *(f"  embedscope {line}" for line in lines)])
