"""Objectives against sums written out in decimals, and their gradients against differences."""

import typing
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from tune import objectives
from tune.objectives import Objective

OBJECTIVES = typing.get_args(Objective)
# Rows with ties, with far apart values, and with everything equal.
LABELS = np.array(
    [
        [5.0, 4.25, 1.0, -3.0, 2.0],
        [3.0, 3.0, 0.5, 0.0, 1.0],
        [-2.0, -1.0, -2.5, -1.5, 0.0],
        [120.0, -40.0, 0.0, 60.0, 20.0],
        [7.0, 7.0, 7.0, 7.0, 7.0],
    ]
)
OUTPUTS = np.array(
    [
        [1.5, -0.25, 0.75, 2.0, 0.0],
        [-1.0, 3.0, 0.125, 0.5, 0.25],
        [4.0, 4.0, -4.0, 0.0, 1.0],
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [9.0, -9.0, 2.5, 1.0, -1.0],
    ]
)
TEMPERATURE_BPS = 1.5
SCALE = 2.5
NO_OP = 4


def _softmax(row: list[Decimal]) -> list[Decimal]:
    powers = [value.exp() for value in row]
    return [power / sum(powers) for power in powers]


def _reference(objective: str, values: list[Decimal], outputs: list[Decimal]) -> Decimal:
    """Return the loss of one sample, as the formulas say it."""
    best = max(values)
    if objective in ("mse", "advantage"):
        base = values[NO_OP] if objective == "advantage" else Decimal(0)
        errors = [(z - (v - base)) / Decimal(SCALE) for z, v in zip(outputs, values, strict=True)]
        return sum(error * error for error in errors) / 5
    if objective == "bce":
        total = Decimal(0)
        for z, v in zip(outputs, values, strict=True):
            chance = 1 / (1 + (-z).exp())
            total -= chance.ln() if v == best else (1 - chance).ln()
        return total / 5
    shares = _softmax(outputs)
    if objective == "cross_entropy":
        wanted = _softmax([value / Decimal(TEMPERATURE_BPS) for value in values])
        return -sum(p * q.ln() for p, q in zip(wanted, shares, strict=True))
    return sum(q * (best - v) for q, v in zip(shares, values, strict=True))


def _loss(objective: Objective, outputs: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    wanted = objectives.targets(objective, labels, TEMPERATURE_BPS).double()
    return objectives.loss(objective, outputs, wanted, torch.tensor(SCALE).double())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_is_its_formula(objective) -> None:
    with localcontext() as context:
        context.prec = 40
        rows = [
            _reference(objective, [Decimal(v) for v in values], [Decimal(z) for z in outputs])
            for values, outputs in zip(LABELS.tolist(), OUTPUTS.tolist(), strict=True)
        ]
        expected = float(sum(rows) / len(rows))
    assert float(_loss(objective, torch.tensor(OUTPUTS), LABELS)) == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_is_that_of_small_differences(objective) -> None:
    outputs = torch.tensor(OUTPUTS, requires_grad=True)
    _loss(objective, outputs, LABELS).backward()
    step = 1e-5
    for place in np.ndindex(OUTPUTS.shape):
        ahead, behind = OUTPUTS.copy(), OUTPUTS.copy()
        ahead[place] += step
        behind[place] -= step
        rise = float(_loss(objective, torch.tensor(ahead), LABELS)) - float(
            _loss(objective, torch.tensor(behind), LABELS)
        )
        assert float(outputs.grad[place]) == pytest.approx(rise / (2 * step), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_targets_of_far_apart_and_equal_values_are_finite(objective) -> None:
    labels = np.array([[1e5, -1e5, 0.0, 1e-9, 0.0], [0.0] * 5])
    for temperature_bps in (1e-3, 1e3):
        wanted = objectives.targets(objective, labels, temperature_bps)
        assert wanted.dtype == torch.float32
        assert torch.isfinite(wanted).all()


def test_a_low_temperature_wants_the_best_actions_and_a_high_one_all() -> None:
    cold = objectives.targets("cross_entropy", LABELS, 1e-3)
    best = LABELS == LABELS.max(axis=1, keepdims=True)
    np.testing.assert_allclose(cold, best / best.sum(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(objectives.targets("cross_entropy", LABELS, 1e6), 0.2, atol=1e-4)


def test_the_decision_loss_is_zero_only_for_the_best_action() -> None:
    rows = np.arange(len(LABELS))
    for action, forgone in ((LABELS.argmax(axis=1), 0.0), (LABELS.argmin(axis=1), None)):
        outputs = np.zeros(LABELS.shape)
        outputs[rows, action] = 100.0
        expected = np.mean(LABELS.max(axis=1) - LABELS[rows, action]) if forgone is None else 0.0
        assert float(_loss("decision", torch.tensor(outputs), LABELS)) == pytest.approx(expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_values_and_advantages_are_learnt_in_basis_points(objective) -> None:
    """A model that learnt its targets is worth what its outputs differ by, or it is not in bp."""
    assert objectives.in_bps(objective) == (objective in ("mse", "advantage"))
    mean, scale = objectives.output_scaling(objective, LABELS)
    if not objectives.in_bps(objective):
        assert (mean.tolist(), scale) == ([0.0] * 5, 1.0)
        return
    perfect = objectives.targets(objective, LABELS).double()
    gains = perfect - perfect[:, [NO_OP]]
    np.testing.assert_allclose(gains, LABELS - LABELS[:, [NO_OP]], rtol=1e-6)
    wanted = perfect.numpy()
    np.testing.assert_allclose(mean, wanted.mean(axis=0), rtol=1e-6)
    assert scale == pytest.approx(np.sqrt(np.mean((wanted - wanted.mean(axis=0)) ** 2)))
