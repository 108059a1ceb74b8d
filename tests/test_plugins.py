import contextlib
import keyword
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedscope import plugins
from embedscope.errors import InputError, UsageError


def test_names_lists_files_without_shared_modules():
    assert "silhouette" in plugins.names("metrics")
    assert "expression" not in plugins.names("losses")
    assert "checkpoint" not in plugins.names("models")


@pytest.mark.parametrize("kind", ["metrics", "losses", "models", "data", "plotting"])
def test_every_listed_name_loads_to_an_object_of_that_name(kind):
    for name in plugins.names(kind):
        assert plugins.load(kind, name).__name__ == name


def test_dashes_are_underscores():
    assert plugins.load("metrics", "soft-silhouette") is plugins.load("metrics", "soft_silhouette")


def test_other_names_are_found_where_they_are_declared():
    assert plugins.aliases("metrics") == {"gini_impurity": "gini", "n_components_95": "explained_variance"}
    for alias, name in plugins.aliases("metrics").items():
        assert plugins.load("metrics", alias.replace("_", "-")) is plugins.load("metrics", name)
        assert alias not in plugins.names("metrics")
    declared = {other: name for name in plugins.names("metrics") for other in plugins.load("metrics", name).declaration.aliases}
    assert declared == plugins.aliases("metrics")


def test_other_names_are_found_without_an_import():
    code = "import sys; from embedscope import plugins; plugins.aliases('metrics'); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_unknown_name_may_be_near_to_another_name():
    with pytest.raises(UsageError, match="no metric 'n_component_95'; did you mean 'n_components_95'"):
        plugins.load("metrics", "n_component_95")


def test_unknown_name_names_the_nearest():
    with pytest.raises(UsageError, match="no metric 'siluete'; did you mean 'silhouette'"):
        plugins.load("metrics", "siluete")


def test_third_party_reaches_the_same_load(monkeypatch):
    class Point:
        name, value, dist = "my-own", "package:my_own", None

        @staticmethod
        def load():
            return "loaded"

    class Shadow(Point):
        name = "gini"

    class ShadowOfAlias(Point):
        name = "gini-impurity"

    monkeypatch.setattr(
        plugins.importlib.metadata,
        "entry_points",
        lambda group: [Point, Shadow, ShadowOfAlias] if group[11:] == "metrics" else [],
    )
    assert "my_own" in plugins.names("metrics")
    assert plugins.load("metrics", "my-own") == "loaded"
    assert plugins.load("metrics", "gini") != "loaded"
    assert plugins.load("metrics", "gini_impurity") != "loaded"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("silhouette", plugins.Spec("silhouette")),
        ("  gini ", plugins.Spec("gini")),
        ("soft(tau=0.2, form='lse')", plugins.Spec("soft", (), {"tau": 0.2, "form": "lse"})),
        ("mlp(128, 64)", plugins.Spec("mlp", (128, 64))),
        ("a (1)/net.py:Net(width=8)", plugins.Spec("a (1)/net.py:Net", (), {"width": 8})),
        ("net.py:Net(text='a)b(c')", plugins.Spec("net.py:Net", (), {"text": "a)b(c"})),
        ("f()", plugins.Spec("f")),
        ("net(1)(2)", plugins.Spec("net(1)", (2,))),
    ],
)
def test_parse(text, expected):
    assert plugins.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["f(__import__('os'))", "f(a=b)", "f(**{})", "f(1+)", "f(a={[]:1})", "f(a=" + "-" * 20000 + "1)"]
)
def test_parse_takes_only_literals(text):
    with pytest.raises(UsageError, match="cannot read the options"):
        plugins.parse(text)


def test_spec_prints_as_it_is_typed():
    assert str(plugins.parse("soft( tau=0.2,form='lse' )")) == "soft(tau=0.2, form='lse')"


def test_bind_fills_defaults():
    bound = plugins.bind(plugins.load("metrics", "gini"), plugins.parse("gini(dead='ignore')"))
    assert bound == {"activation": "abs", "dead": "ignore"}


def test_bind_names_the_nearest_option():
    with pytest.raises(UsageError, match="silhouette has no option 'distanse'; did you mean 'distance'"):
        plugins.bind(plugins.load("metrics", "silhouette"), plugins.parse("silhouette(distanse='cosine')"))


def test_bind_wants_names():
    with pytest.raises(UsageError, match="options of silhouette need a name"):
        plugins.bind(plugins.load("metrics", "silhouette"), plugins.parse("silhouette('cosine')"))


@pytest.mark.parametrize("text", ["f(a=1, a=2)", "f(\x00)", "f(\udcff)", "f(a=1if 1else 2)", "f(" + "(" * 20000 + ")" * 20001])
def test_parse_of_hostile_specs(text):
    with pytest.raises(UsageError, match=r"cannot read the options of .*: expected literals, each given once"):
        plugins.parse(text)


def test_parse_of_many_brackets_ends():
    begun = time.process_time()
    with pytest.raises(UsageError, match="cannot read the options"):
        plugins.parse("f" + "(1)" * 2000)
    assert time.process_time() - begun < 5


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.tuples(inner),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(st.from_regex(r"[a-z_]\w{0,8}", fullmatch=True), st.lists(LITERALS, max_size=2), st.data())
def test_specs_are_read_as_they_are_printed(name, args, data):
    keys = st.from_regex(r"[a-z]{1,5}", fullmatch=True).filter(lambda key: not keyword.iskeyword(key))
    spec = plugins.Spec(name, tuple(args), data.draw(st.dictionaries(keys, LITERALS, max_size=2)))
    assert plugins.parse(str(spec)) == spec


@settings(max_examples=50, deadline=None)
@given(st.text("f(a=1,'[]{})\\\x00*-.: ", max_size=20))
def test_parse_of_any_text(text):
    with contextlib.suppress(UsageError):
        assert isinstance(plugins.parse(text).name, str)


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("operator torchvision::nms does not exist"),
        AttributeError("partially initialized module 'torchvision' has no attribute 'extension'"),
    ],
)
def test_torchvision_of_another_torch(monkeypatch, failure):
    def broken(module):
        raise ImportError("cannot import") from failure

    monkeypatch.setattr(plugins.importlib, "import_module", broken)
    monkeypatch.setattr(plugins.importlib.metadata, "version", {"torch": "2.13.0", "torchvision": "0.20.0"}.__getitem__)
    with pytest.raises(InputError, match=r"torchvision 0\.20\.0 does not belong to torch 2\.13\.0 \(.*\); install"):
        plugins.imported("timm", extra="vision")


def test_package_that_is_broken_otherwise(monkeypatch):
    def broken(module):
        raise RuntimeError("out of order")

    monkeypatch.setattr(plugins.importlib, "import_module", broken)
    with pytest.raises(InputError, match=r"timm is installed but cannot be imported .*pip install 'embedscope\[vision\]'"):
        plugins.imported("timm", extra="vision")
