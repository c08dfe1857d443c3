"""How gradients move the weights: optimiser, learning-rate schedule, clipping; all torch's own.

Muon moves the matrices (parameters of two dimensions) but for embeddings, whose rows are looked up
one by one; AdamW moves the rest with the same rate, to whose size of step Muon's is matched.

constant, cosine (to zero) and one_cycle move the rate after each batch; plateau multiplies it after
epochs that did not raise the validation value captured. In a warm-up the rate rises in a line, from
one part in batches of warm-up; with one_cycle it is the rise of the cycle, so without one a cycle
begins at its top. No schedule moves momenta.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import SGD, Adam, AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from tune.config import TrainConfig


class Stepper:
    """The optimisers of a model and their schedules, as `config` says."""

    def __init__(self, model: nn.Module, config: TrainConfig, epoch_batches: int) -> None:
        """Take the model's parameters; an epoch has so many batches."""
        self._parameters = list(model.parameters())
        self._clip = config.gradient_clip
        self._optimisers = _optimisers(model, config)
        self._per_batch: list[LRScheduler] = []
        self._per_epoch: list[ReduceLROnPlateau] = []
        for optimiser in self._optimisers:
            self._per_batch += _per_batch(optimiser, config, epoch_batches)
            if config.schedule == "plateau":
                self._per_epoch.append(
                    ReduceLROnPlateau(
                        optimiser,
                        mode="max",
                        factor=config.plateau_factor,
                        patience=config.plateau_epochs - 1,  # Torch waits for one more.
                        threshold=0.0,
                        threshold_mode="abs",
                    )
                )

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self._optimisers[0].param_groups[0]["lr"])

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)

    def step(self) -> float:
        """Move the weights, then the rate; return the norm of all gradients before clipping."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = get_total_norm(gradients)
        if self._clip:
            clip_grads_with_norm_(self._parameters, self._clip, norm)
        for part in (*self._optimisers, *self._per_batch):
            part.step()
        return float(norm)

    def end_epoch(self, value_bps: float) -> None:
        """Tell the schedule the epoch's validation value captured."""
        for schedule in self._per_epoch:
            schedule.step(value_bps)

    def state_dict(self) -> dict[str, Any]:
        """Return all that moves, as plain values and tensors."""
        return {name: [part.state_dict() for part in parts] for name, parts in self._parts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, of the same config and model."""
        for name, parts in self._parts():
            for part, value in zip(parts, state[name], strict=True):
                part.load_state_dict(value)

    def _parts(self) -> Iterable[tuple[str, list[Any]]]:
        yield "optimisers", self._optimisers
        yield "per_batch", self._per_batch
        yield "per_epoch", self._per_epoch


def _optimisers(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
    rate, decay, momentum = config.learning_rate, config.weight_decay, config.momentum
    everything = list(model.parameters())
    if config.optimiser == "adam":
        return [Adam(everything, lr=rate, weight_decay=decay, fused=True)]
    if config.optimiser == "sgd":
        return [SGD(everything, lr=rate, momentum=momentum, weight_decay=decay, fused=True)]
    if config.optimiser == "adamw":
        return [AdamW(everything, lr=rate, weight_decay=decay, fused=True)]
    matrices, rest = _grouped(model)
    muon = Muon(
        matrices,
        lr=rate,
        weight_decay=decay,
        momentum=momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    return [muon, AdamW(rest, lr=rate, weight_decay=decay, fused=True)]


def _grouped(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that Muon moves and those of AdamW."""
    looked_up = {
        parameter
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    matrices, rest = [], []
    for parameter in model.parameters():
        is_matrix = parameter.ndim == 2 and parameter not in looked_up
        (matrices if is_matrix else rest).append(parameter)
    return matrices, rest


def _per_batch(optimiser: Optimizer, config: TrainConfig, epoch_batches: int) -> list[LRScheduler]:
    """Return the schedule that moves with each batch, if there is one."""
    total = config.epochs * epoch_batches
    rise = min(round(config.warm_up_epochs * epoch_batches), total - 1)
    if config.schedule == "one_cycle":
        return [
            OneCycleLR(
                optimiser,
                max_lr=config.learning_rate,
                total_steps=total,
                pct_start=rise / total if rise > 1 else 0.0,  # Torch divides by nothing.
                cycle_momentum=False,
            )
        ]
    warm_up = [LinearLR(optimiser, 1 / (rise + 1), total_iters=rise)] if rise else []
    if config.schedule != "cosine":
        return [*warm_up]
    cosine = CosineAnnealingLR(optimiser, T_max=total - rise)
    return [SequentialLR(optimiser, [*warm_up, cosine], milestones=[rise])] if rise else [cosine]
