import numpy as np
import pytest

from embedscope.errors import InputError
from embedscope.store.labels import encode, encode_labels


@pytest.mark.parametrize(
    ("values", "names", "codes"),
    [
        (["a", "nan", "b"], ("a", "b", "nan"), [0, 2, 1]),
        (["1", "nan", "2"], ("1", "2"), [0, -1, 1]),
        (["007", "null", "7"], ("007", "7"), [0, -1, 1]),
        (["a", "", " ", None, float("nan")], ("a",), [0, -1, -1, -1, -1]),
        (["nan", "nan"], (), [-1, -1]),
        (["1", "1.0", "2"], ("1", "2"), [0, 0, 1]),
        ([1, 1.0, "1", 10, 9], ("1", "9", "10"), [0, 0, 0, 2, 1]),
        ([1.0, "b", 1], ("1", "b"), [0, 1, 0]),
        ([True, False], ("False", "True"), [1, 0]),
        ([-1, 3, None], ("3",), [-1, 0, -1]),
        (np.array([2.0, np.nan, 1.0]), ("1", "2"), [1, -1, 0]),
        (np.array(["b", "nan", "a"]), ("a", "b", "nan"), [1, 2, 0]),
        (np.array(["10", "9", "nan"]), ("9", "10"), [1, 0, -1]),
        (np.array([b"b", b"a"]), ("a", "b"), [1, 0]),
        (np.array([2**63 + 1, 5], np.uint64), ("5", "9223372036854775809"), [1, 0]),
        (np.array([True, False]), ("False", "True"), [1, 0]),
    ],
)
def test_labels_of_any_kind(values, names, codes):
    found = encode("a", "y", values)
    assert (found[0], found[1].tolist()) == (names, codes)


@pytest.mark.parametrize("values", [[0.5], [float("inf")], np.array([0.5, 1]), np.array([1j])])
def test_labels_that_are_no_classes(values):
    with pytest.raises(InputError, match=r"a: labels must be whole numbers or text, got (float64 such as|complex128)"):
        encode("a", "y", values)


def test_labels_that_are_lists():
    with pytest.raises(InputError, match=r"row 1 of y \(counted from 0\) holds a list"):
        encode("a", "y", [1, [2]])


def test_class_names_by_number():
    names, codes = encode_labels("a", {"y": np.array([2.0, -1, np.nan, 0]), "class_names": np.array(["x", "y", "z"])})
    assert (names, codes.tolist()) == (("x", "y", "z"), [2, -1, -1, 0])
