import numpy as np
import pytest

from embedscope.arguments import check_choice, check_names, check_seed, check_whole, displayed
from embedscope.errors import EmbedscopeError, UsageError, nearest, unknown


def test_exit_codes():
    def all_below(root):
        return [root, *(below for child in root.__subclasses__() for below in all_below(child))]

    codes = {error.__name__: error.exit_code for error in all_below(EmbedscopeError)}
    assert {name for name, code in codes.items() if code == 2} == {"UsageError"}
    assert {name for name, code in codes.items() if code == 3} == {"ThresholdError"}
    assert set(codes.values()) == {1, 2, 3, 130}


def test_unknown_without_a_near_name():
    assert unknown("metric", "zzz", ["gini"]) == "no metric 'zzz'. There are: gini"


def test_unknown_without_any():
    assert unknown("layer", "x", []) == "no layer 'x'. There are: none"


def test_choice():
    assert check_choice("distance", "cosine", ("cosine",)) == "cosine"
    with pytest.raises(UsageError, match="did you mean 'cosine'"):
        check_choice("distance", "cosin", ("cosine",))
    with pytest.raises(UsageError, match=r"^format must be a string, got 3\. There are: 3$"):
        check_choice("format", 3, ("3",))


def test_unknown_in_a_place():
    assert unknown("split", "x", ["test", "train"], place="a b.h5") == "a b.h5 has no split 'x'; it has: test, train"
    assert unknown("split", "tset", ["test"], place="a.h5") == "a.h5 has no split 'tset'; did you mean 'test'? It has: test"


@pytest.mark.parametrize(
    ("got", "known", "near"),
    [
        ("siluette", ["gini", "silhouette", "soft_silhouette"], "silhouette"),
        ("knn", ["nc1", "knn_accuracy"], "knn_accuracy"),
        ("KNN-Accuracy", ["nc1", "knn_accuracy"], "knn_accuracy"),
        ("fixd", ["drawn", "fixed"], "fixed"),
        ("soft", ["silhouette", "soft_silhouette"], "soft_silhouette"),
        ("purity", ["gini", "neighbor_purity"], "neighbor_purity"),
        ("neigh", ["gini", "neighbor_purity"], "neighbor_purity"),
        ("harabasz", ["calinski_harabasz"], "calinski_harabasz"),
        ("Test", ["train", "test"], "test"),
        ("jso", ["table", "json", "csv"], "json"),
        ("layer4", ["layer4.1.conv2", "layer3.0.conv1"], "layer4.1.conv2"),
        ("10", ["1", "100", "features.10"], "features.10"),
    ],
)
def test_the_nearest_name(got, known, near):
    assert nearest(got, known) == [near]


@pytest.mark.parametrize(
    ("got", "known"),
    [
        ("zzz", ["gini"]),
        ("", ["gini"]),
        ("", ["a__b"]),
        ("--", ["a__b"]),
        ("x", ["test", "train"]),
        ("a", []),
        ("10", ["0", "1", "100"]),
        ("2023", ["2022", "2024"]),
    ],
)
def test_nothing_is_near(got, known):
    assert nearest(got, known) == []


def test_several_near_names_have_the_most_likely_first():
    assert nearest("conv", ["fc", "conv1", "head.conv", "conv2"], count=3) == ["conv2", "conv1", "head.conv"]


@pytest.mark.parametrize(
    ("value", "text"),
    [("x", "'x'"), (3, "3"), (None, "None"), ([1, "a"], "[1, 'a']"), (np.zeros((3, 2)), "ndarray of shape (3, 2)")],
)
def test_what_was_given_is_shown(value, text):
    assert displayed(value) == text


def test_what_was_given_is_shown_briefly():
    assert len(displayed("x" * 500)) < 80
    assert displayed(object()) == "an object of type object"


@pytest.mark.parametrize("given", ["a", ["a"], ("a",), {"a"}, np.array(["a"]), {"a": 1}.keys(), iter("a")])
def test_names(given):
    assert check_names("`metrics=`", given) == ["a"]


@pytest.mark.parametrize("given", [3, True, [3], ["a", None], b"a", {"a": 1}, np.zeros(2)])
def test_what_are_no_names(given):
    with pytest.raises(UsageError, match=r"^`metrics=` must be a string or a list of strings, got "):
        check_names("`metrics=`", given)


def test_no_names():
    assert check_names("`layers=`", ()) == []
    with pytest.raises(UsageError, match=r"^`metrics=` is empty; name at least one, or omit it for the default$"):
        check_names("`metrics=`", [], some=True)


@pytest.mark.parametrize("given", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_of_any_library(given):
    found = check_whole("k", given, low=1)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("given", [0, 11, 2.0, "3", True, None, np.float64(3)])
def test_what_is_no_whole_number_in_the_range(given):
    with pytest.raises(UsageError, match=r"^k must be an integer from 1 to 10, got "):
        check_whole("k", given, low=1, high=10)


@pytest.mark.parametrize("given", [-1, 2**32, "x", 0.5, None])
def test_seeds(given):
    with pytest.raises(UsageError, match=r"^`seed=` must be an integer from 0 to 4,294,967,295, got "):
        check_seed(given)
