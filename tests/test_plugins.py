import pytest

from embedscope import plugins
from embedscope.errors import UsageError


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


def test_unknown_name_names_the_nearest():
    with pytest.raises(UsageError, match="no metric 'siluete'; did you mean 'silhouette'"):
        plugins.load("metrics", "siluete")


def test_third_party_reaches_the_same_load(monkeypatch):
    class Point:
        name = "my-own"

        @staticmethod
        def load():
            return "loaded"

    class Shadow(Point):
        name = "gini"

    monkeypatch.setattr(
        plugins.importlib.metadata, "entry_points", lambda group: [Point, Shadow] if group[11:] == "metrics" else []
    )
    assert "my_own" in plugins.names("metrics")
    assert plugins.load("metrics", "my-own") == "loaded"
    assert plugins.load("metrics", "gini") != "loaded"


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
    with pytest.raises(UsageError, match="no option of silhouette 'distanse'; did you mean 'distance'"):
        plugins.bind(plugins.load("metrics", "silhouette"), plugins.parse("silhouette(distanse='cosine')"))


def test_bind_wants_names():
    with pytest.raises(UsageError, match="options of silhouette need a name"):
        plugins.bind(plugins.load("metrics", "silhouette"), plugins.parse("silhouette('cosine')"))
