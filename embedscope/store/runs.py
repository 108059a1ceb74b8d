"""The run directory of finetune, schema embedscope.finetune/1.

    run.json                              options, data, and for each objective its trials and summary
    before.h5                             the held-out rows as they came in, a feature store
    <objective>/trial-<n>/after.h5        the same rows in the embedding of the trained head
    <objective>/trial-<n>/head.safetensors, or model.safetensors of a whole network
    <objective>/trial-<n>/log.csv         one line per epoch
    <objective>/trial-<n>/predictions.csv the held-out rows with their class and the predicted one
    <objective>/split-<r>/trial-<n>/...   the same of further splits, from 1

Of a sweep, the objectives that were not chosen have head and log alone. before.h5 is of the first split. Written to
`RUN.partial` and renamed when complete; `progress/` in it holds what resuming needs, and is removed at the end.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.errors import InputError, OutputError, explained
from embedscope.ops.blocks import row_slices
from embedscope.store.files import check_place, finished, partial_path
from embedscope.store.heads import read_head, write_head
from embedscope.store.locks import held
from embedscope.store.provenance import LayerOrigin, Provenance
from embedscope.store.reader import read_features, verify
from embedscope.store.results import MANIFEST, is_run, read_run, write_run
from embedscope.store.tables import unguarded, write_csv
from embedscope.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from torch import Tensor

    from embedscope.ops.rows import Rows
    from embedscope.store.features import FeatureSet
    from embedscope.store.heads import HeadNotes
    from embedscope.store.results import Finetuning, Trial

HEAD, MODEL = "head.safetensors", "model.safetensors"

_BEFORE = "before.h5"
_PREDICTIONS = "predictions.csv"
_PROGRESS = "progress"
_BEGUN = "begun.json"


def check_run(path: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Raise OutputError unless a run may be written there: nothing is, or an earlier run that may be replaced."""
    partial = partial_path(path.resolve())
    try:
        if path.resolve() == Path.cwd():
            raise OutputError(f"output {path} is the current folder; give a run a folder of its own")
        if partial.exists() and not (partial / _PROGRESS).is_dir():
            raise OutputError(f"{partial} exists but is not an unfinished run; move it or choose another name")
        if partial.exists() and not resume and not overwrite:
            raise OutputError(f"{partial} is an unfinished run: `resume=True` continues it, `overwrite=True` starts again")
        if not path.exists():
            check_place(path)
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if not is_run(str(path)):
            raise OutputError(f"output {path} exists and is not a run of finetune; choose another name")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    if resume and not partial.exists():
        raise OutputError(f"{path} is complete already; nothing is left to resume")
    if not overwrite:
        raise OutputError(f"output {path} exists; choose another name or pass `overwrite=True`")


class RunWriter:
    """A run directory in the making; use as a context manager, and `finish` it.

    It lies in `RUN.partial`, and its lock keeps other processes from writing there. Leaving the context unfinished keeps what
    was done, for a run that resumes, and nothing if nothing was. OutputError for whatever the file system refuses.

    Args:
        path: of the run.
        begun: what decides the results; a run resumes only with the same.
        overwrite: replace an earlier run, finished or not.
        resume: continue an unfinished one.
    """

    def __init__(self, path: Path, begun: Mapping[str, Any], *, overwrite: bool, resume: bool = False) -> None:
        self.path = path.resolve()
        self.partial = partial_path(self.path)
        self._begun, self._overwrite, self._resume = json.loads(json.dumps(begun)), overwrite, resume
        self._stack = ExitStack()

    def __enter__(self) -> RunWriter:
        check_run(self.path, overwrite=self._overwrite, resume=self._resume)
        progress = self.partial / _PROGRESS
        try:
            self._refresh = self._stack.enter_context(held(self.path))
            check_run(self.path, overwrite=self._overwrite, resume=self._resume)  # until then, another process may have written
            if self.partial.exists() and not self._resume:
                shutil.rmtree(self.partial)
            if not self.partial.exists():
                progress.mkdir(parents=True)
                try:
                    _write_json(progress / _BEGUN, self._begun)
                except OutputError:
                    shutil.rmtree(self.partial, ignore_errors=True)
                    raise
                return self
        except OSError as error:
            self._stack.close()
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error
        except OutputError:
            self._stack.close()
            raise
        try:
            earlier = _read_json(progress / _BEGUN) or {}
        except InputError:
            self._stack.close()
            raise
        for key in dict.fromkeys([*earlier, *self._begun]):
            if (before := earlier.get(key)) != (now := self._begun.get(key)):
                self._stack.close()
                raise OutputError(
                    f"{self.partial} was started with a different {key}: {str(before)[:80]}, now {str(now)[:80]}; resume with "
                    "the original settings, or pass `overwrite=True` without `resume=True` to start again"
                )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and not self.has_work:
            shutil.rmtree(self.partial, ignore_errors=True)
        self._stack.close()
        if isinstance(error, OSError):
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    @property
    def has_work(self) -> bool:
        """Whether anything was trained that a run could resume from, or that a user would miss."""
        return any((self.partial / _PROGRESS).glob("*.state.pt")) or any(
            True for name in (HEAD, MODEL) for _ in self.partial.glob(f"**/{name}")
        )

    def write_before(self, held_out: FeatureSet, provenance: Provenance) -> None:
        """Write the held-out rows as they came in."""
        self._write_store(_BEFORE, held_out, held_out.features, held_out.layer, provenance)

    def write_head(self, directory: str, tensors: Mapping[str, Tensor], notes: HeadNotes, file: str = HEAD) -> Path:
        """Write a trained head or network and return the path of its file."""
        path = self.partial / directory / file
        write_head(path, tensors, notes)
        return path

    def read_head(self, directory: str, file: str = HEAD) -> dict[str, Tensor]:
        """Read the tensors of a head or network that was written."""
        tensors, _ = read_head(self.partial / directory / file)
        return tensors

    def write_log(self, directory: str, log: Sequence[Mapping[str, float]]) -> None:
        """Write one line per epoch; a value that an epoch lacks is empty."""
        (self.partial / directory).mkdir(parents=True, exist_ok=True)
        columns = list(dict.fromkeys(key for line in log for key in line))
        write_csv(self.partial / directory / "log.csv", [columns, *([line.get(key) for key in columns] for line in log)])

    def write_after(self, directory: str, held_out: FeatureSet, embedding: Tensor, provenance: Provenance) -> None:
        """Write the embedding (N, E) of the held-out rows."""
        self._write_store(f"{directory}/after.h5", held_out, embedding, "embedding", provenance)

    def write_predictions(self, directory: str, held_out: FeatureSet, predicted: Sequence[int]) -> None:
        """Write the class that was predicted of each held-out row, (N,) class codes, beside its own, by name."""
        names = held_out.class_names
        rows = zip(held_out.ids, held_out.labels, predicted, strict=True)
        lines = ([row, names[label], names[code]] for row, label, code in rows)
        write_csv(self.partial / directory / _PREDICTIONS, [["id", "label", "predicted"], *lines])

    def read_predictions(self, directory: str, class_names: Sequence[str]) -> list[int]:
        """Read the predicted classes of a trial, (N,) class codes."""
        codes = {name: code for code, name in enumerate(class_names)}
        path = self.partial / directory / _PREDICTIONS
        try:
            with path.open(newline="", encoding="utf-8") as file:
                return [codes[unguarded(line["predicted"])] for line in csv.DictReader(file)]
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise InputError(f"{path} is damaged; start again with `overwrite=True`") from error

    def has_measured(self, directory: str) -> bool:
        """Whether predictions and embedding of a trial are there, and every row of the latter as it was written."""
        try:
            return (self.partial / directory / _PREDICTIONS).exists() and verify(self.partial / directory / "after.h5") > 0
        except InputError:
            return False

    def note(self, directory: str, what: str, fields: Mapping[str, Any]) -> None:
        """Note what was found of a trial, for a run that resumes."""
        self._refresh()
        _write_json(self._progress(directory, f"{what}.json"), fields)

    def noted(self, directory: str, what: str) -> dict[str, Any] | None:
        """Read what was noted of a trial, or None."""
        return _read_json(self._progress(directory, f"{what}.json"))

    def save_state(self, directory: str, state: Mapping[str, Any]) -> None:
        """Keep a training that is under way."""
        self._refresh()
        written = io.BytesIO()
        torch.save(dict(state), written)
        with finished(self._progress(directory, "state.pt")) as file:
            file.write_bytes(written.getbuffer())

    def saved_state(self, directory: str) -> dict[str, Any] | None:
        """Read a training that was under way, or None."""
        path = self._progress(directory, "state.pt")
        if not path.exists():
            return None
        with explained(f"{path} is damaged", "start again with `overwrite=True`"):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def drop_state(self, directory: str) -> None:
        """Forget a training that is done."""
        self._progress(directory, "state.pt").unlink(missing_ok=True)

    def finish(self, result: Finetuning) -> None:
        """Write the manifest, last, and give the directory its name."""
        self._refresh()
        write_run(self.partial, result)
        directories = {
            directory
            for objective in result.objectives
            for directory in [
                *(trial.directory for trial in objective.trials),
                *(each for candidate in objective.candidates for each in candidate.directories),
            ]
        }
        for path in [*self.partial.glob("*/trial-*"), *self.partial.glob("*/split-*/trial-*")]:
            if path.relative_to(self.partial).as_posix() not in directories:  # of a resumed run with fewer trials or splits
                shutil.rmtree(path)
        for path in self.partial.glob("*/split-*"):
            if not any(path.iterdir()):
                path.rmdir()
        kept = {_BEFORE, MANIFEST, _PROGRESS} | {directory.partition("/")[0] for directory in directories}
        for path in self.partial.iterdir():
            if path.name in kept:
                continue
            if path.is_dir():  # of an objective that a resumed run left out
                shutil.rmtree(path)
            else:  # a temporary file of a writer that was killed
                path.unlink()
        with tempfile.TemporaryDirectory(prefix=f"{self.path.name[:100]}.", suffix=".earlier", dir=self.path.parent) as earlier:
            if self.path.exists():  # out of the way first, so that at no moment half of a run bears the name
                self.path.rename(Path(earlier) / "run")
            self.partial.rename(self.path)
        shutil.rmtree(self.path / _PROGRESS)

    def _progress(self, directory: str, name: str) -> Path:
        return self.partial / _PROGRESS / f"{directory.replace('/', '--')}.{name}"

    def _write_store(self, name: str, rows: FeatureSet, features: Rows, layer: str, provenance: Provenance) -> None:
        with StoreWriter(
            self.partial / name,
            labels=rows.labels,
            class_names=rows.class_names,
            ids=list(rows.ids),
            split=np.full(len(rows.labels), "test", dtype=object).tolist(),
            provenance=replace(provenance, layers={layer: LayerOrigin(pooling="none")}),
            overwrite=True,
        ) as store:
            for block in row_slices(*_sizes(features)):
                part = features[block].cpu()  # float64 holds whole numbers that float32 would round
                store.add({layer: (part if part.dtype == torch.float64 else part.float()).numpy()})


def _sizes(features: Rows) -> tuple[int, int]:
    """Number of rows, and bytes of a row as it is written."""
    rows, width = features.shape
    return rows, max(4, features.dtype.itemsize) * width


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    with finished(path) as file:
        file.write_text(json.dumps(fields), encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged; start again with `overwrite=True`")
    return found


def directory_names(expressions: Sequence[str]) -> list[str]:
    """Turn objectives into folder names that are distinct and need no quoting: `ce + 0.5*silhouette` -> `ce_0.5-silhouette`."""
    names: list[str] = []
    for expression in expressions:
        plain = re.sub(r"[^A-Za-z0-9._=+@-]+", "", re.sub(r"\*", "-", expression)).replace("+", "_")[:100] or "objective"
        names.append(plain if plain not in names else f"{plain}-{len(names) + 1}")
    return names


def open_run(source: str) -> list[FeatureSet]:
    """Open the held-out rows of a run: before, and after the first trial of every objective; named by the objective.

    InputError for a run that is damaged.
    """
    path = Path(source)
    files = {"before": _BEFORE}
    for objective in read_run(source).objectives:
        files[f"after {objective.expression}"] = f"{objective.trials[0].directory}/after.h5"
    return [replace(read_features(str(path / file)), name=name) for name, file in files.items()]


def read_log(source: str, trial: Trial) -> dict[str, list[float]]:
    """Read the log of a trial, one list per epoch under the name of each column; NaN where an epoch has no value."""
    path = Path(source) / trial.directory / "log.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        return {column: [float(line[column] or "nan") for line in lines] for column in (lines[0] if lines else ())}
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is damaged or missing: {error}") from error
