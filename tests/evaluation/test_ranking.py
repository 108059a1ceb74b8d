"""Which layer to take: orders, ties, directions, and the sentence that says why."""

import json

import numpy as np
import pytest

from embedscope.cli import main
from embedscope.errors import UsageError
from embedscope.evaluation import score
from embedscope.evaluation.comparing import difference_interval
from embedscope.evaluation.ranking import check_ranked


@pytest.fixture
def layers():
    """Name -> features of 200 rows: a wide good one, the same in fewer dimensions, and a small bad one; and labels."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 4
    good = generator.normal(size=(200, 8)) * 0.4 + np.eye(8)[labels]
    rotation = np.linalg.qr(generator.normal(size=(40, 8)))[0]
    wide = good @ rotation.T + 1e-4 * generator.normal(size=(200, 40))
    bad = generator.normal(size=(200, 3)) + 0.5 * np.eye(3)[labels % 3]
    return {"conv": wide, "embedding": good, "head": bad}, labels


def test_the_smallest_that_is_not_significantly_worse_is_taken(layers):
    table = score(*layers, metrics=["silhouette", "explained_variance"], ci=True)
    ranking = table.ranked()
    values = {each.name: each.metrics["silhouette"].value for each in table}
    assert [each.name for each in ranking.layers] == sorted(values, key=values.get, reverse=True)
    assert ranking.layers[-1].name == "head"
    assert ranking.layers[ranking.take].name == "embedding"
    best = next(entry for entry in table if entry.name == ranking.layers[0].name)
    for each in ranking.layers[1:]:
        entry = next(entry for entry in table if entry.name == each.name)
        assert each.difference == difference_interval(best, entry, "silhouette")
    assert ranking.layers[-1].difference[1] < 0
    assert json.loads(json.dumps(ranking.as_json()))["take"] == "embedding"
    assert repr(ranking).splitlines()[0].split() == ["embedding", "dimensions", "silhouette"]


def test_a_metric_that_is_better_low(layers):
    features, labels = layers
    table = score({name: np.abs(rows) for name, rows in features.items()}, labels, metrics="gini", ci=True)
    ranking = table.ranked()
    values = [each.value for each in ranking.layers]
    assert values == sorted(values)
    taken = ranking.layers[ranking.take]
    assert not ranking.take or taken.difference[0] <= 0
    for each in ranking.layers[1:]:
        assert each.difference[0] > 0 or each.dimensions >= taken.dimensions


def test_all_smaller_layers_may_be_worse(layers):
    features, labels = layers
    ranking = score({name: features[name] for name in ("embedding", "head")}, labels, metrics="silhouette", ci=True).ranked()
    assert ranking.take == 0
    assert (
        ranking.reason
        == "use embedding (8 dimensions): the best silhouette, and all smaller embeddings are significantly worse"
    )


def test_without_intervals_the_best_is_taken(layers):
    assert "without intervals" in score(*layers, metrics="silhouette").ranked().reason


def test_undefined_layers_come_last(layers):
    features, labels = layers
    ranking = score({"flat": np.zeros((200, 2)), **features}, labels, metrics="gini", ci=True).ranked()
    assert {each.name for each in ranking.layers} == {"flat", *features}
    undefined = score(features, np.zeros(200, dtype=int), metrics="silhouette", ci=True).ranked()
    assert undefined.take is None
    assert undefined.reason == "no choice: silhouette is undefined in all embeddings"


def test_what_cannot_be_ranked(layers):
    table = score(*layers, metrics=["explained_variance", "silhouette"], ci=True)
    with pytest.raises(UsageError, match="cannot be ranked by explained_variance, which has no better direction"):
        table.ranked()
    with pytest.raises(UsageError, match="no measured metric 'gini'"):
        table.ranked("gini")


def test_command(layers, make_store, capsys):
    features, labels = layers
    stores = [str(make_store(rows, labels, name=f"{name}.h5", layer=name)) for name, rows in features.items()]
    assert main(["score", *stores, "--layers", "-q", "-m", "silhouette", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["layer"] for each in found["layers"]["order"]][-1] == "head"
    assert found["layers"]["take"] == "embedding"
    assert main(["score", *stores, "--layers", "-q", "-m", "silhouette"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.strip()][2:5] == [
        each["name"] for each in found["layers"]["order"]
    ]
    assert "use embedding (8 dimensions): the smallest whose silhouette is not significantly worse" in out
    assert main(["score", stores[0], "--layers", "-m", "explained-variance"]) == 2
    assert "layers cannot be ranked by explained" in capsys.readouterr().err


def test_layers_are_ranked_by_the_first_metric_of_a_set(layers):
    assert check_ranked(["retrieval"]) == check_ranked(["map_at_r"]) == "higher"
    with pytest.raises(UsageError, match="which has no better direction"):
        check_ranked(["collapse"])


def test_layers_of_one_file_are_layers_and_others_embeddings(tmp_path, make_store, blobs):
    features, labels = blobs
    first = score(str(make_store(features, labels)), metrics="silhouette", ci=True)
    assert first.ranked().reason.endswith("it is the only layer")
    assert repr(first.ranked()).startswith("layer")
    paths = [str(make_store(features + each, labels, name=f"{each}.h5")) for each in (0, 1)]
    ranking = score(paths, metrics="silhouette", ci=True).ranked()
    assert ranking.reason.endswith("the best silhouette, and no embedding is smaller")
    assert repr(ranking).startswith("embedding")
