"""Labels drawn from the model itself: the estimates find its parameters and Bayes' posterior, and reject what is not there."""

import numpy as np
import pytest
import torch

from embedscope.errors import UndefinedError
from embedscope.ops.label_issues import check_labels, expected_precision, neighbor_shares, strangers


def drawn(rate, *, rows=6000, classes=4, sharpness=2.0, seed=0):
    """(t, true, given) with true classes drawn from t, and labels that are wrong with a rate, all other classes alike."""
    generator = np.random.default_rng(seed)
    logits = sharpness * generator.normal(size=(rows, classes))
    t = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = (t.cumsum(axis=1) > generator.random((rows, 1))).argmax(axis=1)
    flipped = generator.random(rows) < rate
    given = np.where(flipped, (true + generator.integers(1, classes, rows)) % classes, true)
    return t, true, given


def bayes(t, given, rate):
    """P(true class differs from the given one), row by row, from the formula in the module's docstring with a uniform C."""
    wrong = []
    classes = t.shape[1]
    for row, label in zip(t, given, strict=True):
        right = row[label] * (1 - rate)
        other = sum(row[i] * rate / (classes - 1) for i in range(classes) if i != label)
        wrong.append(other / (right + other))
    return np.array(wrong)


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_posterior_is_that_of_bayes(rate):
    t, true, given = drawn(rate)
    found = check_labels([torch.from_numpy(t)], torch.from_numpy(given))
    # The rate is the lowest that 6,000 labels do not reject: 2 standard errors low, and these are about 0.01 where t is soft.
    assert rate - 0.06 < found.rate < rate + 0.02
    assert float(found.weights[0]) == pytest.approx(1, abs=0.2)
    np.testing.assert_allclose(found.wrong.numpy(), bayes(t, given, found.rate), atol=0.12)
    flagged = found.wrong.numpy() > 0.5
    assert float(found.wrong.numpy()[flagged].mean()) == pytest.approx((true != given)[flagged].mean(), abs=0.08)


@pytest.mark.parametrize("sharpness", [1.0, 2.0, 5.0])
def test_correct_labels_of_ambiguous_rows_are_not_flagged(sharpness):
    t, _, given = drawn(0.0, sharpness=sharpness)
    found = check_labels([torch.from_numpy(t)], torch.from_numpy(given))
    assert found.rate < 0.01
    assert int((found.wrong > 0.5).sum()) <= 12  # of 6,000: two in a thousand


def test_confusion_of_two_classes_is_found():
    t, true, _ = drawn(0.0, sharpness=4.0)
    flipped = (true == 2) & (np.random.default_rng(1).random(len(true)) < 0.4)
    given = np.where(flipped, 3, true)
    found = check_labels([torch.from_numpy(t)], torch.from_numpy(given))
    flagged = found.wrong.numpy() > 0.5
    assert flipped[flagged].mean() == pytest.approx(float(found.wrong[flagged].mean()), abs=0.08)
    assert flagged[flipped].mean() > 0.5
    assert (found.suggested[flagged & flipped] == 2).double().mean() > 0.9


def test_useless_evidence_beside_good_one_has_no_weight():
    t, _, given = drawn(0.1, sharpness=3.0)
    noise = torch.from_numpy(np.random.default_rng(2).dirichlet(np.ones(4), len(t)))
    alone = check_labels([torch.from_numpy(t)], torch.from_numpy(given))
    both = check_labels([torch.from_numpy(t), noise], torch.from_numpy(given))
    assert float(both.weights[1]) < 0.1
    assert float((both.wrong - alone.wrong).abs().mean()) < 0.01


def test_evidence_that_says_nothing_is_refused():
    given = torch.from_numpy(np.random.default_rng(3).integers(0, 4, 2000))
    noise = torch.from_numpy(np.random.default_rng(4).dirichlet(np.ones(4), 2000))
    with pytest.raises(UndefinedError, match="do not tell the classes apart"):
        check_labels([noise], given)


def test_order_of_rows_and_names_of_classes_change_nothing():
    t, _, given = drawn(0.2, rows=1500)
    found = check_labels([torch.from_numpy(t)], torch.from_numpy(given))
    order = np.random.default_rng(5).permutation(1500)
    renamed = np.array([2, 0, 3, 1])
    t_renamed = np.empty_like(t)
    t_renamed[:, renamed] = t
    other = check_labels([torch.from_numpy(t_renamed[order])], torch.from_numpy(renamed[given][order]))
    # The rate is found by halvings, each of which stops an iteration at a tolerance of 1e-9 of the mean likelihood.
    np.testing.assert_allclose(other.wrong.numpy(), found.wrong.numpy()[order], atol=2e-3)
    assert (other.suggested.numpy() == renamed[found.suggested.numpy()[order]]).mean() > 0.999


def test_neighbor_shares_equal_loops():
    generator = np.random.default_rng(6)
    given, indices = generator.integers(0, 3, 30), generator.integers(0, 30, (30, 7))
    found = neighbor_shares(torch.from_numpy(indices), torch.from_numpy(given), 3).numpy()
    for row in range(30):
        for label in range(3):
            votes = sum(given[other] == label for other in indices[row])
            assert found[row, label] == pytest.approx((votes + (given == label).mean()) / 8, abs=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def connected(parts, k=4, seed=8):
    """Neighbors that are all in the row's own part."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([generator.choice(np.flatnonzero(parts == part), k) for part in parts]))


def test_strangers_are_rows_in_the_part_of_another_class():
    parts = np.repeat([0, 1, 2], 60)
    given = parts.copy()
    given[:6] = 1
    given[150:] = 0  # half of part 2: nobody leads it
    sure, home = strangers(connected(parts), torch.from_numpy(given), 3)
    assert sure.nonzero().squeeze(1).tolist() == list(range(6))
    assert sure[:6].tolist() == pytest.approx(6 * [54 / 60])
    assert home[:6].tolist() == 6 * [0]


def test_rows_of_connected_or_split_classes_are_no_strangers():
    given = np.repeat([0, 1], 60)
    given[:6] = 1
    one_part = torch.from_numpy(np.random.default_rng(9).integers(0, 120, (120, 4)))
    assert (strangers(one_part, torch.from_numpy(given), 2)[0] == 0).all()
    given[:] = 0
    given[:6], given[60:70] = 1, 1  # 10 of 16 rows of class 1 among 50 of class 0: no home
    assert (strangers(connected(np.repeat([0, 1], 60)), torch.from_numpy(given), 2)[0] == 0).all()


def test_expected_precision_is_that_of_a_beta_distribution():
    from scipy import stats

    for wrong, trust in (([0.9], 3), ([0.9] * 6, 8), ([0.99] * 500, 20)):
        share, low = expected_precision(torch.tensor(wrong, dtype=torch.float64))
        assert share == pytest.approx(sum(wrong) / (len(wrong) + 2))
        assert low == pytest.approx(stats.beta(share * trust, (1 - share) * trust).ppf(0.025))


def test_gradients_may_be_switched_off():
    t, _, given = drawn(0.1, rows=400)
    expected = check_labels([torch.from_numpy(t)], torch.from_numpy(given))
    with torch.no_grad():
        found = check_labels([torch.from_numpy(t)], torch.from_numpy(given))
    assert torch.equal(found.wrong, expected.wrong)
