import pytest

from embedscope.errors import EmbedscopeError, UsageError, check_choice, unknown


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
