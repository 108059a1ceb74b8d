"""The language of objectives: hostile and long expressions, and any text at all."""

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedscope.errors import UsageError
from embedscope.losses.expression import build, expand, parse


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ce(a={[]: 1})", "options must be literals"),
        ("ce(a=1, a=2)", "options must be literals, each given once"),
        ("ce(\udcff)", "an invalid character at position 4"),
        ("ce\x00", "cannot parse this"),
        (" + ".join(["ce"] * 10_000), "is too long or too deeply nested"),
        ("(" * 1000 + "ce" + ")" * 1000, "cannot parse this"),
        ("ce(x=" + "-" * 3000 + "1)", "too deeply nested"),
        ("a" + ".a" * 3000, "too deeply nested"),
        ("1" * 5000 + "*ce", "cannot parse this"),
        ("ce@" + "9" * 400, "the epoch after"),
    ],
)
@pytest.mark.parametrize("read", [parse, expand])
def test_hostile_expressions(read, text, message):
    begun = time.process_time()
    with pytest.raises(UsageError, match="." if read is expand and "[]" in text else message):
        read(text)
    assert time.process_time() - begun < 5


def test_many_terms():
    begun = time.process_time()
    assert len(build(" + ".join(["ce"] * 1500), 3, 4).names) == 1500
    assert time.process_time() - begun < 5


TERMS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "0.5*", "2 * "]),
    st.sampled_from(["ce", "silhouette", "soft-silhouette", "pml.SupConLoss"]),
    st.sampled_from(["", "()", "(a=0.1)", "(a='x', b=None)"]),
    st.sampled_from(["", "@1", " @ 20"]),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(TERMS, min_size=1, max_size=5), st.sampled_from(["+", " + ", "\n+ "]))
def test_terms_keep_their_order(terms, plus):
    found = parse(plus.join(terms))
    assert [str(term.spec).partition("(")[0] for term in found] == [
        term.partition("*")[2].strip().partition("(")[0].partition("@")[0].strip().replace("-", "_")
        if "*" in term
        else term.partition("(")[0].partition("@")[0].strip().replace("-", "_")
        for term in terms
    ]


@settings(max_examples=50, deadline=None)
@given(st.text("ce+*@.([])'=-1\x00 \n\udcff", max_size=20))
def test_any_text_is_read_or_refused(text):
    for read in (parse, expand):
        with contextlib.suppress(UsageError):
            assert read(text)
