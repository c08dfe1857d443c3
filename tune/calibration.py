"""Whether a model's outputs mean what they say.

Of a model trained on values or advantages, outputs are basis points: what it predicts that an
action earns over NO_OP is held against what that action earned. Of one trained with BCE they are
logits: the probability of being optimal is held against how often it was. Of the others, the order
of the outputs is a decision and their size nothing that can come true.
"""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.actions import Action
from market.labels import advantage, optimal
from tune import objectives
from tune.objectives import Objective

BINS = 10  # Of as many predictions each, so that none rests on a few.

Floats = NDArray[np.float64]


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions of about the same size."""

    count: int
    predicted: float  # Mean.
    realised: float  # Mean.


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted beside realised: of every action but NO_OP, and of the action that was chosen.

    A slope is that of realised on predicted, over single predictions: 1 is calibrated, less is
    overconfident; None where all predictions are the same. `every_slope` is within actions: what
    an action is worth on average is no prediction.
    """

    unit: Literal["bp", "probability"]
    every: list[Bin]
    every_slope: float | None
    chosen: list[Bin]  # Where it is not NO_OP: that one's advantage is 0 by definition.
    chosen_slope: float | None


def calibration(
    values: Floats, labels: Floats, chosen: NDArray[np.int64], objective: Objective
) -> Calibration | None:
    """Return the calibration of `values` (f8[n, 5]) by `labels` (f8[n, 5], no NaN).

    `chosen` are the actions taken, [n].

    None for objectives whose outputs are neither basis points nor probabilities.
    """
    if objectives.in_bps(objective):
        predicted, realised = advantage(values), advantage(labels)
    elif objective == "bce":
        predicted = 1 / (1 + np.exp(-np.clip(values, -500, 500)))
        realised = optimal(labels).astype(np.float64)
    else:
        return None
    actions = [action for action in Action if action != Action.NO_OP]
    every = predicted[:, actions], realised[:, actions]
    rows = np.flatnonzero(chosen != Action.NO_OP)
    picked = predicted[rows, chosen[rows]], realised[rows, chosen[rows]]
    return Calibration(
        unit="bp" if objectives.in_bps(objective) else "probability",
        every=bins(*(each.ravel() for each in every)),
        every_slope=slope(*every),
        chosen=bins(*picked),
        chosen_slope=slope(*picked),
    )


def bins(predicted: Floats, realised: Floats) -> list[Bin]:
    """Return BINS of as many predictions each, by size; equal ones stay together."""
    order = np.argsort(predicted, kind="stable")
    if not len(order):
        return []
    ordered = predicted[order]
    last = np.cumsum([len(each) for each in np.array_split(order, BINS)])[: len(order) - 1] - 1
    ends = np.unique(np.searchsorted(ordered, ordered[last], side="right"))
    return [
        Bin(
            count=len(rows),
            predicted=float(predicted[rows].mean()),
            realised=float(realised[rows].mean()),
        )
        for rows in np.split(order, ends)
        if len(rows)
    ]


def slope(predicted: Floats, realised: Floats) -> float | None:
    """Return the slope of the least-squares line of `realised` on `predicted`, or None.

    Both are f8[n], or f8[n, k] for that within columns, whose means are taken away.
    """
    away = predicted - predicted.mean(axis=0) if len(predicted) else predicted
    power = float((away**2).sum())
    if power <= 1e-18 * float((predicted**2).sum()):
        return None  # Rounding alone.
    return float((away * (realised - realised.mean(axis=0))).sum()) / power
