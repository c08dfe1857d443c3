"""Evaluation against examples worked out by hand."""

import msgspec
import numpy as np
import pytest

from tune.baselines import majority
from tune.evaluate import Evaluation, confusion, evaluate

# Optimal actions by row: {0}, {0, 1}, {2}, {4}, {3, 4}.
LABELS = np.array(
    [
        [5.0, 4.0, 1.0, 0.0, 2.0],
        [3.0, 3.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 6.0, 5.0, 2.0],
        [-2.0, -1.0, -2.0, -1.0, 0.0],
        [0.0, 0.0, 0.0, 1.0, 1.0 - 1e-9],
    ]
)
CHOSEN = [0, 1, 4, 0, 4]


def _values(chosen: list[int]) -> np.ndarray:
    return np.eye(5)[chosen]


def test_confusion_by_hand() -> None:
    expected = np.zeros((5, 5), dtype=int)
    expected[0, 0] = 1  # Right.
    expected[1, 1] = 1  # Right, although 0 is as good.
    expected[4, 2] = 1  # Wrong: 2 was best.
    expected[0, 4] = 1  # Wrong: 4 was best.
    expected[4, 4] = 1  # Right: within 1e-6 bp of the best.
    np.testing.assert_array_equal(confusion(np.array(CHOSEN), LABELS), expected)


def test_wrong_choice_is_booked_at_the_first_best_action() -> None:
    matrix = confusion(np.array([2]), LABELS[1:2])
    assert matrix[2, 0] == matrix.sum() == 1


def test_evaluation_by_hand() -> None:
    train_labels = np.array([[0, 0, 1.0, 0, 0], [0, 0, 1.0, 0, 0], [1.0, 0, 0, 0, 0]])
    result = evaluate(_values(CHOSEN), LABELS, majority([train_labels]))
    assert result.samples == 5
    assert result.accuracy == pytest.approx(3 / 5)
    assert result.chosen == [2, 1, 0, 0, 2]
    assert result.optimal == [2, 1, 1, 1, 2]
    # Over NO_OP, by row: 5 - 2, 3 - 1, 0, -2 - 0, 0; the best: 3, 2, 4, 0, 0.
    assert result.value_bps == pytest.approx((3 + 2 + 0 - 2 + 0) / 5)
    assert result.oracle_bps == pytest.approx(9 / 5)
    assert result.value_fraction == pytest.approx(1 / 3)
    assert result.majority_action == "FORCE_SELL"
    assert result.majority.accuracy == pytest.approx(1 / 5)
    assert result.majority.value_bps == pytest.approx((-1 - 1 + 4 - 2 - 1) / 5)
    assert result.random.accuracy == pytest.approx(7 / 25)
    assert result.no_op.accuracy == pytest.approx(2 / 5)
    assert result.no_op.value_bps == 0


def test_unlabelled_rows_do_not_count_and_json_round_trips() -> None:
    gaps = np.vstack([LABELS, np.full((2, 5), np.nan)])
    values = np.vstack([_values(CHOSEN), np.full((2, 5), 7.0)])
    beats, others = np.arange(7), {"first": np.zeros(7, int)}
    result = evaluate(values, gaps, 0, beats=beats, others=others, objective="advantage")
    wanted = evaluate(
        _values(CHOSEN),
        LABELS,
        0,
        beats=beats[:5],
        others={"first": others["first"][:5]},
        objective="advantage",
    )
    assert result == wanted
    assert msgspec.json.decode(msgspec.json.encode(result), type=Evaluation) == result


def test_nothing_to_capture_and_bad_values() -> None:
    flat = np.zeros((3, 5))
    assert evaluate(_values([0, 1, 2]), flat, 0).value_fraction == 0
    with pytest.raises(ValueError, match="finite"):
        evaluate(np.full((3, 5), np.nan), flat, 0)
    with pytest.raises(ValueError, match="no labelled"):
        evaluate(flat, np.full((3, 5), np.nan), 0)
