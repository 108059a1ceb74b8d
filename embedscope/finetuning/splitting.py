"""Which rows are trained on, which are chosen by, and which neither ever sees."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import InputError, unknown
from embedscope.ops.blocks import row_slices
from embedscope.store import select, select_labeled
from embedscope.store.limits import check_not_empty
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedscope.store.features import FeatureSet

    Mask = np.ndarray[Any, np.dtype[np.bool_]]

_TEST = ("test", "testing")
_VALIDATION = ("val", "valid", "validation", "dev")


@dataclass(frozen=True, eq=False)
class Parts:
    """Labeled rows by what they are for.

    Attributes:
        train: to learn from.
        validation: to choose the epoch, and of a sweep the objective, by; None where none were asked for.
        test: to report; its class names are those of `train`.
        held_out: where the test rows are from, in words.
        validated_on: where the validation rows are from.
    """

    train: FeatureSet
    validation: FeatureSet | None
    test: FeatureSet
    held_out: str
    validated_on: str


def part(
    features: FeatureSet,
    *,
    test_share: float,
    val_share: float,
    seed: int,
    other: FeatureSet | None = None,
) -> Parts:
    """Part labeled rows.

    Test rows are those of `other`, whose class names are those of the features (see `with_classes_of`), or of the split
    "test", or a share of every class. Validation rows are those of the split "val", or a share of every class of the rest;
    none with a share of 0. The shares are those of `TrainingConfig`, which checks them. A class with one row stays in
    training. Rows of the split "test" are never trained on, whatever is tested on.

    Raises:
        InputError: fewer than two classes to train on or to test, or a class of those held out that is not trained on.
    """
    rest = ~_in_split(features, _TEST)
    named = _in_split(features, _VALIDATION) & bool(val_share)
    if other is not None:
        test, held_out = other, f"{other.source}, all of its rows"
    elif not rest.all():
        test, held_out = select(features, ~rest), "the split 'test' of the features"
    else:
        rest = ~_drawn(features.labels, ~named, test_share, seed)
        test, held_out = select(features, ~rest), f"{test_share:.0%} of each class, drawn with seed {seed}"
    chosen, validated_on = named, "the split 'val' of the features"
    if not named.any() and val_share:
        chosen = _drawn(features.labels, rest, val_share, seed + 1)
        validated_on = f"{val_share:.0%} of each class of the rest, drawn with seed {seed + 1}"
    if not chosen.any():
        validated_on = "nothing: the last epoch is kept"
    train = select(features, rest & ~chosen)
    validation = select(features, chosen) if chosen.any() else None
    for name, rows in (("to train on", train), ("held out", test)):
        if (count := len(np.unique(rows.labels))) < 2:
            whole = "; all rows are of its split 'test'" if not len(train.labels) and other is None else ""
            raise InputError(
                f"{rows.source}: the rows {name} have {counted(count, 'class')}; a comparison needs at least 2{whole}"
            )
    for name, part_of in (("held out", test), ("validated on", validation)):
        labels = [] if part_of is None else part_of.labels.tolist()
        if unseen := sorted(set(labels) - set(train.labels.tolist())):
            names = ", ".join(features.class_names[label] for label in unseen[:5])
            classes = counted(len(unseen), "class is", "classes are")
            raise InputError(f"{features.source}: {classes} {name} and never trained on: {names}")
    return Parts(train, validation, test, held_out, validated_on)


def draws_test_rows(features: FeatureSet) -> bool:
    """Whether test rows are drawn by chance: the features have no split "test"."""
    return not _in_split(features, _TEST).any()


def with_classes_of(other: FeatureSet, features: FeatureSet, mapping: Mapping[str, str] | None = None) -> FeatureSet:
    """Give the rows of `other` the classes of `features`, by name or by a mapping of names; unlabeled rows are left out.

    A class that is mapped to "" is left out. InputError for other widths, and for classes that the features do not have.
    """
    other, _ = select_labeled(other)
    width, wanted = other.features.shape[1], features.features.shape[1]
    if width != wanted:
        raise InputError(f"{other.source} has {counted(width, 'dimension')}, the features to train on have {wanted}")
    mapping = mapping or {}
    for name in mapping:
        if name not in other.class_names:
            raise InputError(f"the label map: {unknown('class', name, other.class_names, place=other.source)}")
    for name in mapping.values():
        if name and name not in features.class_names:
            raise InputError(f"the label map: {unknown('class', name, features.class_names, place=features.source)}")
    present = {other.class_names[label] for label in np.unique(other.labels).tolist()}
    targets = {name: mapping.get(name, name) for name in sorted(present)}
    if strange := [name for name, target in targets.items() if target and target not in features.class_names]:
        raise InputError(
            f"{other.source}: {counted(len(strange), 'class')} not in the features to train on: {', '.join(strange[:5])}; "
            "map them with `label_map=`, or drop them with an empty name in it"
        )
    keep = np.array([bool(targets[other.class_names[label]]) for label in other.labels])
    if not keep.any():
        raise InputError(f"{other.source}: the label map drops every class")
    kept = select(other, keep)
    codes = {name: code for code, name in enumerate(features.class_names)}
    labels = np.array([codes[targets[other.class_names[label]]] for label in kept.labels], dtype=np.int64)
    return replace(kept, labels=labels, class_names=features.class_names)


def fingerprint(parts: Parts, made_by: str = "") -> str:
    """Hash what a run depends on of the rows: features, labels and ids, of each part; sha256 (hex).

    Features that another digest stands for, as they are made anew each time, are left out.
    """
    digest = hashlib.sha256(made_by.encode())
    for each in (parts.train, parts.validation, parts.test):
        if each is not None:
            rows, width = each.features.shape
            digest.update(f"{rows} {width}\0".encode())
            digest.update(each.labels.tobytes())
            digest.update("\0".join(map(str, each.ids)).encode("utf-8", "backslashreplace"))
            for block in () if made_by else row_slices(rows, width * 4):
                digest.update(each.features[block].float().contiguous().numpy().data)
    return digest.hexdigest()


def read_label_map(path: Path | str) -> dict[str, str]:
    """Read lines of `class of the test file,class of the features`; an empty second name leaves a class out.

    A first line `test,train` is a heading. InputError for other than two columns, or a class that is named twice.
    """
    path = Path(path)
    check_not_empty(path)
    mapping: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(file), 1):
                cells = [cell.strip() for cell in row]
                if not any(cells) or (number == 1 and [cell.lower() for cell in cells] == ["test", "train"]):
                    continue
                if len(cells) != 2:
                    raise InputError(
                        f"{path}, line {number}: {counted(len(cells), 'column')}; expected two, a class of the test file "
                        "and a class of the features, as in automobile,car"
                    )
                if cells[0] in mapping:
                    raise InputError(f"{path}, line {number}: the class {cells[0]} is listed twice")
                mapping[cells[0]] = cells[1]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not mapping:
        raise InputError(f"{path} maps no class; expected lines such as automobile,car")
    return mapping


def _in_split(features: FeatureSet, names: tuple[str, ...]) -> Mask:
    if features.split is None:
        return np.zeros(len(features.labels), dtype=bool)
    return np.isin(np.char.lower(features.split.astype(str)), names)


def _drawn(labels: np.ndarray[Any, Any], among: Mask, share: float, seed: int) -> Mask:
    """Draw a share of each class among some rows: at least one of two or more, and never all."""
    mask = np.zeros(len(labels), dtype=bool)
    generator = np.random.default_rng(seed)
    for label in np.unique(labels[among]):
        members = generator.permutation(np.flatnonzero((labels == label) & among))
        mask[members[: min(max(1, round(share * len(members))), len(members) - 1)]] = True
    return mask
