"""Calibration says what was predicted beside what came, by hand and where it is known."""

import numpy as np
import pytest

from market.labels import advantage
from tune.calibration import BINS, bins, calibration, slope


def drawn(n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Expected values and what came: the same and noise."""
    rng = np.random.default_rng(0)
    expected = rng.normal(0, 2, (n, 5))
    expected[:, 4] = 0
    return expected, expected + rng.normal(0, 3, (n, 5)) * [1, 1, 1, 1, 0] + 50


def test_outputs_that_mean_what_they_say_have_slope_one() -> None:
    expected, labels = drawn()
    found = calibration(expected, labels, expected.argmax(axis=1), "advantage")
    assert found is not None and found.unit == "bp"
    assert found.every_slope == pytest.approx(1.0, abs=0.03)
    assert found.chosen_slope == pytest.approx(1.0, abs=0.1)
    for each in found.every + found.chosen:
        assert each.realised == pytest.approx(each.predicted, abs=0.25)
    chosen = expected.argmax(axis=1)
    assert sum(each.count for each in found.chosen) == (chosen != 4).sum()
    assert sum(each.count for each in found.every) == 4 * len(expected)


def test_outputs_that_are_twice_too_large_have_slope_a_half() -> None:
    expected, labels = drawn()
    found = calibration(2 * expected, labels, expected.argmax(axis=1), "mse")
    assert found is not None
    assert found.every_slope == pytest.approx(0.5, abs=0.02)
    assert found.chosen[-1].realised == pytest.approx(found.chosen[-1].predicted / 2, abs=0.3)


def test_logits_are_held_against_how_often_an_action_was_optimal() -> None:
    # Actions 0 and 1 are optimal together in three rows of four, 4 in the other.
    labels = np.array([[1.0, 1.0, 0.0, 0.0, 0.0]] * 3 + [[0.0, 0.0, 0.0, 0.0, 1.0]])
    logit = np.log(3.0)
    values = np.tile([logit, logit - 1e-3, -50.0, -50.0, -logit], (4, 1))
    found = calibration(values, labels, values.argmax(axis=1), "bce")
    assert found is not None and found.unit == "probability"
    assert sum(each.count * each.predicted for each in found.chosen) / 4 == pytest.approx(0.75)
    assert sum(each.count * each.realised for each in found.chosen) / 4 == pytest.approx(0.75)
    assert found.chosen_slope is None  # All predictions are the same.


@pytest.mark.parametrize("objective", ["cross_entropy", "decision"])
def test_outputs_that_mean_nothing_by_themselves_have_none(objective) -> None:
    assert calibration(*drawn(100), np.zeros(100, np.int64), objective) is None


def test_a_model_that_never_acts_has_no_bins_of_its_choices() -> None:
    _, labels = drawn(100)
    found = calibration(np.eye(5)[[4] * 100], labels, np.full(100, 4), "advantage")
    assert found is not None and (found.chosen, found.chosen_slope) == ([], None)


def test_bins_hold_as_many_each_in_order_of_size() -> None:
    predicted, realised = np.arange(25.0)[::-1], np.arange(25.0)
    found = bins(predicted, realised)
    assert [each.count for each in found] == [3] * 5 + [2] * 5 and len(found) == BINS
    assert found[0].predicted == 1 and found[0].realised == 23
    assert slope(predicted, realised) == pytest.approx(-1)


def test_equal_predictions_are_not_torn_apart() -> None:
    (whole,) = bins(np.full(40, 0.3), np.arange(40.0))
    assert (whole.count, whole.realised) == (40, 19.5)
    predicted = np.array([1.0] * 13 + [2.0] * 4 + [3.0] * 3)
    found = bins(predicted, np.arange(20.0))
    assert [(each.count, each.predicted) for each in found] == [(13, 1.0), (4, 2.0), (3, 3.0)]
    assert bins(np.zeros(0), np.zeros(0)) == []


def test_who_knows_only_what_actions_are_worth_on_average_has_no_slope() -> None:
    rng = np.random.default_rng(1)
    labels = rng.normal([-7.0, -0.5, -6.0, -0.4, 0.0], 1.0, (2000, 5))
    values = np.tile(labels.mean(axis=0), (2000, 1))
    found = calibration(values, labels, np.full(2000, 4), "advantage")
    assert found is not None and found.every_slope is None
    shuffled = calibration(rng.permutation(labels), labels, np.full(2000, 4), "advantage")
    assert shuffled is not None and shuffled.every_slope == pytest.approx(0.0, abs=0.05)


def test_realised_is_the_advantage_and_not_the_label() -> None:
    expected, labels = drawn(1000)
    found = calibration(expected, labels, expected.argmax(axis=1), "advantage")
    assert found is not None
    mean = sum(each.count * each.realised for each in found.every) / 4000
    assert mean == pytest.approx(float(advantage(labels)[:, :4].mean()))
