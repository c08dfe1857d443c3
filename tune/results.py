"""What a sweep leaves: the table of its trials, and the best one's model in a file of its own."""

from typing import Any

import msgspec
from ray import tune as ray_tune
from ray.tune.experiment import Trial

from actors.patience import patiently
from actors.store import Store
from market.errors import QuaverError
from tune.checkpoint import MODEL_FILE, ModelMeta, export
from tune.config import SweepConfig
from tune.own_errors import reason
from tune.run_folder import Identity, folder
from tune.schedule import name_of, number_of, params_of
from tune.search import trials
from tune.significance import Look, Significance, significance
from tune.training import EpochMetrics
from tune.trial_state import TrialFile

RESULTS_FILE = "results.json"


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    name: str
    params: dict[str, Any]
    metrics: EpochMetrics | None  # Of the last epoch, with the best epoch's value; None: no epoch.
    stopped_early: bool
    seconds: float  # Of training.
    error: str = ""  # Why it failed.


class SweepResult(msgspec.Struct, frozen=True, kw_only=True):
    """The table, and where the model of its best trial lies, relative to the storage root."""

    name: str
    best: str
    model_path: str
    significance: Significance | None  # Of the best; None where validation is too short.
    trials: tuple[TrialResult, ...]  # As numbered.


def load_result(store: Store, name: str) -> SweepResult:
    """Return the table of a finished sweep; QuaverError where it cannot be read."""
    path = f"{folder(name)}/{RESULTS_FILE}"
    try:
        return msgspec.json.decode(store.read(path), type=SweepResult)
    except (FileNotFoundError, msgspec.DecodeError) as e:
        raise QuaverError(
            f"{path} under {store.root} cannot be read ({e}); quaver sweep --resume writes it anew"
        ) from None


def finish(
    results: ray_tune.ResultGrid, identity: Identity, store: Store, name: str
) -> SweepResult:
    """Check that all trials are over, export the best one and write the table."""
    rows, looks = _table(results, identity.config, name)
    judged = [row for row in rows if row.metrics and not row.error]
    best = max(judged, key=lambda row: row.metrics.best_value_bps)
    state = TrialFile(store, f"{folder(name)}/{best.name}").load()
    assert state is not None, "it was saved before it was reported"
    meta = ModelMeta(
        model=state.config.model,
        objective=state.config.objective,
        products=identity.products,
        trained=identity.trained,
        recipe=identity.recipe,
    )
    model_path = f"{folder(name)}/best/{MODEL_FILE}"
    model = export(state.best_weights, meta)
    patiently(lambda: store.write(model_path, model))
    result = SweepResult(
        name=name,
        best=best.name,
        model_path=model_path,
        significance=significance(
            [look for mine in looks.values() for look in mine],
            looks[best.name][best.metrics.best_epoch - 1],
            len(rows),
        ),
        trials=tuple(rows),
    )
    content = msgspec.json.format(msgspec.json.encode(result))
    patiently(lambda: store.write(f"{folder(name)}/{RESULTS_FILE}", content))
    return result


def _table(
    results: ray_tune.ResultGrid, config: SweepConfig, sweep: str
) -> tuple[list[TrialResult], dict[str, list[Look]]]:
    """Return the trials by number, and the looks of each.

    QuaverError unless all have run and one has not failed.
    """
    # A result knows no config where no worker of its trial has ever come up.
    found = zip(results._experiment_analysis.trials, results, strict=True)
    found = sorted(found, key=lambda pair: number_of(pair[0]))
    rows = [_row(*pair) for pair in found]
    begun = [row for row in rows if row.metrics or row.error]
    if len(begun) < trials(config):
        raise QuaverError(
            f"sweep: {sweep} was interrupted ({len(begun)} of {trials(config)} trials have begun); "
            "go on with --resume"
        )
    failed = [row for row in rows if row.error]
    if len(failed) == len(rows):
        raise QuaverError(
            f"sweep: all {len(rows)} trials of {sweep} failed, first {failed[0].name}: "
            f"{failed[0].error}; mend it and go on with --resume"
        )
    looks = {
        name_of(trial): msgspec.convert((result.metrics or {}).get("history", ()), list[Look])
        for trial, result in found
    }
    return rows, looks


def _row(trial: Trial, result: ray_tune.Result) -> TrialResult:
    reported = result.metrics or {}
    metrics = None
    if "epoch" in reported:
        fields = {**reported, "look": reported["history"][-1]}
        metrics = msgspec.convert(fields, EpochMetrics)  # Tune's own are left out.
    error = f"{reason(result.error)}; see {result.path}/error.txt" if result.error else ""
    return TrialResult(
        name=name_of(trial),
        params=params_of(trial),
        metrics=metrics,
        stopped_early=not error and metrics is not None and not metrics.is_last,
        seconds=reported.get("time_total_s", 0.0),
        error=error,
    )
