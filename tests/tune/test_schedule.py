"""The next trial, and whether to stop one, follow from Tune's table of trials alone."""

from types import SimpleNamespace

import msgspec
import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from tune.config import AshaConfig, SweepConfig, TrainConfig
from tune.schedule import Halving, Suggestions, trial_config
from tune.search import variant

EPOCHS = 9


class OneTrial(SimpleNamespace):
    """What is looked at of one of Tune's trials."""

    def is_finished(self) -> bool:
        return self.status in (Trial.TERMINATED, Trial.ERROR)

    def set_status(self, status: str) -> None:
        self.status = status


def trial(config: dict, values: list[float], status: str, done: bool = False) -> OneTrial:
    """Return a trial after epochs with these values."""
    result = {"epoch": len(values), "best_value_bps": max(values), "done": done}
    result["history"] = [[value] for value in values]
    name = config["trial"]["name"]
    return OneTrial(config=config, status=status, trial_id=name, last_result=result)


@pytest.fixture
def optuna(small: TrainConfig) -> SweepConfig:
    space = {"learning_rate": {"log": [1e-5, 1.0]}}
    return SweepConfig(train=small, space=space, search="optuna", samples=15)


def test_the_next_trial_of_a_killed_sweep_is_the_one_that_it_would_have_made(optuna) -> None:
    known: list[OneTrial] = []
    for index in range(14):
        config = trial_config(optuna, index, known)
        known.append(trial(config, [float(index % 5)], Trial.TERMINATED))
    known[3].status = Trial.ERROR
    known[3].last_result["best_value_bps"] = 99.0  # Of a trial that failed nothing is learnt.
    undisturbed = trial_config(optuna, 14, known)
    finished = [
        (one.config["trial"]["params"], float(index % 5))
        for index, one in enumerate(known)
        if index != 3
    ]
    assert undisturbed["trial"]["params"] == variant(optuna, 14, finished).params
    after = Suggestions(optuna)
    after.watch(known[::-1])  # Tune restores them in the order of their last results.
    assert after.searcher.suggest("any") == undisturbed
    assert not after.is_finished()
    known.append(trial(undisturbed, [1.0], Trial.RUNNING))
    after.watch(known)
    assert after.is_finished()


@pytest.fixture
def halving(small: TrainConfig) -> SweepConfig:
    return SweepConfig(
        train=msgspec.structs.replace(small, epochs=EPOCHS),
        space={"learning_rate": {"log": [1e-5, 1.0]}},
        samples=9,
        asha=AshaConfig(enabled=True, grace_epochs=1, reduction=3),
    )


def judged(scheduler: Halving, runs: list[list[float]], config: SweepConfig) -> list[int]:
    """Run trials one after the other as Tune does; return after how many epochs each ends."""
    ends = []
    for index, values in enumerate(runs):
        run = trial(trial_config(config, index), values[:1], Trial.RUNNING)
        scheduler.on_trial_add(None, run)
        for epoch in range(1, len(values) + 1):
            result = {"epoch": epoch, "best_value_bps": max(values[:epoch])}
            if scheduler.on_trial_result(None, run, result) == TrialScheduler.STOP:
                break
        scheduler.on_trial_complete(None, run, result)
        ends.append(epoch)
    return ends


def test_trials_that_fall_behind_are_stopped_at_the_comparisons(halving) -> None:
    runs = [[5.0] * EPOCHS, [1.0] * EPOCHS, [6.0, 6.0, 4.0, *[6.0] * 6], [5.2] * EPOCHS]
    # The last is behind the upper third of 5, 1 and 6 after its first epoch.
    assert judged(Halving(halving), runs, halving) == [9, 1, 9, 1]


def test_a_restored_scheduler_judges_as_the_one_that_was_killed(halving) -> None:
    rising = [5.5, 6.0, 7.0, *[8.0] * 6]
    runs = [[5.0] * EPOCHS, [1.0] * EPOCHS, rising, [0.0, 8.0, 8.0, *[8.0] * 6]]
    undisturbed = Halving(halving)
    ends = judged(undisturbed, runs, halving)
    restored = Halving(halving)
    for index, (values, end) in enumerate(zip(runs, ends, strict=True)):
        restored.on_trial_add(
            None, trial(trial_config(halving, index), values[:end], Trial.TERMINATED)
        )
    rungs = [[b._rungs for b in scheduler._brackets] for scheduler in (undisturbed, restored)]
    assert rungs[0] == rungs[1]


def test_an_epoch_that_a_kill_left_unjudged_is_judged_at_the_next_report(halving) -> None:
    scheduler = Halving(halving)
    for index, value in enumerate([5.0, 6.0, 7.0]):
        scheduler.on_trial_add(
            None, trial(trial_config(halving, index), [value] * EPOCHS, Trial.TERMINATED)
        )
    behind = trial(trial_config(halving, 3), [1.0], Trial.PENDING)
    scheduler.on_trial_add(None, behind)
    result = {"epoch": 2, "best_value_bps": 1.0}
    assert scheduler.on_trial_result(None, behind, result) == TrialScheduler.STOP


def test_a_stop_that_a_kill_left_unnoted_is_noted(halving) -> None:
    stopped = trial(trial_config(halving, 0), [1.0], Trial.PENDING, done=True)
    scheduler = Halving(halving)
    scheduler.on_trial_add(None, stopped)
    assert stopped.status == Trial.TERMINATED
    assert scheduler._brackets[0]._rungs[-1] == (1, {stopped.trial_id: 1.0})
