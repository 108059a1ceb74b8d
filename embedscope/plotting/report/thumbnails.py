"""Thumbnails of the samples, if the images that the features were extracted from are still available.

The location is given by whoever makes the page, or else by the features, which may come from a stranger. Unless it is given,
only local files are opened, below one folder and after counting them, and only data with the recorded fingerprint are shown.
"""

from __future__ import annotations

import base64
import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope import plugins
from embedscope.data import open_dataset
from embedscope.data.folder import ImageFiles, read_image
from embedscope.errors import EmbedscopeError, InputError
from embedscope.models.images import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from embedscope.data.dataset import Dataset
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

# What thumbnails may add to a page: how many, how many bytes in all, and pixels along the longer side of each.
MOST = 2000
MOST_BYTES = 4 * 2**20
SIDE = 48

# What is looked at to make them: entries of a recorded folder, bytes of a recorded file, and bytes of one image.
MOST_ENTRIES = 200_000
MOST_FILE_BYTES = 2**30
MOST_IMAGE_BYTES = 64 * 2**20

# Sources that read local files and nothing else: those that features may name.
_LOCAL = ("arrays", "folder", "idx", "table")
_OF_THE_SYSTEM = tuple(map(Path, ("/dev", "/proc", "/sys")))


def make_thumbnails(
    features: FeatureSet,
    drawn: Array,
    silhouettes: Sequence[Array | None],
    images: str | None = None,
    flagged: Sequence[int] = (),
) -> tuple[dict[int, str] | None, str]:
    """Make pictures of drawn samples: place among the drawn -> WebP in base64; and a sentence on which have one.

    The `flagged` places come first, then the lowest silhouettes, then others evenly, to MOST and MOST_BYTES. `images` is the
    data that the reader named, see `image_source`. None if there are no images; the sentence says why.
    """
    try:
        location, image_of = image_source(features, images)
    except EmbedscopeError as error:
        return None, f"no images: {error}"
    pictures: dict[int, str] = {}
    size = 0
    for place in _by_need(len(drawn), silhouettes, flagged)[: 2 * MOST]:
        try:
            item = image_of(str(features.ids[drawn[place]]))
        except EmbedscopeError:  # it could be read when it was extracted from; the page does without it
            item = None
        if item is not None:
            if not hasattr(item, "thumbnail"):
                return None, f"no images: {location} contains no pictures"
            pictures[place] = _encoded(item)
            size += len(pictures[place])
        if len(pictures) >= MOST or size >= MOST_BYTES:
            break
    if not pictures:
        return None, f"no images: {location} has none of these ids"
    return pictures, f"images of {len(pictures):,} of {len(drawn):,} samples, from {location}"


def image_source(features: FeatureSet, images: str | None = None) -> tuple[str, Callable[[str], Any]]:
    """Find the images that features were made from: where they are, and a function from an id to its image, None without one.

    `images` is data that the reader named: a folder, in which ids are paths, or any other data. Without it, they are looked for
    where they were when the features were extracted. InputError, with the reason, if the data is not on this machine, is not
    what was extracted from (its fingerprint differs), or is more than may be searched without being named.
    """
    return _recorded(features) if images is None else (images, _named(images))


def _named(images: str) -> Callable[[str], Any]:
    """Look in data that the reader named; InputError if there is no such data."""
    root = Path(images)
    if root.is_dir() and plugins.recognizing("data", root) == "folder":
        root = root.resolve()
        return lambda name: _read(root / name, root)
    return _images_of(open_dataset(images))


def _recorded(features: FeatureSet) -> tuple[str, Callable[[str], Any]]:
    """Look where features say that they are from; InputError, in words for the page, unless it is that and may be searched."""
    recorded = features.provenance.data
    location = recorded.spec if recorded else None  # None in a run on arrays made elsewhere
    if recorded is None or not location:
        raise InputError("the features do not record their data set")
    try:
        path, source = _local(location)
        _check_bounded(path)
    except (UnicodeError, ValueError, OSError) as error:
        raise InputError(f"{location} cannot be searched ({error})") from error
    if source not in _LOCAL:
        raise InputError(f"{location} is opened only if it is given as the location of the images")
    dataset = open_dataset(location)
    if dataset.fingerprint != recorded.fingerprint:
        raise InputError(f"{location} has changed since the features were extracted from it")
    return location, _images_of(dataset)


def _local(location: str) -> tuple[Path, str]:
    """Return the path that a location names on this machine, and its source; InputError for anything else."""
    name = location if Path(location).exists() else plugins.parse(location).name
    source, separator, inner = name.partition(":")
    known = bool(separator) and plugins.canonical(source) in plugins.names("data")
    path = Path(inner if known else name)
    if not path.exists():
        raise InputError(f"{location} is not on this machine")
    return path, plugins.canonical(source) if known else plugins.recognizing("data", path) or ""


def _check_bounded(path: Path) -> None:
    """Raise InputError for what nobody named and is not to be searched.

    That is a place of the system, anything but files and folders, links to other folders, too many or too large files.
    """
    path = path.resolve()
    if path == Path(path.anchor) or any(path.is_relative_to(place) for place in _OF_THE_SYSTEM):
        raise InputError(f"{path} is a system directory")
    if not path.is_dir() and (not path.is_file() or path.stat().st_size > MOST_FILE_BYTES):
        raise InputError(f"{path} is not a file of at most {MOST_FILE_BYTES / 2**30:.0f} GiB")
    folders = [path] if path.is_dir() else []
    entries = 0
    while folders:
        with os.scandir(folders.pop()) as found:
            for entry in found:
                entries += 1
                if entries > MOST_ENTRIES:
                    raise InputError(f"{path} contains more than {MOST_ENTRIES:,} files and folders")
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif entry.is_dir():
                    raise InputError(f"{path} contains a link to another folder, {entry.name}")
                elif not entry.is_file() or entry.stat().st_size > MOST_FILE_BYTES:
                    raise InputError(
                        f"{path} contains {entry.name}, which is not a file of at most {MOST_FILE_BYTES / 2**30:.0f} GiB"
                    )


def _images_of(dataset: Dataset) -> Callable[[str], Any]:
    """Make a function from an id to its item, None for an id that the data do not have."""
    position = {name: place for place, name in enumerate(dataset.ids)}
    inputs = dataset.inputs

    def image_of(name: str) -> Any:
        row = position.get(name)
        if row is None:
            return None
        return _read(inputs.paths[row]) if isinstance(inputs, ImageFiles) else inputs[row]

    return image_of


def _read(path: Path, root: Path | None = None) -> Image | None:
    """Decode an image file; None for anything that is not a file below the root, or larger than images are."""
    try:
        path = path.resolve()
        if (root is not None and not path.is_relative_to(root)) or not path.is_file() or path.stat().st_size > MOST_IMAGE_BYTES:
            return None
    except (OSError, ValueError):  # a name that no file can have
        return None
    return read_image(path, str(path))


def _by_need(count: int, silhouettes: Sequence[Array | None], flagged: Sequence[int] = ()) -> list[int]:
    """Order places: the flagged, the lower half of MOST by their lowest silhouette, then the others in random order."""
    known = [values for values in silhouettes if values is not None]
    order = np.random.default_rng(0).permutation(count)
    worst = np.argsort(np.min(known, axis=0), kind="stable")[: MOST // 2] if known else order
    return list(dict.fromkeys(int(place) for place in (*flagged, *worst, *order)))


def _encoded(image: Image) -> str:
    image = visible(image)
    image.thumbnail((SIDE, SIDE))
    buffer = BytesIO()
    # WebP without loss is smaller for drawings and tiny images, with loss for photographs.
    image.save(buffer, "WEBP", lossless=max(image.size) <= 16, quality=60, method=4)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
