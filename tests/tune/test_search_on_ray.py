"""A search on a real Ray: its driver is killed, a trial diverges, no node fits."""

import contextlib
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import ray
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from actors.store import Store
from datasets.splits import split_by_time
from market.errors import QuaverError
from tests.tune.small_sweep import PRODUCTS, under
from tests.tune.test_schedule import OneTrial
from tune.config import AshaConfig, SweepConfig
from tune.results import SweepResult
from tune.run_folder import trained_on
from tune.schedule import Halving, trial_config
from tune.search import configured, trials
from tune.significance import significance
from tune.sweep import run_sweep
from tune.training import EpochMetrics, train
from tune.trial_state import FILE

pytestmark = pytest.mark.ray


@pytest.fixture
def sweep(make_samples, small, tmp_path, tmp_path_factory) -> dict[str, Any]:
    """Return the arguments of a search of six trials that learns, one at a time, with halving."""
    cached = under(tmp_path_factory.mktemp("data"), make_samples(2000))
    config = SweepConfig(
        train=msgspec.structs.replace(small, epochs=4),
        space={"learning_rate": {"log": [1e-5, 1e-1]}, "objective": {"choice": ["mse", "bce"]}},
        search="optuna",
        samples=6,
        asha=AshaConfig(enabled=True, grace_epochs=1, reduction=2),
        trial_resources={"cpu": 2},
        max_failures=0,
    )
    return {
        "samples": cached,
        "splits": split_by_time(cached.open().beat),
        "config": config,
        "name": "search",
        "products": PRODUCTS,
        "store": Store(str(tmp_path)),
    }


def by_hand(sweep: dict[str, Any]) -> list[tuple[str, list[EpochMetrics]]]:
    """Return the trials and the metrics of their epochs, without Tune and without a kill."""
    config, parts = sweep["config"], trained_on(sweep["samples"].open(), sweep["splits"])
    scheduler, known = Halving(config), []
    for index in range(trials(config)):
        tried = trial_config(config, index, known)
        run = OneTrial(config=tried, trial_id=str(index), status=Trial.RUNNING, last_result=None)
        run.metrics = []
        scheduler.on_trial_add(None, run)

        def judge(metrics: EpochMetrics, _: object, run: OneTrial = run) -> None:
            run.metrics.append(metrics)
            run.last_result = msgspec.structs.asdict(metrics)
            if scheduler.on_trial_result(None, run, run.last_result) == TrialScheduler.STOP:
                raise StopIteration

        with contextlib.suppress(StopIteration):
            train(*parts, configured(config.train, tried["trial"]["params"]), on_epoch=judge)
        scheduler.on_trial_complete(None, run, run.last_result)
        run.status = Trial.TERMINATED
        known.append(run)
    return [(run.config["trial"]["name"], run.metrics) for run in known]


def killed(sweep: dict[str, Any], finished_trials: int, folder: Path) -> None:
    """Run the sweep in a process of its own, and kill it once so many trials are finished."""
    (folder / "arguments").write_bytes(pickle.dumps(sweep))
    script = Path(__file__).with_name("driven_sweep.py")
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, str(script), address, str(folder / "arguments")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.strip().isdigit() and int(line) >= finished_trials:
                return
        pytest.fail("the sweep ended before it was killed")
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()


@pytest.mark.slow
def test_a_search_whose_driver_is_killed_ends_as_an_undisturbed_one(
    ray_local, sweep, tmp_path, tmp_path_factory
) -> None:
    killed(sweep, 2, tmp_path_factory.mktemp("driver"))
    seen = []
    result = run_sweep(**sweep, resume=True, on_progress=seen.append)
    # Tune may not have noted the trials of the last seconds; they report again, from their files.
    assert seen[-1].finished_trials == 6
    assert max(now.running_trials for now in seen) == 1
    wanted = by_hand(sweep)
    assert [(row.name, row.metrics) for row in result.trials] == [
        (name, epochs[-1]) for name, epochs in wanted
    ]
    assert any(row.stopped_early for row in result.trials)
    states = (tmp_path / "runs" / "search").glob(f"*/{FILE}")
    assert {path.parent.name for path in states} == {name for name, _ in wanted}
    looks = [metrics.look for _, epochs in wanted for metrics in epochs]
    best = max((epochs for _, epochs in wanted), key=lambda epochs: epochs[-1].best_value_bps)
    assert result.significance == significance(looks, best[best[-1].best_epoch - 1].look, 6)
    stored = msgspec.json.decode(
        (tmp_path / "runs" / "search" / "results.json").read_bytes(), type=SweepResult
    )
    assert stored == result


@pytest.mark.slow
def test_a_trial_that_diverges_is_a_row_of_the_table_not_the_end(ray_local, sweep) -> None:
    sweep["config"] = SweepConfig(
        train=msgspec.structs.replace(sweep["config"].train, epochs=1),
        space={"learning_rate": [1e-2, 1e30]},
        max_failures=0,
    )
    result = run_sweep(**sweep)
    good, bad = result.trials
    assert result.best == good.name and not good.error
    assert bad.metrics is None and "the loss is not finite in epoch 1" in bad.error
    assert result.significance is not None and result.significance.trials == 2


@pytest.mark.slow
def test_no_node_with_what_a_trial_asks_for_is_said_after_seconds(
    ray_local, sweep, tmp_path
) -> None:
    resources = {"cpu": 1.0, "spot": 1.0}
    sweep["config"] = msgspec.structs.replace(
        sweep["config"], trial_resources=resources, wait_for_node_s=4.0
    )
    began = time.monotonic()
    with pytest.raises(QuaverError, match=r"asks for 1 CPU, 1 spot, but a node has .* 0 spot"):
        run_sweep(**sweep, can_grow=False)
    assert time.monotonic() - began < 5
    assert not list(tmp_path.iterdir())
    seen = []
    with pytest.raises(QuaverError, match=r"0 spot.*waited [4-9] s"):
        run_sweep(**sweep, on_progress=seen.append)
    warnings = [now.warning for now in seen if now.warning]
    assert warnings and "waiting for a node: a trial asks for 1 CPU, 1 spot" in warnings[0]
