"""How good the choices of a model are, beside what no model at all would get.

A choice is right if it is one of the optimal actions, and several often are: the share of right
choices says little without the lines of the majority action, of chance and of doing nothing. What a
choice earns is its label less that of NO_OP, beside what the best choice (the oracle) earns.
"""

from collections.abc import Mapping

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from datasets.batches import Part
from datasets.samples import Samples
from market.actions import Action
from market.labels import advantage, optimal
from market.policy import choices
from tune import objectives
from tune.bootstrap import Interval, decision_bootstrap
from tune.calibration import Calibration, calibration
from tune.objectives import Objective
from tune.scaled import ScaledModel

BATCH = 8192  # Samples per pass where nothing is learnt; it bounds memory.

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """What another rule or model comes to on the same samples, and how much more the model earns.

    Intervals are of 95 %, None where there are too few beats.
    """

    accuracy: float
    value_bps: float
    value_interval: Interval | None = None
    lead_bps: float = 0.0  # The model's value less this one's.
    lead_interval: Interval | None = None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Result over the labelled samples; lists are in the order of the actions."""

    samples: int
    actions: tuple[str, ...]
    confusion: list[list[int]]  # [chosen][optimal]
    accuracy: float
    chosen: list[int]
    optimal: list[int]  # Sums to more than `samples` where several actions are optimal.
    value_bps: float
    oracle_bps: float
    value_fraction: float
    majority_action: str
    majority: Baseline
    random: Baseline
    no_op: Baseline
    others: dict[str, Baseline] = {}  # Persistence and models trained to compare, by name.
    value_interval: Interval | None = None
    fraction_interval: Interval | None = None
    loss: float | None = None  # Mean over the samples, of the objective trained on.
    calibration: Calibration | None = None


def predict(model: ScaledModel, samples: Samples) -> Floats:
    """Return the model's outputs for every sample, f8[n, 5]."""
    parts = [np.empty((0, len(Action)))]
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(samples), BATCH):
            rows = slice(start, start + BATCH)
            columns = ("medians", "bids", "asks", "signals", "product")
            arrays = (np.array(getattr(samples, name)[rows]) for name in columns)
            batch = [torch.from_numpy(array) for array in arrays]
            parts.append(model(*batch).double().numpy())
    return np.concatenate(parts)


def predict_part(model: ScaledModel, part: Part) -> Floats:
    """Return the model's outputs for every row of a part, f8[n, 5], read batch by batch."""
    parts = [predict(model, batch) for batch in part.in_order(BATCH)]
    return np.concatenate([np.empty((0, len(Action))), *parts])


def mean_loss(
    objective: Objective, values: Floats, labels: Floats, scale: float, temperature_bps: float
) -> float:
    """Return the loss that training would state of these outputs, over rows with labels."""
    known = ~np.isnan(labels).any(axis=1)
    outputs = torch.from_numpy(values[known].astype(np.float32))
    wanted = objectives.targets(objective, labels[known], temperature_bps)
    return float(objectives.loss(objective, outputs, wanted, torch.tensor(scale)))


def accuracy(chosen: Ints, labels: Floats) -> float:
    """Return the share of choices that are one of the optimal actions."""
    return float(optimal(labels)[np.arange(len(chosen)), chosen].mean())


def captured(chosen: Ints, labels: Floats) -> tuple[float, float]:
    """Return mean bp per decision over NO_OP, of these choices and of the best ones."""
    gains = advantage(labels)
    return float(gains[np.arange(len(chosen)), chosen].mean()), float(gains.max(axis=1).mean())


def fraction(value_bps: float, oracle_bps: float) -> float:
    """Return value captured as a share of the oracle's; 0 where there was nothing to capture."""
    return value_bps / oracle_bps if oracle_bps > 0 else 0.0


def confusion(chosen: Ints, labels: Floats) -> Ints:
    """Return counts [chosen, optimal], [5, 5], for labels without NaN.

    A right choice counts on the diagonal; a wrong one in the column of the first best action.
    """
    right = optimal(labels)[np.arange(len(chosen)), chosen]
    column = np.where(right, chosen, labels.argmax(axis=1))
    matrix = np.zeros((len(Action), len(Action)), dtype=np.int64)
    np.add.at(matrix, (chosen, column), 1)
    return matrix


def evaluate(
    values: Floats,
    labels: Floats,
    majority: int,
    *,
    beats: Ints | None = None,
    others: Mapping[str, Ints] | None = None,
    objective: Objective | None = None,
    loss: float | None = None,
    min_edge_bps: float = 0.0,
) -> Evaluation:
    """Judge `values` (f8[n, 5]) by `labels` (f8[n, 5]); `majority` is train's most frequent best.

    A choice is an action that beats NO_OP by `min_edge_bps`, as in trading.

    With `beats` (i8[n]) there are intervals, with an `objective` calibration. `others` are what
    other rules choose on the same rows, [n] each. Rows of NaN labels are left out; ValueError where
    none are left.
    """
    known = ~np.isnan(labels).any(axis=1)
    if not known.any():
        raise ValueError("there is no labelled sample to evaluate")
    values, labels = values[known], labels[known]
    beats = None if beats is None else beats[known]
    chosen = choices(values, min_edge_bps)
    gains, best = _gains(chosen, labels), advantage(labels).max(axis=1)

    def line(accuracy: float, their: Floats) -> Baseline:
        return Baseline(
            accuracy=accuracy,
            value_bps=float(their.mean()),
            value_interval=_interval(their, beats),
            lead_bps=float((gains - their).mean()),
            lead_interval=_interval(gains - their, beats),
        )

    def rule(picked: Ints) -> Baseline:
        return line(accuracy(picked, labels), _gains(picked, labels))

    value_bps, oracle_bps = captured(chosen, labels)
    return Evaluation(
        samples=len(labels),
        actions=tuple(action.name for action in Action),
        confusion=confusion(chosen, labels).tolist(),
        accuracy=accuracy(chosen, labels),
        chosen=np.bincount(chosen, minlength=len(Action)).tolist(),
        optimal=optimal(labels).sum(axis=0).tolist(),
        value_bps=value_bps,
        value_interval=_interval(gains, beats),
        oracle_bps=oracle_bps,
        value_fraction=fraction(value_bps, oracle_bps),
        fraction_interval=None if beats is None else decision_bootstrap(gains, beats, best),
        majority_action=Action(majority).name,
        majority=rule(np.full(len(labels), majority)),
        random=line(float(optimal(labels).mean()), advantage(labels).mean(axis=1)),
        no_op=rule(np.full(len(labels), int(Action.NO_OP))),
        others={name: rule(picked[known]) for name, picked in (others or {}).items()},
        loss=loss,
        calibration=objective and calibration(values, labels, chosen, objective),
    )


def _gains(chosen: Ints, labels: Floats) -> Floats:
    """What each choice earns over NO_OP, [n]."""
    return np.asarray(advantage(labels)[np.arange(len(chosen)), chosen])


def _interval(gains: Floats, beats: Ints | None) -> Interval | None:
    return None if beats is None else decision_bootstrap(gains, beats)
