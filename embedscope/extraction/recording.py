"""What a store records of the run that made it, and what of that decides the numbers."""

from __future__ import annotations

import datetime
import hashlib
import os
import sys
import sysconfig
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from embedscope import _version
from embedscope._version import __version__
from embedscope.extraction.running import LOGITS
from embedscope.models._reading import sha256_of
from embedscope.models.encoder import model_origin
from embedscope.store.provenance import DataOrigin, HeadOrigin, LayerOrigin, Provenance, RunOrigin

if TYPE_CHECKING:
    import numpy as np

    from embedscope.data.dataset import Dataset
    from embedscope.extraction.running import Runner
    from embedscope.models.encoder import Encoder
    from embedscope.models.head import TrainedHead


def recorded(
    encoder: Encoder,
    dataset: Dataset,
    runner: Runner,
    dtype: np.dtype[Any],
    size: int | None,
    limit: int | None,
    seed: int,
    command: str,
    head: TrainedHead | None,
) -> Provenance:
    """Record a run whose layers are planned: the model has run once, and what it imports is imported."""
    modules = dict(encoder.module.named_modules())
    return Provenance(
        model=replace(
            model_origin(encoder),
            head=None if head is None else HeadOrigin(str(head.path), head.sha256, head.objective),
            sources=_imported_sources(encoder),
            libraries=_library_versions(encoder),
        ),
        data=DataOrigin(dataset.location, dataset.fingerprint, _labels_digest(dataset), limit),
        layers={
            layer.name: LayerOrigin(
                type(modules[layer.module]).__name__,
                runner.poolings[layer.name].name,
                tuple(runner.poolings[layer.name].shape),
            )
            for layer in runner.layers
        },
        transform=encoder.prepare.text,
        run=RunOrigin(
            device=str(runner.device),
            dtype=str(dtype),
            autocast=None if runner.autocast is None else str(runner.autocast).removeprefix("torch."),
            batch_size=size,
            torch=torch.__version__,
            seed=seed,
            logits=LOGITS in runner.poolings,
            command=command,
            embedscope=__version__,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        ),
    )


def _labels_digest(dataset: Dataset) -> str:
    """Hash what a store holds of the data beside features: labels, class names, ids and split; sha256 (hex)."""
    digest = hashlib.sha256(dataset.labels.tobytes())
    for values in (dataset.class_names, dataset.ids, dataset.split or ()):
        for value in values:
            digest.update(value.encode("utf-8", "backslashreplace") + b"\0")
        digest.update(b"\0\0")
    return digest.hexdigest()


def _imported_sources(encoder: Encoder) -> dict[str, str]:
    """Hash the files that this process imported and that no version stands for: path -> sha256 (hex).

    Left out are Python's own, installed packages, and embedscope. The script that was started counts only if the model is
    defined in it: it may be edited to resume.
    """
    folders = {*sysconfig.get_paths().values(), os.path.dirname(_version.__file__)}
    folders |= {path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")}
    installed = tuple(f"{folder}{os.sep}" for path in folders for folder in {path, os.path.realpath(path)})
    own_script = any(type(module).__module__ == "__main__" for module in encoder.module.modules())
    found = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not file.startswith(installed) and (name != "__main__" or own_script):
            path = os.path.realpath(file)
            if not path.startswith(installed) and os.path.isfile(path):
                found.add(path)
    return {path: sha256_of(path) for path in sorted(found)}


def _library_versions(encoder: Encoder) -> dict[str, str]:
    """Find the packages whose code the model is made of, and runs on: name -> version."""
    parts = [*(type(module) for module in encoder.module.modules()), type(encoder.prepare)]
    names = {part.__module__.partition(".")[0] for part in parts} | {"torch"}
    names |= {"onnxruntime"} & set(sys.modules) if encoder.outputs_only else set()
    versions = {name: getattr(sys.modules.get(name), "__version__", None) for name in sorted(names - {"embedscope"})}
    return {name: str(version) for name, version in versions.items() if version is not None}
