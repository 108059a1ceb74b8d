"""The run directory of finetune, schema embedscope.finetune/1.

    run.json                              options, data, and for each objective its trials and summary
    before.h5                             the held-out rows as they came in, a feature store
    <objective>/trial-<n>/after.h5        the same rows in the embedding of the trained head
    <objective>/trial-<n>/head.safetensors
    <objective>/trial-<n>/log.csv         one line an epoch

Written to a temporary folder beside its place and renamed when complete.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch

from embedscope import __version__
from embedscope.errors import InputError, OutputError
from embedscope.store.reader import read_features
from embedscope.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from torch import Tensor

    from embedscope.records import FeatureSet, Finetuning

SCHEMA = "embedscope.finetune/1"
_MANIFEST = "run.json"
_BEFORE = "before.h5"


def as_json(result: Finetuning) -> dict[str, Any]:
    """Lay a run out as run.json has it."""
    fields = asdict(result)
    del fields["path"]
    return {"schema": SCHEMA, "embedscope": __version__, **fields}


def check_run(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError unless a run may be written there: nothing is, or an earlier run that may be replaced."""
    try:
        if path.resolve() == Path.cwd():
            raise OutputError(f"output {path} is the current folder; give a run a folder of its own")
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if not is_run(str(path)):
            raise OutputError(f"output {path} exists and is no run of finetune; choose another name")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    if not overwrite:
        raise OutputError(f"output {path} exists; choose another name or pass --overwrite")


class RunWriter:
    """A run directory in the making; use as a context manager, and `finish` it.

    Leaving the context unfinished removes what was written. OutputError for whatever the file system refuses.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        check_run(path, overwrite=overwrite)
        self.path = path.resolve()

    def __enter__(self) -> RunWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.partial = Path(tempfile.mkdtemp(prefix=f"{self.path.name[:100]}.", suffix=".partial", dir=self.path.parent))
            self.partial.chmod(0o755)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def write_before(self, held_out: FeatureSet, provenance: Mapping[str, Any]) -> None:
        """Write the held-out rows as they came in."""
        self._write_store(_BEFORE, held_out, held_out.features[:].float(), held_out.layer, provenance)

    def write_trial(
        self,
        directory: str,
        *,
        held_out: FeatureSet,
        embedding: Tensor,
        head: Mapping[str, Tensor],
        log: Sequence[Mapping[str, float]],
        provenance: Mapping[str, Any],
    ) -> None:
        """Write what one training gave: the embedding (N, E) of the held-out rows, the head's tensors and the log."""
        (self.partial / directory).mkdir(parents=True)
        self._write_store(f"{directory}/after.h5", held_out, embedding, "embedding", provenance)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.items()}
        metadata = {key: json.dumps(value) for key, value in provenance["finetune"].items()}
        safetensors.torch.save_file(tensors, self.partial / directory / "head.safetensors", metadata)
        columns = list(dict.fromkeys(key for line in log for key in line))
        with (self.partial / directory / "log.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(log)

    def finish(self, result: Finetuning) -> None:
        """Write the manifest, last, and give the directory its name."""
        text = json.dumps(as_json(result), indent=1, allow_nan=False)
        (self.partial / _MANIFEST).write_text(text + "\n", encoding="utf-8")
        earlier = self.partial.with_suffix(".earlier")
        if self.path.exists():  # out of the way first, so that at no moment half of a run bears the name
            self.path.rename(earlier)
        self.partial.rename(self.path)
        shutil.rmtree(earlier, ignore_errors=True)

    def _write_store(self, name: str, rows: FeatureSet, features: Tensor, layer: str, provenance: Mapping[str, Any]) -> None:
        with StoreWriter(
            self.partial / name,
            labels=rows.labels,
            class_names=rows.class_names,
            ids=list(rows.ids),
            split=np.full(len(rows.labels), "test", dtype=object).tolist(),
            provenance={"layers": {layer: {"pooling": "none"}}, **provenance},
        ) as store:
            store.add({layer: features.numpy()})


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
