"""Tables that other programs read: no cell is a formula there, and every text comes back."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedscope.store.tables import guarded, unguarded, write_rows


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_a_text_is_no_formula(start):
    assert guarded(f"{start}1+cmd") == f"'{start}1+cmd"
    assert unguarded(guarded(f"{start}1+cmd")) == f"{start}1+cmd"


@pytest.mark.parametrize("cell", ["-0.5", "+3", "-1e-05", "-.5", "-7.", -0.5, float("-inf"), None, "", "a=b", "'quoted'", "'"])
def test_numbers_and_other_texts_stay(cell):
    assert guarded(cell) == cell
    assert not isinstance(cell, str) or unguarded(cell) == cell


@pytest.mark.parametrize("cell", ["-", "-inf", "-1e", "--1", "-1-1", "=1", "-0x10", "-1,5"])
def test_what_is_almost_a_number_is_guarded(cell):
    assert guarded(cell) == f"'{cell}"


@given(st.text(st.one_of(st.sampled_from("'=+-@\t\r\n\",0.5"), st.characters(exclude_categories=["Cs"])), max_size=8))
def test_every_text_comes_back(text):
    assert unguarded(guarded(text)) == text
    file = io.StringIO(newline="")
    write_rows(file, [[text, "x"]])
    file.seek(0)
    (row,) = csv.reader(file)
    assert [unguarded(cell) for cell in row] == [text, "x"]


def test_names_that_are_not_utf8_can_be_written():
    assert guarded("bad\udcff").encode() == b"bad\\xff"
