"""What a model is trained on: the values of the actions, or which actions are optimal.

MSE learns the labels themselves, so its outputs are basis points. BCE learns the hard targets, so
its outputs are logits: their order is a decision, their size is no profit.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from market.labels import optimal

Objective = Literal["mse", "bce"]


def targets(objective: Objective, labels: NDArray[np.float64]) -> Tensor:
    """Return what the outputs are compared with, f32[n, 5], for labels f8[n, 5] without NaN."""
    values = labels if objective == "mse" else optimal(labels)
    return torch.from_numpy(np.array(values, dtype=np.float32))


def output_scaling(objective: Objective, labels: NDArray[np.float64]) -> tuple[Tensor, float]:
    """Return mean f32[5] and scale of a model's outputs, from the labels of train.

    One scale for all five actions keeps their differences, which decide, comparable in the loss.
    """
    if objective == "bce":
        return torch.zeros(labels.shape[1]), 1.0
    mean = labels.mean(axis=0)
    deviation = float(np.sqrt(np.mean((labels - mean) ** 2)))
    return torch.from_numpy(mean.astype(np.float32)), deviation or 1.0


def loss(objective: Objective, outputs: Tensor, wanted: Tensor, scale: Tensor) -> Tensor:
    """Return the mean loss of a batch; MSE in units of `scale`: 1 is as good as the mean."""
    if objective == "bce":
        return functional.binary_cross_entropy_with_logits(outputs, wanted)
    return functional.mse_loss(outputs / scale, wanted / scale)
