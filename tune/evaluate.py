"""How good the choices of a model are, beside what no model at all would get.

A choice is right if it is one of the optimal actions, and several often are: the share of right
choices says little without the lines of the majority action, of chance and of doing nothing. What a
choice earns is its label less that of NO_OP, beside what the best choice (the oracle) earns.
"""

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from datasets.samples import Samples
from market.actions import Action
from market.labels import advantage, optimal
from tune.scaled import ScaledModel

BATCH = 8192  # Samples per pass where nothing is learnt; it bounds memory.

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy and value per decision of a rule that looks at nothing."""

    accuracy: float
    value_bps: float


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


def choices(values: Floats) -> Ints:
    """Return the action with the highest value per row, [n]; ValueError where one is not finite."""
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    return values.argmax(axis=1)


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


def confusion(values: Floats, labels: Floats) -> Ints:
    """Return counts [chosen, optimal], [5, 5], for labels without NaN.

    A right choice counts on the diagonal; a wrong one in the column of the first best action.
    """
    chosen = choices(values)
    right = optimal(labels)[np.arange(len(chosen)), chosen]
    column = np.where(right, chosen, labels.argmax(axis=1))
    matrix = np.zeros((len(Action), len(Action)), dtype=np.int64)
    np.add.at(matrix, (chosen, column), 1)
    return matrix


def evaluate(values: Floats, labels: Floats, train_labels: Floats) -> Evaluation:
    """Judge `values` (f8[n, 5]) by `labels` (f8[n, 5]); `train_labels` only name the majority.

    Rows of NaN labels are left out; ValueError where none are left.
    """
    known = ~np.isnan(labels).any(axis=1)
    train_labels = train_labels[~np.isnan(train_labels).any(axis=1)]
    if not known.any() or not len(train_labels):
        raise ValueError("there is no labelled sample to evaluate")
    values, labels = values[known], labels[known]
    chosen = choices(values)
    value_bps, oracle_bps = captured(chosen, labels)
    majority = int(optimal(train_labels).sum(axis=0).argmax())
    return Evaluation(
        samples=len(labels),
        actions=tuple(action.name for action in Action),
        confusion=confusion(values, labels).tolist(),
        accuracy=accuracy(chosen, labels),
        chosen=np.bincount(chosen, minlength=len(Action)).tolist(),
        optimal=optimal(labels).sum(axis=0).tolist(),
        value_bps=value_bps,
        oracle_bps=oracle_bps,
        value_fraction=fraction(value_bps, oracle_bps),
        majority_action=Action(majority).name,
        majority=_always(majority, labels),
        random=Baseline(
            accuracy=float(optimal(labels).mean()), value_bps=float(advantage(labels).mean())
        ),
        no_op=_always(Action.NO_OP, labels),
    )


def _always(action: int, labels: Floats) -> Baseline:
    chosen = np.full(len(labels), action)
    return Baseline(accuracy=accuracy(chosen, labels), value_bps=captured(chosen, labels)[0])
