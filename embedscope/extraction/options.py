"""What `extract` refuses before a model is opened, which may take minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedscope.arguments import check_choice, check_optional_whole, displayed
from embedscope.data.dataset import Dataset
from embedscope.errors import UsageError
from embedscope.models.pooling import POOLINGS

BATCH_SIZE = 256
_DTYPES = ("float32", "float16")
_ON_ERROR = ("stop", "skip")


def check_for_module(
    dataset: Any, batch_size: int | None, workers: int | None, on_error: str, head: Any, **flags: bool
) -> None:
    """Raise UsageError for what an nn.Module and its loader do not take."""
    if not isinstance(dataset, Dataset) and (isinstance(dataset, str | Path) or not is_iterable(dataset)):
        raise UsageError(
            f"an nn.Module takes a loader, an iterable of (inputs, labels), got {displayed(dataset)}; "
            "to read data by their location, use open_model and open_dataset"
        )
    if isinstance(dataset, Dataset):
        raise UsageError(
            "a data set needs an encoder from open_model, which prepares its inputs; an nn.Module goes with a loader"
        )
    given = {"batch_size": batch_size != BATCH_SIZE, "workers": workers is not None, "on_error": on_error != "stop"}
    for name, wanted in {**given, "head": head is not None, **flags}.items():
        if wanted:
            raise UsageError(
                f"`{name}=` applies to an encoder and a data set; an nn.Module takes the batches of its loader unchanged"
            )


def is_iterable(loader: Any) -> bool:
    """Whether `for batch in loader` works. It is not tried: a DataLoader draws a random number for each iterator."""
    return hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")


def check_options(
    output: Path | None,
    batch_size: int | None,
    dtype: str,
    workers: int | None,
    limit: int | None,
    on_error: str,
    pooling: str,
) -> tuple[int | None, int | None, int | None]:
    """Return the batch size, the workers and the limit as ints, before a model is opened that takes minutes to read.

    UsageError for what `extract` could never do.
    """
    if output is not None and output.suffix.lower() in (".npz", ".npy"):
        raise UsageError(
            f"output {output} would be read as NumPy arrays, but a store is HDF5; name it {output.with_suffix('.h5')}"
        )
    batch_size = check_optional_whole("`batch_size=`", batch_size, low=1)
    limit = check_optional_whole("`limit=`", limit, low=1)
    workers = check_optional_whole("`workers=`", workers, low=0)
    check_choice("dtype", dtype, _DTYPES)
    if on_error not in _ON_ERROR:
        raise UsageError(f"`on_error=` must be {' or '.join(_ON_ERROR)}, got {displayed(on_error)}")
    check_choice("pooling", pooling, POOLINGS)
    return batch_size, workers, limit
