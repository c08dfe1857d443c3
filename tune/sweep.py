"""A Ray Tune sweep over a grid of training runs that survives the loss of machines and of itself.

Every trial reports and checkpoints after every epoch, so nothing costs more than the running epoch:
a lost worker goes on elsewhere from its checkpoint, a stopped sweep goes on by name. Under
runs/<sweep>/ lie one folder per trial (checkpoints, TensorBoard events), results.json and
best/model.safetensors.
"""

import contextlib
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from ray import tune as ray_tune

from actors.store import Store
from datasets.sample_cache import CachedSamples
from market.errors import QuaverError
from tune.checkpoint import MODEL_FILE, ModelMeta, export, load_state
from tune.config import SweepConfig, Variant, variants
from tune.run_folder import RUNS, Identity, Splits, begin, digest, folder, trained_on
from tune.training import EpochMetrics
from tune.trial import run_trial

# One checkpoint per trial: it carries the best weights too, and Tune then snapshots the sweep (and
# uploads its TensorBoard events) at each checkpoint instead of every ten seconds or later.
CHECKPOINTS_KEPT = 1
RESULTS_FILE = "results.json"


class SweepProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a sweep is."""

    finished_epochs: int  # Over all trials.
    total_epochs: int
    finished_trials: int
    total_trials: int
    best_value_bps: float | None  # Validation value captured of the best trial so far.


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    name: str
    params: dict[str, Any]
    metrics: EpochMetrics  # Of the last epoch, with the best epoch's value.


class SweepResult(msgspec.Struct, frozen=True, kw_only=True):
    """The table, and where the model of its best trial lies, relative to the storage root."""

    name: str
    best: str
    model_path: str
    trials: tuple[TrialResult, ...]  # In the order of the grid.


OnProgress = Callable[[SweepProgress], None]


def run_sweep(
    samples: CachedSamples,
    splits: Splits,
    config: SweepConfig,
    *,
    name: str,
    store: Store,
    products: tuple[str, ...],
    resume: bool = False,
    on_progress: OnProgress | None = None,
) -> SweepResult:
    """Run the grid on the Ray that is connected, export the best model and return the table.

    The best trial is the one with the highest validation value captured in any epoch, that epoch's
    weights are exported; the validation loss would not do, as objectives have different ones.
    `splits` has masks of `samples` under `train` and `validation`; `products` are the universe's
    ids by index. With `resume` the sweep of this name goes on, finished epochs are kept and
    finished trials not run again. QuaverError where the name is taken or unknown, another config or
    other data are given, or a trial failed or was interrupted.
    """
    grid = variants(config)
    _check(config, grid, name, products)
    train_part, validation_part = trained_on(samples.open(), splits)
    identity = Identity(
        config=config,
        products=products,
        trained=tuple(products[i] for i in train_part.products()),
        recipe=samples.recipe,
        data_sha256=digest(train_part, validation_part),
    )
    begin(store, name, identity, resume)
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(
            run_trial,
            configs={variant.name: variant.train for variant in grid},
            samples=samples,
            train_rows=train_part.rows,
            validation_rows=validation_part.rows,
        ),
        config.trial_resources,
    )
    progress = _Progress({variant.name: variant.train.epochs for variant in grid}, on_progress)
    with _contained():
        results = _tuner(trainable, grid, config, store, name, progress, resume).fit()
    return _finish(results, grid, identity, store, name)


class _Progress(ray_tune.Callback):
    """Calls `on_progress` whenever an epoch has finished.

    It looks at the trials after each step of Tune, not at single reports: an error in
    `on_progress` then ends the sweep instead of passing for an error of the trial.
    """

    def __init__(self, epochs: dict[str, int], on_progress: OnProgress | None) -> None:
        self._epochs = epochs
        self._on_progress = on_progress
        self._finished = -1

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into the sweep's folder; the caller's function stays out.
        return {**self.__dict__, "_on_progress": None}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Report if the number of finished epochs has changed."""
        reports = [trial.last_result for trial in trials if "epoch" in (trial.last_result or {})]
        finished = sum(report["epoch"] for report in reports)
        if self._on_progress is None or finished == self._finished:
            return
        self._finished = finished
        self._on_progress(
            SweepProgress(
                finished_epochs=finished,
                total_epochs=sum(self._epochs.values()),
                finished_trials=sum(report["is_last"] for report in reports),
                total_trials=len(self._epochs),
                best_value_bps=max((r["best_value_bps"] for r in reports), default=None),
            )
        )


def _tuner(
    trainable: Any,
    grid: list[Variant],
    config: SweepConfig,
    store: Store,
    name: str,
    progress: _Progress,
    resume: bool,
) -> ray_tune.Tuner:
    path, filesystem = store.full_path(folder(name)), None if store.is_local else store.filesystem
    if resume and ray_tune.Tuner.can_restore(path, storage_filesystem=filesystem):
        tuner = ray_tune.Tuner.restore(
            path, trainable=trainable, resume_errored=True, storage_filesystem=filesystem
        )
        # `restore` takes no callbacks, and brings back the pickled ones, which report to nobody.
        tuner._local_tuner.get_run_config().callbacks = [progress]
        return tuner
    return ray_tune.Tuner(
        trainable,
        param_space={"variant": ray_tune.grid_search([variant.name for variant in grid])},
        tune_config=ray_tune.TuneConfig(
            reuse_actors=True,  # A new worker imports torch and Ray for three seconds.
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=ray_tune.RunConfig(
            name=name,
            storage_path=store.full_path(RUNS),
            storage_filesystem=filesystem,
            failure_config=ray_tune.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray_tune.CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
            callbacks=[progress],
            verbose=0,
        ),
    )


def _trial_name(trial: Any) -> str:
    return str(trial.config["variant"])


def _finish(
    results: ray_tune.ResultGrid, grid: list[Variant], identity: Identity, store: Store, name: str
) -> SweepResult:
    """Check that all trials are complete, export the best one and write the table."""
    by_name = {result.config["variant"]: result for result in results if result.config}
    rows = _table(by_name, grid, name)
    best = max(rows, key=lambda row: row.metrics.best_value_bps)
    with by_name[best.name].checkpoint.as_directory() as directory:
        state = load_state(Path(directory))
    meta = ModelMeta(
        model=state.config.model,
        objective=state.config.objective,
        products=identity.products,
        trained=identity.trained,
        recipe=identity.recipe,
    )
    model_path = f"{folder(name)}/best/{MODEL_FILE}"
    store.write(model_path, export(state.best_weights, meta))
    result = SweepResult(name=name, best=best.name, model_path=model_path, trials=tuple(rows))
    content = msgspec.json.format(msgspec.json.encode(result))
    store.write(f"{folder(name)}/{RESULTS_FILE}", content)
    return result


def _table(
    by_name: dict[str, ray_tune.Result], grid: list[Variant], sweep: str
) -> list[TrialResult]:
    failed = [name for name, result in by_name.items() if result.error]
    if failed:
        result = by_name[failed[0]]
        raise QuaverError(
            f"sweep: {len(failed)} of {len(grid)} trials of {sweep} failed, first "
            f"{failed[0]}: {_last_line(result.error)}; see {result.path}/error.txt, mend "
            "it and go on with --resume"
        )
    rows = []
    for variant in grid:
        result = by_name.get(variant.name)
        metrics = result.metrics if result else None
        epoch = metrics.get("epoch", 0) if metrics else 0
        if result is None or metrics is None or not metrics.get("is_last"):
            raise QuaverError(
                f"sweep: {sweep} was interrupted ({variant.name} is at epoch {epoch} of "
                f"{variant.train.epochs}); go on with --resume"
            )
        fields = {field: metrics[field] for field in EpochMetrics.__struct_fields__}
        row = TrialResult(
            name=variant.name, params=variant.params, metrics=msgspec.convert(fields, EpochMetrics)
        )
        rows.append(row)
    return rows


def _check(config: SweepConfig, grid: list[Variant], name: str, products: tuple[str, ...]) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise QuaverError(f"sweep: the name {name!r} may hold letters, digits, '.', '_' and '-'")
    for variant in grid:
        if variant.train.model.products != len(products):
            raise QuaverError(
                f"sweep: the model is configured for {variant.train.model.products} products, the "
                f"universe has {len(products)}"
            )
    if "cpu" not in {key.lower() for key in config.trial_resources}:
        raise QuaverError("sweep: trial_resources must name cpu")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Keep Tune off the terminal, and the signals that it takes over only for its own time.

    What matters in its log comes back as a QuaverError. Its newer output prints a banner at every
    verbosity, its older one obeys `verbose=0`; this variable, read when a sweep starts, is the only
    switch between them. Its handler of Ctrl-C would stay and swallow the next one.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    switch = "RAY_AIR_NEW_OUTPUT"
    before = os.environ.get(switch)
    os.environ[switch] = "0"
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        os.environ.pop(switch)
        if before is not None:
            os.environ[switch] = before
