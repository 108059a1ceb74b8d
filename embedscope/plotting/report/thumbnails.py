"""Small pictures of the samples, where the images that the features were made from are still at hand."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope import plugins
from embedscope.data import open_dataset
from embedscope.errors import EmbedscopeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

# What thumbnails may add to a page: how many, how many bytes in all, and pixels along the longer side of each.
MOST = 2000
MOST_BYTES = 4 * 2**20
SIDE = 48


def make_thumbnails(
    features: FeatureSet, drawn: Array, silhouettes: Sequence[Array | None]
) -> tuple[dict[int, str] | None, str]:
    """Make pictures of drawn samples: place among the drawn -> WebP in base64; and a sentence on which have one.

    The least well placed samples come first, then others evenly, to MOST and MOST_BYTES. None where the data is not on this
    machine, is not what was extracted from (its fingerprint differs), or holds no images; the sentence says which.
    """
    recorded = features.provenance.data
    location = recorded and recorded.spec
    if recorded is None or not location:
        return None, "no images: the features do not say which data they are from"
    if not _local(location):
        return None, f"no images: {location} is not on this machine"
    try:
        dataset = open_dataset(location)
    except EmbedscopeError as error:
        return None, f"no images: {error}"
    if dataset.fingerprint != recorded.fingerprint:
        return None, f"no images: {location} has changed since the features were extracted from it"
    position = {name: place for place, name in enumerate(dataset.ids)}
    pictures: dict[int, str] = {}
    size = 0
    for place in _by_need(len(drawn), silhouettes):
        row = position.get(str(features.ids[drawn[place]]))
        if row is None:
            continue
        try:
            item = dataset.inputs[row]
        except EmbedscopeError:  # it could be read when it was extracted from; the page does without it
            continue
        if not hasattr(item, "thumbnail"):
            return None, f"no images: {location} holds no pictures"
        pictures[place] = _encoded(item)
        size += len(pictures[place])
        if len(pictures) >= MOST or size >= MOST_BYTES:
            break
    if not pictures:
        return None, f"no images: {location} has none of these ids"
    return pictures, f"images of {len(pictures):,} of {len(drawn):,} samples, from {location}"


def _local(location: str) -> bool:
    """Whether the data is a path on this machine; anything else could be fetched from a network."""
    try:
        name = plugins.parse(location).name
        source, separator, inner = name.partition(":")
        known = separator and plugins.canonical(source) in plugins.names("data")
        return Path(location).exists() or Path(inner if known else name).exists()
    except (EmbedscopeError, OSError):
        return False


def _by_need(count: int, silhouettes: Sequence[Array | None]) -> list[int]:
    """Order places: the lower half of MOST by their lowest silhouette, then the others in random order."""
    known = [values for values in silhouettes if values is not None]
    order = np.random.default_rng(0).permutation(count)
    if not known:
        return [int(place) for place in order]
    worst = np.argsort(np.min(known, axis=0), kind="stable")[: MOST // 2]
    return [int(place) for place in (*worst, *order[~np.isin(order, worst)])]


def _encoded(image: Image) -> str:
    if image.mode not in ("RGB", "RGBA", "L"):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    image.thumbnail((SIDE, SIDE))
    buffer = BytesIO()
    # WebP without loss is smaller for drawings and tiny images, with loss for photographs.
    image.save(buffer, "WEBP", lossless=max(image.size) <= 16, quality=60, method=4)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
