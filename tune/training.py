"""Train one model: the same config, data and number of threads give the same weights, bit for bit.

That holds across interruptions too. The order of the batches follows from (seed, epoch) alone, and
a state holds everything else, so a run that resumes ends where an undisturbed one does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from datasets.samples import Samples
from market.errors import QuaverError
from tune import evaluate, objectives
from tune.checkpoint import TrainState, load_state
from tune.config import TrainConfig
from tune.models import SeedModel, build
from tune.objectives import Objective


class EpochMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What is known after an epoch; value is bp per decision over NO_OP, by the highest output."""

    epoch: int  # Counts from 1.
    train_loss: float  # Mean over the epoch's batches, while the weights move.
    validation_loss: float
    validation_accuracy: float
    validation_value_bps: float
    validation_value_fraction: float  # Of the oracle's.
    best_value_bps: float
    best_epoch: int


OnEpoch = Callable[[EpochMetrics, TrainState], None]


@dataclass(frozen=True)
class _Data:
    """Samples as tensors: copies, because what Ray shares between trials is read-only."""

    features: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    targets: Tensor
    labels: np.ndarray

    @classmethod
    def of(cls, samples: Samples, objective: Objective, role: str) -> "_Data":
        samples = samples.select(samples.labelled)
        if not len(samples):
            raise QuaverError(f"training: no labelled {role} samples; use a longer recording")
        # Prices stay f64 until their ratio is taken; shares lose nothing that matters as f32.
        features = (
            torch.from_numpy(np.array(samples.medians, dtype=np.float64)),
            torch.from_numpy(np.array(samples.bids, dtype=np.float32)),
            torch.from_numpy(np.array(samples.asks, dtype=np.float32)),
            torch.from_numpy(np.array(samples.signals, dtype=np.float32)),
            torch.from_numpy(np.array(samples.product, dtype=np.int64)),
        )
        return cls(features, objectives.targets(objective, samples.label), samples.label)

    def batch(self, rows: Tensor | slice) -> tuple[tuple[Tensor, ...], Tensor]:
        return tuple(column[rows] for column in self.features), self.targets[rows]


def train(
    train_samples: Samples,
    validation_samples: Samples,
    config: TrainConfig,
    *,
    resume_from: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainState:
    """Train to `config.epochs` and return the last state, which also holds the best weights.

    Samples without labels are left out. The best epoch is the one with the highest validation value
    captured, the first of equals. `on_epoch` is called after each epoch; the state it gets is valid
    only during the call. `resume_from` is a directory of `checkpoint.save_state` whose config may
    differ in `epochs` only. QuaverError where the loss is no longer finite.
    """
    train_data = _Data.of(train_samples, config.objective, "train")
    validation_data = _Data.of(validation_samples, config.objective, "validation")
    _check_products(config, train_data, validation_data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build(config.model, train_samples.signals.shape[1])
        mean_scale = objectives.output_scaling(config.objective, train_data.labels)
        model.fit_scaling(*train_data.features[:4], *mean_scale)
        optimiser = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        state = _initial(config, model, optimiser)
        if resume_from is not None:
            state = _resumed(resume_from, config, model, optimiser)
        for epoch in range(state.epoch + 1, config.epochs + 1):
            train_loss = _train_epoch(model, optimiser, train_data, config, epoch)
            metrics = _validate(model, validation_data, train_loss, state, epoch)
            state = _advanced(state, metrics, model, optimiser)
            if on_epoch is not None:
                on_epoch(metrics, state)
    return state


def _initial(config: TrainConfig, model: SeedModel, optimiser: torch.optim.Optimizer) -> TrainState:
    return TrainState(
        config=config,
        epoch=0,
        weights=model.state_dict(),
        optimiser=optimiser.state_dict(),
        rng=torch.get_rng_state(),
        best_value_bps=-np.inf,
        best_epoch=0,
        best_weights={},
    )


def _resumed(
    directory: Path, config: TrainConfig, model: SeedModel, optimiser: torch.optim.Optimizer
) -> TrainState:
    state = load_state(directory)
    if msgspec.structs.replace(state.config, epochs=config.epochs) != config:
        raise QuaverError(f"training: the checkpoint in {directory} is of another configuration")
    model.load_state_dict(state.weights)
    optimiser.load_state_dict(state.optimiser)
    torch.set_rng_state(state.rng)
    return state


def _advanced(
    state: TrainState, metrics: EpochMetrics, model: SeedModel, optimiser: torch.optim.Optimizer
) -> TrainState:
    weights = model.state_dict()
    best_weights = state.best_weights
    if metrics.best_epoch == metrics.epoch:
        best_weights = {name: tensor.clone() for name, tensor in weights.items()}
    return TrainState(
        config=state.config,
        epoch=metrics.epoch,
        weights=weights,
        optimiser=optimiser.state_dict(),
        rng=torch.get_rng_state(),
        best_value_bps=metrics.best_value_bps,
        best_epoch=metrics.best_epoch,
        best_weights=best_weights,
    )


def _train_epoch(
    model: SeedModel,
    optimiser: torch.optim.Optimizer,
    data: _Data,
    config: TrainConfig,
    epoch: int,
) -> float:
    model.train()
    order = np.random.default_rng((config.seed, epoch)).permutation(len(data.labels))
    total = 0.0
    for rows in torch.from_numpy(order).split(config.batch_size):
        features, wanted = data.batch(rows)
        optimiser.zero_grad(set_to_none=True)
        loss = objectives.loss(config.objective, model(*features), wanted, model.output_scale)
        loss.backward()
        optimiser.step()
        total += float(loss.detach()) * len(rows)
    if not np.isfinite(total):
        raise QuaverError(
            f"training: the loss is not finite in epoch {epoch}; lower learning_rate "
            f"({config.learning_rate})"
        )
    return total / len(order)


def _validate(
    model: SeedModel, data: _Data, train_loss: float, state: TrainState, epoch: int
) -> EpochMetrics:
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(data.labels), evaluate.BATCH):
            features, _ = data.batch(slice(start, start + evaluate.BATCH))
            parts.append(model(*features))
        outputs = torch.cat(parts)
        objective = state.config.objective
        loss = float(objectives.loss(objective, outputs, data.targets, model.output_scale))
    if not np.isfinite(loss):
        raise QuaverError(f"training: the validation loss is not finite in epoch {epoch}")
    chosen = evaluate.choices(outputs.double().numpy())
    value_bps, oracle_bps = evaluate.captured(chosen, data.labels)
    is_best = value_bps > state.best_value_bps
    return EpochMetrics(
        epoch=epoch,
        train_loss=train_loss,
        validation_loss=loss,
        validation_accuracy=evaluate.accuracy(chosen, data.labels),
        validation_value_bps=value_bps,
        validation_value_fraction=evaluate.fraction(value_bps, oracle_bps),
        best_value_bps=value_bps if is_best else state.best_value_bps,
        best_epoch=epoch if is_best else state.best_epoch,
    )


def _check_products(config: TrainConfig, *parts: _Data) -> None:
    for data in parts:
        product = data.features[4]
        if int(product.min()) < 0 or int(product.max()) >= config.model.products:
            raise QuaverError(
                f"training: samples name product {int(product.max())}, but the model knows "
                f"{config.model.products} products"
            )
