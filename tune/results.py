"""What a sweep leaves: the table of its trials, and the best one's model in a file of its own."""

from typing import Any

import msgspec
from ray import tune as ray_tune

from actors.patience import patiently
from actors.store import Store
from market.errors import QuaverError
from tune.checkpoint import MODEL_FILE, ModelMeta, export
from tune.config import SweepConfig
from tune.own_errors import reason
from tune.run_folder import Identity, folder
from tune.schedule import name_of, number_of, params_of
from tune.search import trials
from tune.significance import Significance, significance
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


def finish(
    results: ray_tune.ResultGrid, identity: Identity, store: Store, name: str
) -> SweepResult:
    """Check that all trials are over, export the best one and write the table."""
    rows = _table(results, identity.config, name)
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
    looks = [look for row in rows if row.metrics for look in row.metrics.history]
    result = SweepResult(
        name=name,
        best=best.name,
        model_path=model_path,
        significance=significance(
            looks, best.metrics.history[best.metrics.best_epoch - 1], len(rows)
        ),
        trials=tuple(rows),
    )
    content = msgspec.json.format(msgspec.json.encode(result))
    patiently(lambda: store.write(f"{folder(name)}/{RESULTS_FILE}", content))
    return result


def _table(results: ray_tune.ResultGrid, config: SweepConfig, sweep: str) -> list[TrialResult]:
    """Return the trials by number; QuaverError unless all have run and one has not failed."""
    rows = [_row(result, config) for result in sorted(results, key=number_of)]
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
    return rows


def _row(result: ray_tune.Result, config: SweepConfig) -> TrialResult:
    reported = result.metrics or {}
    metrics, params = None, params_of(result)
    if "epoch" in reported:
        fields = {field: reported[field] for field in EpochMetrics.__struct_fields__}
        metrics = msgspec.convert(fields, EpochMetrics)
    error = f"{reason(result.error)}; see {result.path}/error.txt" if result.error else ""
    return TrialResult(
        name=name_of(result),
        params=params,
        metrics=metrics,
        stopped_early=not error and metrics is not None and not metrics.is_last,
        seconds=reported.get("time_total_s", 0.0),
        error=error,
    )
