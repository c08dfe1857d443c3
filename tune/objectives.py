"""What a model is trained on, and so what its five outputs mean.

Trained on values or on advantages, outputs are basis points. Of the other objectives they are
logits: their order is a decision, their size is no profit. `in_bps` is where everybody asks.

v[a] is a sample's label of action a in bp, z[a] the model's output, 5 the number of actions; every
loss is the mean over the samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from market.errors import QuaverError
from market.labels import advantage, optimal

Objective = Literal["mse", "advantage", "bce", "cross_entropy", "decision"]
Floats = NDArray[np.float64]


def squared_error(outputs: Tensor, wanted: Tensor, scale: Tensor) -> Tensor:
    """Return mean over a of ((z[a] - w[a]) / scale)^2, w the value v[a] or the advantage.

    In units of `scale`: 1 is as good as the mean of train. The advantage is v[a] - v[NO_OP].
    """
    return functional.mse_loss(outputs / scale, wanted / scale)


def binary_cross_entropy(outputs: Tensor, wanted: Tensor, scale: Tensor) -> Tensor:
    """Return mean over a of -(o[a] log s(z[a]) + (1 - o[a]) log(1 - s(z[a]))), s the logistic.

    o[a] is 1 for an optimal action, else 0; several may be optimal together.
    """
    return functional.binary_cross_entropy_with_logits(outputs, wanted)


def cross_entropy(outputs: Tensor, wanted: Tensor, scale: Tensor) -> Tensor:
    """Return -sum over a of p[a] log softmax(z)[a], with p = softmax(v / temperature_bps).

    The lower the temperature, the more p is on the best action alone.
    """
    return functional.cross_entropy(outputs, wanted)


def expected_loss_bps(outputs: Tensor, wanted: Tensor, scale: Tensor) -> Tensor:
    """Return sum over a of softmax(z)[a] * f[a] in bp, with f[a] = max over b of v[b] - v[a].

    It is the value forgone, beside the best action, by one who draws actions by softmax(z).
    """
    return (outputs.softmax(dim=1) * wanted).sum(dim=1).mean()


def _softened(labels: Floats, temperature_bps: float) -> Floats:
    shares = np.exp((labels - labels.max(axis=1, keepdims=True)) / temperature_bps)
    return shares / shares.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class _Definition:
    wanted: Callable[[Floats, float], NDArray[np.generic]]  # From labels and temperature_bps.
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    in_bps: bool


_DEFINITIONS: dict[Objective, _Definition] = {
    "mse": _Definition(lambda labels, _: labels, squared_error, in_bps=True),
    "advantage": _Definition(lambda labels, _: advantage(labels), squared_error, in_bps=True),
    "bce": _Definition(lambda labels, _: optimal(labels), binary_cross_entropy, in_bps=False),
    "cross_entropy": _Definition(_softened, cross_entropy, in_bps=False),
    "decision": _Definition(
        lambda labels, _: labels.max(axis=1, keepdims=True) - labels,
        expected_loss_bps,
        in_bps=False,
    ),
}


def in_bps(objective: Objective) -> bool:
    """Return whether differences between a model's outputs are basis points of profit."""
    return _DEFINITIONS[objective].in_bps


def check_edge(objective: Objective, min_edge_bps: float) -> None:
    """Raise a QuaverError where an edge in bp is asked of outputs that are none."""
    if min_edge_bps and not in_bps(objective):
        raise QuaverError(
            f"the outputs of a model trained with {objective} are no basis points; leave "
            "trader.min_edge_bps at 0 or take a model trained with mse or advantage"
        )


def targets(objective: Objective, labels: Floats, temperature_bps: float = 1.0) -> Tensor:
    """Return what the outputs are compared with, f32[n, 5], for labels f8[n, 5] without NaN."""
    wanted = _DEFINITIONS[objective].wanted(labels, temperature_bps)
    return torch.from_numpy(np.array(wanted, dtype=np.float32))


def output_scaling(objective: Objective, labels: Floats) -> tuple[Tensor, float]:
    """Return mean f32[5] and scale of a model's outputs, from the labels of train.

    One scale for all five actions keeps their differences, which decide, comparable in the loss.
    """
    definition = _DEFINITIONS[objective]
    if not definition.in_bps:
        return torch.zeros(labels.shape[1]), 1.0
    wanted = np.asarray(definition.wanted(labels, 1.0), dtype=np.float64)
    mean = wanted.mean(axis=0)
    deviation = float(np.sqrt(np.mean((wanted - mean) ** 2)))
    return torch.from_numpy(mean.astype(np.float32)), deviation or 1.0


def loss(objective: Objective, outputs: Tensor, wanted: Tensor, scale: Tensor) -> Tensor:
    """Return the mean loss of a batch; `wanted` from `targets`, `scale` from `output_scaling`."""
    return _DEFINITIONS[objective].loss(outputs, wanted, scale)
