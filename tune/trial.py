"""What runs in a worker of the sweep: one training run that reports and checkpoints every epoch."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.fs
import torch
from numpy.typing import NDArray
from ray import tune as ray_tune

from datasets.batches import Part
from datasets.sample_cache import CachedSamples
from tune.checkpoint import STATE_FILE, TrainState, save_state
from tune.config import TrainConfig
from tune.search import configured
from tune.training import EpochMetrics, train


def run_trial(
    config: dict[str, Any],
    train_config: TrainConfig,
    samples: CachedSamples,
    train_rows: NDArray[np.int64],
    validation_rows: NDArray[np.int64],
) -> None:
    """Train the trial of `config` in a Ray worker, from the trial's checkpoint if there is one.

    All trials on a machine map the same files; rows come out of Ray's memory, which they share too.
    """
    torch.set_num_threads(1)
    opened = samples.open()
    with contextlib.ExitStack() as stack:
        resume_from = None
        checkpoint = ray_tune.get_checkpoint()
        if checkpoint is not None:
            checkpoint = newest(checkpoint)
        if checkpoint is not None:
            resume_from = Path(stack.enter_context(checkpoint.as_directory()))
        train(
            Part(opened, train_rows),
            Part(opened, validation_rows),
            configured(train_config, config["trial"]["params"]),
            resume_from=resume_from,
            on_epoch=_report,
        )


def _report(metrics: EpochMetrics, state: TrainState) -> None:
    with tempfile.TemporaryDirectory() as directory:
        save_state(state, Path(directory))
        # TensorBoard draws lists, and takes a tuple for what it is: not for it.
        history = tuple(msgspec.structs.astuple(look) for look in metrics.history)
        ray_tune.report(
            msgspec.structs.asdict(metrics) | {"history": history},
            checkpoint=ray_tune.Checkpoint.from_directory(directory),
        )


def newest(checkpoint: ray_tune.Checkpoint) -> ray_tune.Checkpoint | None:
    """Return `checkpoint`, or its newest sibling if it is gone.

    Tune deletes the last but one checkpoint just before it notes down the last: a driver killed in
    between points to the deleted one when it is restored.
    """
    filesystem, path = checkpoint.filesystem, checkpoint.path
    siblings = pyarrow.fs.FileSelector(path.rsplit("/", 1)[0], allow_not_found=True, recursive=True)
    found = sorted(
        info.path.rsplit("/", 1)[0]
        for info in filesystem.get_file_info(siblings)
        if info.base_name == STATE_FILE
    )
    if path in found:
        return checkpoint
    return ray_tune.Checkpoint(found[-1], filesystem) if found else None
