"""`embedscope merge`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedscope.cli.console import Talk, print_json, show
from embedscope.cli.help import OUTPUT
from embedscope.cli.options import Overwrite, Quiet, one_of
from embedscope.errors import UsageError
from embedscope.text import counted

if TYPE_CHECKING:
    from embedscope.evaluation.merging import MergedTable


_FORMATS = ("csv", "markdown", "hf", "json")
_SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".md": "markdown", ".json": "json", ".yaml": "hf", ".yml": "hf"}


def merge(
    files: Annotated[
        list[Path], typer.Argument(help="JSON files of score --json, run directories of finetune, or folders of these.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .csv, .parquet, .md, .json, or .yaml (Hugging Face); by default, stdout.",
            metavar="PATH",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    form: Annotated[
        str | None,
        one_of(
            "--format",
            _FORMATS,
            help="Format on stdout: csv (default), json, or for a model card markdown or hf (model-index).",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Data set name for hf; by default, the name of each source.",
            metavar="NAME",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Merge the results of many runs into one table.

    The table has one row per embedding.
    """
    from embedscope.evaluation.merging import merge
    from embedscope.store.files import check_output, finished
    from embedscope.store.tables import check_table, write_table

    layout = form or "csv"
    if output is not None:
        if output.suffix not in _SUFFIXES:
            raise UsageError(f"cannot write a table to '{output}': the name must end with {', '.join(_SUFFIXES)}")
        layout = _SUFFIXES[output.suffix]
        if form is not None and form != layout:
            raise UsageError(f"--format {form} does not match the name {output.name}; omit --format or change the name")
        if output.suffix in (".csv", ".parquet"):
            check_table(output)
        check_output(output, overwrite=overwrite, inputs=files)
    if dataset is not None and layout != "hf":
        raise UsageError("--dataset requires --format hf or a .yaml output")
    talk = Talk(quiet)
    table = merge(files, say=talk.say)
    if output is not None and layout in ("csv", "parquet"):
        write_table(output, table.columns())
    elif output is not None:
        with finished(output) as partial:
            partial.write_text(_laid_out(table, layout, dataset), encoding="utf-8")
    elif layout == "json":
        print_json(table.as_json())
    else:
        for line in _laid_out(table, layout, dataset).splitlines():
            show(line)
    if output is not None:
        talk.say(f"wrote {counted(len(table.rows), 'row')} to {output}")


def _laid_out(table: MergedTable, layout: str, dataset: str | None) -> str:
    if layout == "markdown":
        return table.markdown()
    if layout == "hf":
        return table.hugging_face(dataset=dataset)
    if layout == "json":
        import json

        return json.dumps(table.as_json(), indent=1, allow_nan=False) + "\n"
    from embedscope.store.tables import write_rows

    columns, text = table.columns(), io.StringIO(newline="")
    write_rows(text, [list(columns), *zip(*columns.values(), strict=True)])
    return text.getvalue().replace("\r\n", "\n")
