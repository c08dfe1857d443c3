"""What runs in a worker of the sweep: one training run that saves and reports every epoch."""

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
from tune.checkpoint import TrainState
from tune.config import TrainConfig
from tune.spot import Notice, SpotConfig
from tune.training import EpochMetrics, train
from tune.trial_state import TrialFile, as_directory


def run_trial(
    params: dict[str, Any],
    configs: dict[str, TrainConfig],
    samples: CachedSamples,
    train_rows: NDArray[np.int64],
    validation_rows: NDArray[np.int64],
    store: Store,
    folder: str,
    spot: SpotConfig,
) -> None:
    """Train one variant in a Ray worker, from where its file in the sweep's `folder` says it is.

    All trials on a machine map the same files; rows come out of Ray's memory, which they share too.
    """
    torch.set_num_threads(1)
    opened = patiently(store, samples.open)
    file = TrialFile(store, f"{folder}/{params['variant']}")
    known = file.read()
    history = known.history if known else ()
    # Tune may not have heard of all: its driver, or the last worker, died before.
    for metrics in history:
        _report(metrics)

    def on_epoch(metrics: EpochMetrics, state: TrainState) -> None:
        nonlocal history
        history += (metrics,)
        file.write(state, history)
        _report(metrics)

    with Notice(spot) as notice:
        finished = False
        while not finished:
            with as_directory(known) as directory:
                state = train(
                    Part(opened, train_rows),
                    Part(opened, validation_rows),
                    configs[params["variant"]],
                    resume_from=directory,
                    on_epoch=on_epoch,
                    should_stop=notice.take,
                )
            finished = state.is_finished
            if not finished:
                # The machine ends soon. Until then training goes on: it may reach its next epoch.
                file.write(state, history)
                known = file.read()
                history = known.history if known else ()


def _report(metrics: EpochMetrics) -> None:
    # Tune would count from one again in each new worker.
    counted = {"training_iteration": metrics.epoch}
    ray_tune.report(msgspec.structs.asdict(metrics) | counted)
