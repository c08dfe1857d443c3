"""Train one model: the same config, data and number of threads give the same weights, bit for bit.

That holds across interruptions too, at any batch. The order of the batches follows from
(seed, epoch) alone, and a state holds everything else, so a run that resumes ends where an
undisturbed one does.
"""

import math
from collections.abc import Callable

import msgspec
import numpy as np
import torch
from torch import Tensor

from datasets.batches import Batches, Part
from datasets.samples import Samples
from market.errors import QuaverError
from market.labels import advantage
from market.policy import choices
from tune import evaluate, objectives
from tune.boosted import BoostedModel, Draws, Grower
from tune.checkpoint import TrainState, git_commit, unpack
from tune.checks import check_part, check_same_config
from tune.config import TrainConfig
from tune.models import build
from tune.optimisers import Stepper
from tune.run_folder import digest
from tune.scaled import ScaledModel
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
    learning_rate: float  # After the epoch's last batch.
    gradient_norm: float  # Mean over the epoch's batches, before clipping.
    is_last: bool  # The epochs are through, or patience is.
    look: Look


OnEpoch = Callable[[EpochMetrics, TrainState], None]
ShouldStop = Callable[[], bool]

# Scaling is fitted on at most so many rows of train, from 512 places in it: what decides is that
# inputs are of the order of one, and a set that memory does not hold is not read for more.
SCALING_ROWS = 1 << 17


def train(
    train_part: Part,
    validation_part: Part,
    config: TrainConfig,
    *,
    resume_from: bytes | None = None,
    on_epoch: OnEpoch | None = None,
    should_stop: ShouldStop | None = None,
) -> TrainState:
    """Train to the end and return the last state, which also holds the best weights.

    Samples are read batch by batch, never all at once. The best epoch is the one with the highest
    validation value captured, the first of equals; `config.patience_epochs` and the schedule
    plateau go by it too. `on_epoch` is called after each epoch; the state it gets is valid only
    during the call.

    `should_stop` is asked after each batch, of validation too: once it returns true, training stops
    there and the state returned is not `is_finished`. It goes on from that batch with
    `resume_from`, which is what `checkpoint.pack` made of it. QuaverError where samples or
    checkpoint do not fit, where inputs are not finite, and once the loss no longer is.
    """
    check_part("train", train_part, config)
    check_part("validation", validation_part, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        run = _Run(train_part, validation_part, config, should_stop or _never)
        if resume_from is not None:
            run.resume(resume_from)
        while not run.state().is_finished:
            metrics = run.epoch()
            if metrics is None:
                break
            if on_epoch is not None:
                on_epoch(metrics, run.state())
        return run.state()


def _never() -> bool:
    return False


class _Run:
    """A training run: its model and optimiser, and how far it is."""

    def __init__(
        self, train_part: Part, validation_part: Part, config: TrainConfig, should_stop: ShouldStop
    ) -> None:
        self._config = config
        self._should_stop = should_stop
        self._batches = Batches(train_part, config.batch_size, config.seed)
        self._stepper: Stepper | Grower
        self._validation = validation_part
        self._model = build(config.model, train_part.samples.signals.shape[1])
        _fit_scaling(self._model, Batches(train_part, SCALING_ROWS, config.seed), config)
        if isinstance(self._model, BoostedModel):
            self._batches = Draws(train_part, self._model.config.rows, config.seed)
            self._stepper = Grower(self._model, config.objective, config.seed)
        else:
            epoch_batches = math.ceil(len(train_part) / config.batch_size)
            self._stepper = Stepper(self._model, config, epoch_batches)
        self._data_sha256 = digest(train_part, validation_part)
        self._epoch = self._batch = 0
        self._loss_sum = self._norm_sum = 0.0
        self._rows = 0
        self._best_value_bps, self._best_epoch = -np.inf, 0
        self._best_weights: dict[str, Tensor] = {}

    def state(self) -> TrainState:
        """Return where the run is; the tensors are its own and move on with it."""
        return TrainState(
            config=self._config,
            data_sha256=self._data_sha256,
            git_commit=git_commit(),
            epoch=self._epoch,
            batch=self._batch,
            loss_sum=self._loss_sum,
            norm_sum=self._norm_sum,
            rows=self._rows,
            weights=self._model.state_dict(),
            optimiser=self._stepper.state_dict(),
            rng=torch.get_rng_state(),
            best_value_bps=self._best_value_bps,
            best_epoch=self._best_epoch,
            best_weights=self._best_weights,
        )

    def resume(self, content: bytes) -> None:
        """Go on from a state that was packed."""
        state = unpack(content)
        check_same_config(state.config, self._config)
        if state.data_sha256 != self._data_sha256:
            raise QuaverError(
                "training: the checkpoint is of other samples or another split; train anew"
            )
        try:
            self._model.load_state_dict(state.weights)
            self._stepper.load_state_dict(state.optimiser)
        except (KeyError, RuntimeError, ValueError) as error:
            raise QuaverError(
                f"training: the checkpoint is of another program (commit {state.git_commit}): "
                f"{' '.join(str(error).split())}; train anew"
            ) from error
        self._epoch, self._batch = state.epoch, state.batch
        self._loss_sum, self._norm_sum, self._rows = state.loss_sum, state.norm_sum, state.rows
        self._best_value_bps, self._best_epoch = state.best_value_bps, state.best_epoch
        self._best_weights = state.best_weights
        torch.set_rng_state(state.rng)

    def epoch(self) -> EpochMetrics | None:
        """Train the rest of an epoch and validate; None if it was asked to stop before the end."""
        epoch = self._epoch + 1
        found = self._validate(epoch) if self._train(epoch) else None
        if found is None:
            return None
        (loss, accuracy, value_bps, oracle_bps), look = found
        train_loss, gradient_norm = self._loss_sum / self._rows, self._norm_sum / self._rows
        learning_rate = self._stepper.learning_rate
        self._stepper.end_epoch(value_bps)
        self._epoch, self._batch = epoch, 0
        self._loss_sum = self._norm_sum = 0.0
        self._rows = 0
        if value_bps > self._best_value_bps:
            self._best_value_bps, self._best_epoch = value_bps, epoch
            weights = self._model.state_dict()
            self._best_weights = {name: tensor.clone() for name, tensor in weights.items()}
        return EpochMetrics(
            epoch=epoch,
            train_loss=train_loss,
            validation_loss=loss,
            validation_accuracy=accuracy,
            validation_value_bps=value_bps,
            validation_value_fraction=evaluate.fraction(value_bps, oracle_bps),
            best_value_bps=self._best_value_bps,
            best_epoch=self._best_epoch,
            learning_rate=learning_rate,
            gradient_norm=gradient_norm,
            is_last=self.state().is_finished,
            look=look,
        )

    def _train(self, epoch: int) -> bool:
        """Train on what is left of the epoch; false if it was asked to stop."""
        self._model.train()
        for batch in self._batches.epoch(epoch, self._batch):
            if isinstance(self._stepper, Grower):
                wanted = objectives.targets(self._config.objective, batch.label)
                self._stepper.grow(features_of(batch), wanted)
                loss, _ = self._loss(batch)
            else:
                self._stepper.zero_grad()
                loss, _ = self._loss(batch)
                loss.backward()
                self._norm_sum += self._stepper.step() * len(batch)
            self._require_finite(loss, batch, epoch)
            self._loss_sum += float(loss.detach()) * len(batch)
            self._rows += len(batch)
            self._batch += 1
            if self._should_stop():
                return False
        return True

    def _require_finite(self, loss: Tensor, batch: Samples, epoch: int) -> None:
        if loss.isfinite():
            return
        inputs = self._model.scaled(*features_of(batch)[:4])
        if not all(bool(part.isfinite().all()) for part in inputs):
            raise QuaverError("training: inputs of train are not finite; build the samples anew")
        raise QuaverError(
            f"training: the loss is not finite in epoch {epoch}; lower learning_rate "
            f"({self._config.learning_rate})"
        )

    def _validate(self, epoch: int) -> tuple[list[float], Look] | None:
        """Return mean loss, accuracy, value and the oracle's; None if it was asked to stop."""
        self._model.eval()
        sums, earned = np.zeros(4), BlockSums()
        with torch.inference_mode():
            for batch in self._validation.in_order(evaluate.BATCH):
                tensor, outputs = self._loss(batch)
                loss = float(tensor)
                if not np.isfinite(loss):
                    raise QuaverError(
                        f"training: the validation loss is not finite in epoch {epoch}"
                    )
                chosen = choices(outputs.double().numpy())
                right = evaluate.accuracy(chosen, batch.label)
                means = (loss, right, *evaluate.captured(chosen, batch.label))
                sums += np.multiply(means, len(batch))
                earned.add(batch.beat, advantage(batch.label)[np.arange(len(batch)), chosen])
                if self._should_stop():
                    return None
        return (sums / len(self._validation)).tolist(), earned.look()

    def _loss(self, batch: Samples) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch, and the model's outputs."""
        objective = self._config.objective
        wanted = objectives.targets(objective, batch.label, self._config.temperature_bps)
        is_mixed = self._model.training and self._config.precision == "bfloat16"
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_mixed):
            outputs = self._model(*features_of(batch)).float()
        return objectives.loss(objective, outputs, wanted, self._model.output_scale), outputs


def _fit_scaling(model: ScaledModel, batches: Batches, config: TrainConfig) -> None:
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
