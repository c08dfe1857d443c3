"""Tune's own files are no obstacle to a sweep that goes on: cut short, damaged or gone."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.store import Store
from tests.tune.small_sweep import stopped
from tune.config import AshaConfig, SweepConfig
from tune.snapshot import restorable
from tune.sweep import SweepProgress, run_sweep
from tune.trial_state import FILE, Epoch, TrialFile

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TABLE = "experiment_state-*"


def _search(grid: SweepConfig) -> SweepConfig:
    """Return a search that learns and halves, one trial at a time."""
    return msgspec.structs.replace(
        grid,
        train=msgspec.structs.replace(grid.train, epochs=4),
        space={"learning_rate": {"log": [1e-5, 1e-1]}, "objective": {"choice": ["mse", "bce"]}},
        search="optuna",
        samples=5,
        asha=AshaConfig(enabled=True, grace_epochs=1, reduction=2),
        trial_resources={"cpu": 2},
    )


def _grid(grid: SweepConfig) -> SweepConfig:
    return msgspec.structs.replace(grid, train=msgspec.structs.replace(grid.train, epochs=6))


def newer_tables_are_cut_short_or_empty_and_logs_are_cut_short(folder: Path) -> None:
    newest = max(folder.glob(TABLE))
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    empty = b'{"trial_data": [], "runner_data": {}, "stats": {}}'
    newest.with_name("experiment_state-2999-01-01_00-00-00.json").write_bytes(empty)
    for path in folder.glob("*/*"):
        if path.name != FILE:
            path.write_bytes(path.read_bytes()[:9])


def searcher_and_settings_are_cut_short(folder: Path) -> None:
    for path in (folder / "tuner.pkl", *_states(folder)):
        path.write_bytes(path.read_bytes()[:9])


def the_searcher_is_gone(folder: Path) -> None:
    for path in _states(folder):
        path.unlink()


def tables_are_damaged_and_all_else_is_gone(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.match(TABLE):
            whole = path.read_bytes()
            path.write_bytes(whole.replace(b'"trial_data": [[', b'"trial_data": [{', 1))
            assert path.read_bytes() != whole
        elif path.is_file() and path.name not in (FILE, "sweep.json"):
            path.unlink()


# Each with whether Tune can go on from its own files, in a grid and in a search.
DAMAGES: tuple[tuple[Callable[[Path], None], bool, bool], ...] = (
    (newer_tables_are_cut_short_or_empty_and_logs_are_cut_short, True, True),
    (searcher_and_settings_are_cut_short, True, False),
    (the_searcher_is_gone, True, False),
    (tables_are_damaged_and_all_else_is_gone, False, False),
)


def _states(folder: Path) -> list[Path]:
    found = [*folder.glob("basic-variant-state-*"), *folder.glob("search_gen_state-*")]
    assert found
    return found


def _epochs(store: Store, folder: Path) -> dict[str, tuple[Epoch, ...]]:
    """Return what each trial has stored, with the seconds that it took."""
    found = {}
    for path in folder.glob(f"*/{FILE}"):
        state = TrialFile(store, f"runs/grid/{path.parent.name}").read()
        assert state is not None
        found[path.parent.name] = state.epochs
    return found


def _interrupted(sweep: dict[str, Any], epochs: int, **more: Any) -> None:
    """Run a sweep until so many epochs are finished."""

    def interrupt(progress: Any) -> None:
        if progress.finished_epochs >= epochs:
            signal.raise_signal(signal.SIGINT)

    assert "--resume" in stopped(**sweep, **more, on_progress=interrupt)


@pytest.mark.parametrize("of", [_grid, _search])
def test_a_sweep_goes_on_whatever_has_become_of_tunes_files(
    ray_local: None,
    sweep: dict[str, Any],
    tmp_path: Path,
    of: Callable[[SweepConfig], SweepConfig],
) -> None:
    sweep["config"] = config = of(sweep["config"])
    undisturbed = run_sweep(**{**sweep, "store": Store(str(tmp_path / "undisturbed"))})
    _interrupted(sweep, 3)
    _interrupted(sweep, 6, resume=True)
    store, folder, kept = sweep["store"], tmp_path / "runs" / "grid", tmp_path / "kept"
    assert restorable(store, "runs/grid", config) and len(list(folder.glob(TABLE))) == 2
    shutil.copytree(folder, kept)
    stored = _epochs(store, folder)
    assert 6 <= sum(map(len, stored.values())) < sum(r.metrics.epoch for r in undisturbed.trials)
    for damage, *goes_on in DAMAGES:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        damage(folder)
        if damage is the_searcher_is_gone:  # Which is all that is left where it was cut short.
            assert restorable(store, "runs/grid", config) is goes_on[of is _search]
            continue
        seen: list[SweepProgress] = []
        result = run_sweep(**sweep, resume=True, on_progress=seen.append)
        # From Tune's table, or trial by trial from their own files.
        assert (seen[0].finished_epochs >= 3) is goes_on[of is _search], damage.__name__
        rows = [(row.name, row.metrics, row.stopped_early, row.error) for row in result.trials]
        wanted = [(r.name, r.metrics, r.stopped_early, "") for r in undisturbed.trials]
        assert rows == wanted, damage.__name__
        after = _epochs(store, folder)
        for name, epochs in stored.items():  # Not trained again: that would take other seconds.
            assert after[name][: len(epochs)] == epochs, damage.__name__
