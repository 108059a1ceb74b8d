"""The run directory of finetune, schema embedscope.finetune/1.

    run.json                              options, data, and for each objective its trials and summary
    before.h5                             the held-out rows as they came in, a feature store
    <objective>/trial-<n>/after.h5        the same rows in the embedding of the trained head
    <objective>/trial-<n>/head.safetensors
    <objective>/trial-<n>/log.csv         one line an epoch

Of a sweep, the objectives that were not chosen have head and log alone. Written to `RUN.partial` and renamed when complete;
`progress/` in it has what a run needs that goes on, and is gone then.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch

from embedscope import __version__
from embedscope.errors import InputError, OutputError
from embedscope.ops.blocks import row_slices
from embedscope.store.files import finished, partial_path
from embedscope.store.reader import read_features
from embedscope.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from torch import Tensor

    from embedscope.records import FeatureSet, Finetuning, Rows

SCHEMA = "embedscope.finetune/1"
_MANIFEST = "run.json"
_BEFORE = "before.h5"
_PROGRESS = "progress"
_BEGUN = "begun.json"


def as_json(result: Finetuning) -> dict[str, Any]:
    """Lay a run out as run.json has it."""
    fields = asdict(result)
    del fields["path"]
    return {"schema": SCHEMA, "embedscope": __version__, **fields}


def check_run(path: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Raise OutputError unless a run may be written there: nothing is, or an earlier run that may be replaced."""
    partial = partial_path(path.resolve())
    try:
        if path.resolve() == Path.cwd():
            raise OutputError(f"output {path} is the current folder; give a run a folder of its own")
        if partial.exists() and not (partial / _PROGRESS).is_dir():
            raise OutputError(f"{partial} is in the way, and is no unfinished run; move it, or choose another name")
        if partial.exists() and not resume and not overwrite:
            raise OutputError(f"{partial} is an unfinished run: --resume goes on with it, --overwrite starts again")
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if not is_run(str(path)):
            raise OutputError(f"output {path} exists and is no run of finetune; choose another name")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    if resume and not partial.exists():
        raise OutputError(f"{path} is complete already; nothing is left to resume")
    if not overwrite:
        raise OutputError(f"output {path} exists; choose another name or pass --overwrite")


class RunWriter:
    """A run directory in the making; use as a context manager, and `finish` it.

    It lies in `RUN.partial`. Leaving the context unfinished keeps what was done there, for a run that goes on with it, and
    nothing if nothing was. OutputError for whatever the file system refuses.

    Args:
        path: of the run.
        begun: what decides the results; a run goes on only with the same.
        overwrite: replace an earlier run, finished or not.
        resume: go on with an unfinished one.
    """

    def __init__(self, path: Path, begun: Mapping[str, Any], *, overwrite: bool, resume: bool = False) -> None:
        self.path = path.resolve()
        self.partial = partial_path(self.path)
        self._begun, self._overwrite, self._resume = json.loads(json.dumps(begun)), overwrite, resume

    def __enter__(self) -> RunWriter:
        check_run(self.path, overwrite=self._overwrite, resume=self._resume)
        progress = self.partial / _PROGRESS
        try:
            if self.partial.exists() and not self._resume:
                shutil.rmtree(self.partial)
            if not self.partial.exists():
                progress.mkdir(parents=True)
                _write_json(progress / _BEGUN, self._begun)
                return self
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error
        earlier = _read_json(progress / _BEGUN) or {}
        for key in dict.fromkeys([*earlier, *self._begun]):
            if (before := earlier.get(key)) != (now := self._begun.get(key)):
                raise OutputError(
                    f"{self.partial} was begun with another {key}: {str(before)[:80]}, now {str(now)[:80]}; resume with what "
                    "it was begun with, or pass --overwrite without --resume to start again"
                )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and not self.has_work:
            shutil.rmtree(self.partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    @property
    def has_work(self) -> bool:
        """Whether anything was trained that a run could go on with, or that a user would miss."""
        return any((self.partial / _PROGRESS).glob("*.state.pt")) or any(self.partial.glob("**/head.safetensors"))

    def write_before(self, held_out: FeatureSet, provenance: Mapping[str, Any]) -> None:
        """Write the held-out rows as they came in."""
        self._write_store(_BEFORE, held_out, held_out.features, held_out.layer, provenance)

    def write_head(self, directory: str, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> Path:
        """Write a head's tensors, with notes as JSON texts beside them."""
        (self.partial / directory).mkdir(parents=True, exist_ok=True)
        path = self.partial / directory / "head.safetensors"
        with finished(path) as file:
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            safetensors.torch.save_file(plain, file, {key: json.dumps(value) for key, value in notes.items()})
        return path

    def read_head(self, directory: str) -> dict[str, Tensor]:
        """Read the tensors of a head that was written."""
        return safetensors.torch.load_file(self.partial / directory / "head.safetensors")

    def write_log(self, directory: str, log: Sequence[Mapping[str, float]]) -> None:
        """Write a line an epoch; a value that an epoch lacks is empty."""
        (self.partial / directory).mkdir(parents=True, exist_ok=True)
        columns = list(dict.fromkeys(key for line in log for key in line))
        with (self.partial / directory / "log.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(log)

    def write_after(self, directory: str, held_out: FeatureSet, embedding: Tensor, provenance: Mapping[str, Any]) -> None:
        """Write the embedding (N, E) of the held-out rows."""
        self._write_store(f"{directory}/after.h5", held_out, embedding, "embedding", provenance)

    def note(self, directory: str, what: str, fields: Mapping[str, Any]) -> None:
        """Note what was found of a trial, for a run that goes on."""
        _write_json(self._progress(directory, f"{what}.json"), fields)

    def noted(self, directory: str, what: str) -> dict[str, Any] | None:
        """Read what was noted of a trial, or None."""
        return _read_json(self._progress(directory, f"{what}.json"))

    def save_state(self, directory: str, state: Mapping[str, Any]) -> None:
        """Keep a training that is under way."""
        with finished(self._progress(directory, "state.pt")) as file:
            torch.save(dict(state), file)

    def saved_state(self, directory: str) -> dict[str, Any] | None:
        """Read a training that was under way, or None."""
        path = self._progress(directory, "state.pt")
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def drop_state(self, directory: str) -> None:
        """Forget a training that is done."""
        self._progress(directory, "state.pt").unlink(missing_ok=True)

    def finish(self, result: Finetuning) -> None:
        """Write the manifest, last, and give the directory its name."""
        text = json.dumps(as_json(result), indent=1, allow_nan=False)
        (self.partial / _MANIFEST).write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(self.partial / _PROGRESS)
        earlier = self.path.with_name(f"{self.path.name}.earlier")
        if self.path.exists():  # out of the way first, so that at no moment half of a run bears the name
            self.path.rename(earlier)
        self.partial.rename(self.path)
        shutil.rmtree(earlier, ignore_errors=True)

    def _progress(self, directory: str, name: str) -> Path:
        return self.partial / _PROGRESS / f"{directory.replace('/', '--')}.{name}"

    def _write_store(self, name: str, rows: FeatureSet, features: Rows, layer: str, provenance: Mapping[str, Any]) -> None:
        with StoreWriter(
            self.partial / name,
            labels=rows.labels,
            class_names=rows.class_names,
            ids=list(rows.ids),
            split=np.full(len(rows.labels), "test", dtype=object).tolist(),
            provenance={"layers": {layer: {"pooling": "none"}}, **provenance},
            overwrite=True,
        ) as store:
            for block in row_slices(*_sizes(features)):
                store.add({layer: features[block].float().cpu().numpy()})


def _sizes(features: Rows) -> tuple[int, int]:
    """Number of rows, and bytes of a row in float32."""
    rows, width = features.shape
    return rows, 4 * width


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    with finished(path) as file:
        file.write_text(json.dumps(fields), encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def directory_names(expressions: Sequence[str]) -> list[str]:
    """Turn objectives into folder names that are distinct and need no quoting: `ce + 0.5*silhouette` -> `ce_0.5-silhouette`."""
    names: list[str] = []
    for expression in expressions:
        plain = re.sub(r"[^A-Za-z0-9._=+@-]+", "", re.sub(r"\*", "-", expression)).replace("+", "_")[:100] or "objective"
        names.append(plain if plain not in names else f"{plain}-{len(names) + 1}")
    return names


def is_run(source: str) -> bool:
    """Tell whether a path is a run directory."""
    try:
        return bool(json.loads((Path(source) / _MANIFEST).read_text(encoding="utf-8"))["schema"] == SCHEMA)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def open_run(source: str) -> list[FeatureSet]:
    """Open the held-out rows of a run: before, and after the first trial of every objective; named by the objective."""
    path = Path(source)
    manifest = read_manifest(path)
    try:
        files = {"before": _BEFORE} | {
            f"after {objective['expression']}": f"{objective['trials'][0]['directory']}/after.h5"
            for objective in manifest["objectives"]
        }
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"{path / _MANIFEST} is damaged: {type(error).__name__} {error}") from error
    return [replace(read_features(str(path / file)), name=name) for name, file in files.items()]


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the run.json of a run directory; InputError if there is none that can be read."""
    try:
        manifest: dict[str, Any] = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path / _MANIFEST}: {error}") from error
    return manifest


def read_log(path: Path, trial: str) -> dict[str, list[float | None]]:
    """Read the log.csv of a trial, given its directory in the run: column -> a value an epoch, None where a cell is empty."""
    file = path / trial / "log.csv"
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            lines = list(csv.DictReader(stream))
        return {column: [float(line[column]) if line[column] else None for line in lines] for column in lines[0]}
    except (OSError, ValueError, IndexError, TypeError, KeyError) as error:
        raise InputError(f"{file} is damaged: {type(error).__name__} {error}") from error
