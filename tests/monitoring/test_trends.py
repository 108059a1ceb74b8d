"""Trends: curves with one fault give that finding and no other, healthy ones give none, or hardly ever."""

import numpy as np
import pytest

from embedscope.monitoring.trends import Trends

STEPS = 500


def healthy(rng, count=40, *, noise=0.01, memory=0.0):
    """A silhouette that rises and levels off, a rank that grows, a loss that falls; noise may be correlated in time."""
    time = np.linspace(0, 1, count)
    error = rng.normal(size=count)
    for place in range(1, count):
        error[place] = memory * error[place - 1] + np.sqrt(1 - memory**2) * error[place]
    return {
        "silhouette": 0.45 - 0.5 * np.exp(-5 * time) + noise * error,
        "effective_rank": (40 - 20 * np.exp(-3 * time)) * np.exp(0.02 * rng.normal(size=count)),
        "loss": 2.3 * np.exp(-4 * time) * (1 + 0.1 * rng.normal(size=count)) + 0.05,
    }


def told(curves, *, trends=None, layer="fc", classes=10):
    trends = trends or Trends()
    found = []
    for place, loss in enumerate(curves["loss"]):
        values = {name: curve[place] for name, curve in curves.items() if name != "loss"}
        found += trends.take(place * STEPS, layer, values, loss=loss, classes=classes)
    return found


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_healthy_curves_give_hardly_any_finding(rng):
    """At most 2 trainings of 90 with a finding; each is asked at 35 steps, about two metrics."""
    alarms = [
        bool(told(healthy(rng, noise=noise, memory=memory)))
        for noise in (0.002, 0.01, 0.03)
        for memory in (0.0, 0.5)
        for _ in range(15)
    ]
    assert sum(alarms) <= 2


def test_a_flat_curve_gives_hardly_any_finding(rng):
    curves = [{**healthy(rng), "silhouette": 0.4 + 0.01 * rng.normal(size=40)} for _ in range(20)]
    assert sum(bool(told(each)) for each in curves) <= 1


def test_a_rank_that_collapses(rng):
    curves = healthy(rng)
    curves["effective_rank"] = np.where(np.arange(40) < 20, 48.0, 11.0) * np.exp(0.02 * rng.normal(size=40))
    curves["silhouette"][:] = 0.3
    (found,) = told(curves)
    assert (found.rule, found.metric, found.layer) == ("collapse", "effective_rank", "fc")
    assert 20 * STEPS < found.step <= 24 * STEPS
    assert found.text.startswith("effective rank fell from 4")
    assert found.text.endswith(" while the loss fell")
    assert str(found) == f"fc: {found.text}"


def test_rows_on_a_line_are_found_at_once():
    curves = {"effective_rank": [21.6, 20.1, 1.0, 1.0, 1.0], "loss": [2.3, 2.2, 2.3, 2.3, 2.3]}
    (found,) = told(curves)
    assert (found.rule, found.step) == ("collapse", 2 * STEPS)
    assert found.text.startswith("effective rank fell from 22 to 1.0 since step 0")
    assert told(curves, classes=2) == []  # which need no more than a line
    assert told({"effective_rank": [1.0, 1.0, 1.1], "loss": [2.3, 2.2, 2.1]}) == []  # and never had more


def test_a_rank_that_falls_because_classes_come_apart_is_no_fault(rng):
    curves = healthy(rng)
    curves["effective_rank"] = 9 + 30 * np.exp(-6 * np.linspace(0, 1, 40))
    assert told(curves, classes=10) == []
    assert [each.rule for each in told(curves, classes=100)] == ["collapse"]  # which that many classes need


def test_a_silhouette_that_falls(rng):
    curves = healthy(rng)
    curves["silhouette"][25:] -= 0.25
    (found,) = told(curves)
    assert (found.rule, found.metric) == ("fall", "silhouette")
    assert 25 * STEPS < found.step <= 29 * STEPS
    assert "silhouette fell from 0.4" in found.text


def test_where_lower_is_better_a_rise_is_found(rng):
    curves = healthy(rng)
    curves["class_kl"] = 0.1 * np.exp(-3 * np.linspace(0, 1, 40)) + np.where(np.arange(40) < 25, 0, 0.2)
    (found,) = told(curves)
    assert (found.rule, found.metric) == ("fall", "class_kl")
    assert "class kl rose from" in found.text


def test_a_silhouette_that_stays_low_while_the_loss_falls(rng):
    curves = healthy(rng)
    curves["silhouette"] = -0.02 + 0.005 * rng.normal(size=40)
    (found,) = told(curves)
    assert (found.rule, found.metric) == ("stall", "silhouette")
    assert found.text.startswith("silhouette has not risen since step 0 (now -0.0")


def test_a_layer_beside_which_another_one_rises_may_stay_low(rng):
    trends = Trends()
    assert told(healthy(rng), trends=trends, layer="fc") == []
    curves = healthy(rng)
    curves["silhouette"] = -0.02 + 0.005 * rng.normal(size=40)
    assert told(curves, trends=trends, layer="conv") == []


@pytest.mark.parametrize(
    ("loss", "ending"),
    [(np.full(40, np.nan), ""), (np.linspace(1, 4, 40), " while the loss rose"), (np.ones(40), " while the loss stayed")],
    ids=["none", "rose", "stayed"],
)
def test_what_the_loss_did(rng, loss, ending):
    curves = {**healthy(rng), "loss": loss}
    curves["silhouette"][25:] -= 0.25
    (found,) = told(curves)
    assert found.text.endswith(ending)
    assert (" while" in found.text) == bool(ending)


def test_undefined_values_and_metrics_without_a_direction_are_passed_over():
    trends = Trends()
    for step in range(40):
        value = None if step % 2 else 0.4
        assert trends.take(step, "fc", {"silhouette": value, "explained_variance": 40.0 - step}) == []
