"""Train one model: the same config, data and number of threads give the same weights, bit for bit.

That holds across interruptions too. The order of the batches follows from (seed, epoch) alone, and
a state holds everything else, so a run that resumes ends where an undisturbed one does.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from datasets.batches import Batches, Part
from datasets.samples import Samples
from market.errors import QuaverError
from market.labels import advantage
from tune import evaluate, objectives
from tune.checkpoint import TrainState, load_state
from tune.config import TrainConfig
from tune.models import SeedModel, build
from tune.significance import BlockSums, Look


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
    history: tuple[Look, ...]  # Of every epoch so far.


OnEpoch = Callable[[EpochMetrics, TrainState], None]

# Scaling is fitted on at most so many rows of train, from 512 places in it: what decides is that
# inputs are of the order of one, and a set that memory does not hold is not read for more.
SCALING_ROWS = 1 << 17


def train(
    train_part: Part,
    validation_part: Part,
    config: TrainConfig,
    *,
    resume_from: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainState:
    """Train to `config.epochs` and return the last state, which also holds the best weights.

    Samples are read batch by batch, never all at once. The best epoch is the one with the highest
    validation value captured, the first of equals. `on_epoch` is called after each epoch; the state
    it gets is valid only during the call. `resume_from` is a directory of `checkpoint.save_state`
    whose config may differ in `epochs` only. QuaverError where the loss is no longer finite.
    """
    for name, part in (("train", train_part), ("validation", validation_part)):
        if not len(part):
            raise QuaverError(f"training: no labelled {name} samples; use a longer recording")
        _check_products(config, part)
    batches = Batches(train_part, config.batch_size, config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build(config.model, train_part.samples.signals.shape[1])
        _fit_scaling(model, Batches(train_part, SCALING_ROWS, config.seed), config)
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
            train_loss = _train_epoch(model, optimiser, batches, config, epoch)
            metrics = _validate(model, validation_part, train_loss, state, epoch)
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
        history=(),
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
        history=metrics.history,
    )


def _fit_scaling(model: SeedModel, batches: Batches, config: TrainConfig) -> None:
    samples = next(batches.epoch(0))  # Training begins with epoch 1.
    scaling = objectives.output_scaling(config.objective, samples.label)
    model.fit_scaling(*features_of(samples)[:4], *scaling)


def features_of(samples: Samples) -> tuple[Tensor, ...]:
    """Return the inputs of a model from a batch of samples, which must be writable.

    Prices stay f64 until their ratio is taken; shares and signals lose nothing that
    matters as f32.
    """
    return (
        torch.from_numpy(samples.medians),
        torch.from_numpy(samples.bids).float(),
        torch.from_numpy(samples.asks).float(),
        torch.from_numpy(samples.signals).float(),
        torch.from_numpy(samples.product).long(),
    )


def _train_epoch(
    model: SeedModel,
    optimiser: torch.optim.Optimizer,
    batches: Batches,
    config: TrainConfig,
    epoch: int,
) -> float:
    model.train()
    total, rows = 0.0, 0
    for batch in batches.epoch(epoch):
        wanted = objectives.targets(config.objective, batch.label)
        optimiser.zero_grad(set_to_none=True)
        outputs = model(*features_of(batch))
        loss = objectives.loss(config.objective, outputs, wanted, model.output_scale)
        loss.backward()
        optimiser.step()
        total += float(loss.detach()) * len(batch)
        rows += len(batch)
    if not np.isfinite(total):
        raise QuaverError(
            f"training: the loss is not finite in epoch {epoch}; lower learning_rate "
            f"({config.learning_rate})"
        )
    return total / rows


def _validate(
    model: SeedModel, part: Part, train_loss: float, state: TrainState, epoch: int
) -> EpochMetrics:
    model.eval()
    objective = state.config.objective
    sums, earned = np.zeros(4), BlockSums()
    with torch.inference_mode():
        for batch in part.in_order(evaluate.BATCH):
            outputs = model(*features_of(batch))
            wanted = objectives.targets(objective, batch.label)
            loss = float(objectives.loss(objective, outputs, wanted, model.output_scale))
            if not np.isfinite(loss):
                raise QuaverError(f"training: the validation loss is not finite in epoch {epoch}")
            chosen = evaluate.choices(outputs.double().numpy())
            right = evaluate.accuracy(chosen, batch.label)
            means = (loss, right, *evaluate.captured(chosen, batch.label))
            sums += np.multiply(means, len(batch))
            earned.add(batch.beat, advantage(batch.label)[np.arange(len(batch)), chosen])
    loss, right, value_bps, oracle_bps = (sums / len(part)).tolist()
    is_best = value_bps > state.best_value_bps
    return EpochMetrics(
        epoch=epoch,
        train_loss=train_loss,
        validation_loss=loss,
        validation_accuracy=right,
        validation_value_bps=value_bps,
        validation_value_fraction=evaluate.fraction(value_bps, oracle_bps),
        best_value_bps=value_bps if is_best else state.best_value_bps,
        best_epoch=epoch if is_best else state.best_epoch,
        history=(*state.history, earned.look()),
    )


def _check_products(config: TrainConfig, part: Part) -> None:
    found = part.products()
    if found[0] < 0 or found[-1] >= config.model.products:
        raise QuaverError(
            f"training: samples name product {found[-1]}, but the model knows "
            f"{config.model.products} products"
        )
