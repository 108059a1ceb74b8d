"""How features were made, as a store records it: the only place that writes or reads the JSON of /provenance.

The layout is that of format version 1. A key that is not known here, of a newer version or another program, is kept and written
again; a known one of another type than it should have is an InputError that names it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from embedscope.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

R = TypeVar("R", bound="_Record")

_KINDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


def _as(*kinds: type) -> Callable[[str, Any], Any]:
    def read(where: str, value: Any) -> Any:
        if value is None or (isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))):
            return value
        raise InputError(f"{where} must be {_KINDS[kinds[0]]}, got {_kind(value)}")

    return read


def _each(kind: type) -> Callable[[str, Any], Any]:
    """Read a list of one kind as a tuple."""

    def read(where: str, value: Any) -> Any:
        found = _as(list)(where, value) or ()
        return tuple(_required(kind, f"an entry of {where}", each) for each in found)

    return read


def _texts(where: str, value: Any) -> dict[str, str]:
    """Read an object whose values are texts."""
    return {key: _required(str, f"{where} ({key})", each) for key, each in (_as(dict)(where, value) or {}).items()}


def _required(kind: type, where: str, value: Any) -> Any:
    if value is None:
        raise InputError(f"{where} must be {_KINDS[kind]}, got null")
    return _as(kind)(where, value)


def _kind(value: Any) -> str:
    return next((name for kind, name in _KINDS.items() if type(value) is kind), "null")


_text, _number = _as(str), _as(int)


@dataclass(frozen=True)
class _Record:
    """Part of a provenance. `extra` has the keys that this version does not know, `absent` the known ones that a file lacks."""

    extra: Mapping[str, Any] = field(default_factory=dict, kw_only=True, hash=False)
    absent: frozenset[str] = field(default=frozenset(), kw_only=True, compare=False, repr=False)

    @classmethod
    def read(cls: type[R], where: str, value: Any) -> R:
        """Read from parsed JSON; InputError, beginning with `where`, for a value of another type."""
        given = _required(dict, where, value)
        known = {each.name: each.metadata["read"] for each in cls._known()}
        found = {name: read(f"{where} {name}", given[name]) for name, read in known.items() if name in given}
        return cls(
            **found,
            extra={key: each for key, each in given.items() if key not in known},
            absent=frozenset(set(known) - set(given)),
        )

    def as_json(self) -> dict[str, Any]:
        """Lay out for JSON, key by key as it was read."""
        found = {each.name: _plain(getattr(self, each.name)) for each in self._known() if each.name not in self.absent}
        return found | dict(self.extra)

    @classmethod
    def _known(cls) -> Iterator[Any]:
        return (each for each in fields(cls) if each.name not in ("extra", "absent"))


def _plain(value: Any) -> Any:
    if isinstance(value, _Record):
        return value.as_json()
    if isinstance(value, tuple):
        return list(value)
    return {key: _plain(each) for key, each in value.items()} if hasattr(value, "items") else value


def _nested(record: type[R]) -> Callable[[str, Any], R | None]:
    return lambda where, value: None if value is None else record.read(where, value)


@dataclass(frozen=True)
class HeadOrigin(_Record):
    """A head that finetune trained and extract put on the layer: its file, that file's sha256 (hex), and its objective."""

    file: str | None = field(default=None, metadata={"read": _text})
    sha256: str | None = field(default=None, metadata={"read": _text})
    objective: str | None = field(default=None, metadata={"read": _text})


@dataclass(frozen=True)
class ModelOrigin(_Record):
    """Which model gave the features.

    Attributes:
        spec: as it was typed.
        code_sha256: of the Python file that the model is from (hex), or None.
        checkpoint: the file of weights, or None.
        sha256: of that file (hex), or None.
        weights_sha256: of parameters and buffers (hex) if no file stands for them, or None.
        origin: which part of the checkpoint was taken.
        matched: names of the tensors that were filled.
        missing: names of those that were not.
        head: on top of the layer, or None.
        sources: Python files outside of installed packages that were imported -> sha256 (hex).
        libraries: package that the model is made of -> version.
    """

    spec: str | None = field(default=None, metadata={"read": _text})
    code_sha256: str | None = field(default=None, metadata={"read": _text})
    checkpoint: str | None = field(default=None, metadata={"read": _text})
    sha256: str | None = field(default=None, metadata={"read": _text})
    weights_sha256: str | None = field(default=None, metadata={"read": _text})
    origin: str | None = field(default=None, metadata={"read": _text})
    matched: tuple[str, ...] = field(default=(), metadata={"read": _each(str)})
    missing: tuple[str, ...] = field(default=(), metadata={"read": _each(str)})
    head: HeadOrigin | None = field(default=None, metadata={"read": _nested(HeadOrigin)})
    sources: Mapping[str, str] = field(default_factory=dict, hash=False, metadata={"read": _texts})
    libraries: Mapping[str, str] = field(default_factory=dict, hash=False, metadata={"read": _texts})

    @property
    def weights(self) -> str | None:
        """What stands for the weights: the sha256 of their file, else of the tensors."""
        return self.sha256 or self.weights_sha256


@dataclass(frozen=True)
class DataOrigin(_Record):
    """Which data went in: location, fingerprint, sha256 (hex) of labels, ids and splits, and at most how many rows."""

    spec: str | None = field(default=None, metadata={"read": _text})
    fingerprint: str | None = field(default=None, metadata={"read": _text})
    labels: str | None = field(default=None, metadata={"read": _text})
    limit: int | None = field(default=None, metadata={"read": _number})


@dataclass(frozen=True)
class LayerOrigin(_Record):
    """How a layer became rows: type of its module, pooling, and the shape of a sample's activations before pooling."""

    type: str | None = field(default=None, metadata={"read": _text})
    pooling: str | None = field(default=None, metadata={"read": _text})
    shape: tuple[int, ...] = field(default=(), metadata={"read": _each(int)})


@dataclass(frozen=True)
class RunOrigin(_Record):
    """The run that wrote the features."""

    device: str | None = field(default=None, metadata={"read": _text})
    dtype: str | None = field(default=None, metadata={"read": _text})
    autocast: str | None = field(default=None, metadata={"read": _text})
    batch_size: int | None = field(default=None, metadata={"read": _number})
    torch: str | None = field(default=None, metadata={"read": _text})
    seed: int | None = field(default=None, metadata={"read": _number})
    logits: bool | None = field(default=None, metadata={"read": _as(bool)})
    command: str | None = field(default=None, metadata={"read": _text})
    embedscope: str | None = field(default=None, metadata={"read": _text})
    created: str | None = field(default=None, metadata={"read": _text})


@dataclass(frozen=True)
class FinetuneOrigin(_Record):
    """The head whose embedding the rows are.

    Attributes:
        head: its spec, or "network(all)" for a network that was trained.
        layer: whose features it takes, or None if they are of no model.
        pooling: of that layer, or None likewise.
        weights: sha256 (hex) of the model's weights, or None.
        behind: file of another head that the features come out of, or None.
        dim: D of the features.
        classes: names of the classes that it was trained on.
        objective: that it was trained with.
        seed: of the trial.
    """

    head: str | None = field(default=None, metadata={"read": _text})
    layer: str | None = field(default=None, metadata={"read": _text})
    pooling: str | None = field(default=None, metadata={"read": _text})
    weights: str | None = field(default=None, metadata={"read": _text})
    behind: str | None = field(default=None, metadata={"read": _text})
    dim: int | None = field(default=None, metadata={"read": _number})
    classes: tuple[str, ...] = field(default=(), metadata={"read": _each(str)})
    objective: str | None = field(default=None, metadata={"read": _text})
    seed: int | None = field(default=None, metadata={"read": _number})


def _layers(where: str, value: Any) -> dict[str, LayerOrigin]:
    found = _as(dict)(where, value) or {}
    return {name: LayerOrigin.read(f"{where} ({name})", each) for name, each in found.items()}


@dataclass(frozen=True)
class Provenance(_Record):
    """How features were made; a part that is not known is None, or empty.

    >>> found = Provenance.parse('{"run": {"command": "embedscope extract"}, "site": "lab 3"}', "a.h5")
    >>> found.run.command, found.extra
    ('embedscope extract', {'site': 'lab 3'})
    """

    model: ModelOrigin | None = field(default=None, metadata={"read": _nested(ModelOrigin)})
    data: DataOrigin | None = field(default=None, metadata={"read": _nested(DataOrigin)})
    layers: Mapping[str, LayerOrigin] = field(default_factory=dict, hash=False, metadata={"read": _layers})
    transform: str | None = field(default=None, metadata={"read": _text})
    run: RunOrigin | None = field(default=None, metadata={"read": _nested(RunOrigin)})
    finetune: FinetuneOrigin | None = field(default=None, metadata={"read": _nested(FinetuneOrigin)})

    @classmethod
    def parse(cls, text: str, path: str) -> Provenance:
        """Read the JSON text of a store; InputError, naming `path`, for anything else."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is damaged: /provenance is not JSON: {error}") from error
        return cls.read(f"{path}: provenance", value)

    def text(self) -> str:
        """The JSON text for a store."""
        return json.dumps(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Lay out for JSON, key by key as it was read; only the rows behind a head have a part on that."""
        laid_out = super().as_json()
        if self.finetune is None:
            laid_out.pop("finetune", None)
        return laid_out

    @property
    def command(self) -> str:
        """What was typed, or ""."""
        return (self.run and self.run.command) or ""

    def pooling(self, layer: str) -> str | None:
        """How a layer was pooled, or None if that is not known."""
        return self.layers[layer].pooling if layer in self.layers else None

    def differences(self, now: Provenance) -> Iterator[tuple[str, Any, Any]]:
        """Yield (what, here, there) for whatever decides the numbers of a store and is not the same in another record.

        Of files and libraries, those that both imported are compared: one that only one of them imported does not say that the
        numbers differ.
        """
        here: dict[str, Any] = self.as_json()
        there: dict[str, Any] = now.as_json()
        for part in ("model", "data", "layers", "transform", "run"):
            before, after = here.get(part), there.get(part)
            if not isinstance(before, dict) or not isinstance(after, dict):
                if before != after:
                    yield part, before, after
                continue
            for key in dict.fromkeys([*before, *after]):
                one: Any = before.get(key)
                other: Any = after.get(key)
                if part == "model" and key in ("sources", "libraries"):
                    what = "source file" if key == "sources" else "version of"
                    for name in (one or {}).keys() & (other or {}).keys():
                        if one[name] != other[name]:
                            yield f"{what} {name}", one[name][:12], other[name][:12]
                elif one != other and (part != "run" or key in _DECISIVE):
                    yield f"{part} ({key})", one, other


_DECISIVE = ("device", "dtype", "autocast", "torch", "seed", "logits")
