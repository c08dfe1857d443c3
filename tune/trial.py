"""What runs in a worker of the sweep: one training run that saves and reports every epoch."""

import time
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from ray import tune as ray_tune

from actors.patience import patiently
from actors.store import Store
from datasets.batches import Part
from datasets.sample_cache import CachedSamples
from tune.allocator import keep_freed_memory
from tune.checkpoint import TrainState
from tune.config import TrainConfig
from tune.search import configured
from tune.spot import Notice, SpotConfig
from tune.training import EpochMetrics, train
from tune.trial_state import Epoch, TrialFile


def run_trial(
    config: dict[str, Any],
    train_config: TrainConfig,
    samples: CachedSamples,
    train_rows: NDArray[np.int64],
    validation_rows: NDArray[np.int64],
    store: Store,
    folder: str,
    spot: SpotConfig,
) -> None:
    """Train the trial of `config` in a Ray worker, from where its file in `folder` says it is.

    All trials on a machine map the same files; rows come out of Ray's memory, which they share too.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    opened = patiently(samples.open)
    file = TrialFile(store, f"{folder}/{config['trial']['name']}")
    known = file.read()
    epochs = known.epochs if known else ()
    # Tune may not have heard of all: its driver, or the last worker, died before.
    _report(epochs)
    begun = time.monotonic()

    def on_epoch(metrics: EpochMetrics, state: TrainState) -> None:
        nonlocal begun, epochs
        epochs += (Epoch(metrics, time.monotonic() - begun),)
        begun = time.monotonic()
        file.write(state, epochs)
        _report(epochs, since=len(epochs) - 1)

    with Notice(spot) as notice:
        finished = False
        while not finished:
            state = train(
                Part(opened, train_rows),
                Part(opened, validation_rows),
                configured(train_config, config["trial"]["params"]),
                resume_from=known.content if known else None,
                on_epoch=on_epoch,
                should_stop=notice.take,
            )
            finished = state.is_finished
            if not finished:
                # The machine ends soon. Until then training goes on: it may reach its next epoch.
                file.write(state, epochs)
                known = file.read()
                told, epochs = len(epochs), known.epochs if known else ()
                _report(epochs, since=told)


def _report(epochs: tuple[Epoch, ...], since: int = 0) -> None:
    """Tell Tune of the epochs from `since` on, each with the looks of all up to it."""
    for index in range(since, len(epochs)):
        metrics, seconds = epochs[index].metrics, epochs[index].seconds
        # Tune would count both from nothing again in each new worker.
        counted = {"training_iteration": metrics.epoch, "time_this_iter_s": seconds}
        looks = tuple(msgspec.structs.astuple(epoch.metrics.look) for epoch in epochs[: index + 1])
        told = {**msgspec.structs.asdict(metrics), **counted}
        del told["look"]
        # TensorBoard draws lists, and takes a tuple for what it is: not for it.
        ray_tune.report({**told, "history": looks})
