"""Losses never end a trial; an error of its own does, once it comes again in the same epoch."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from tune.own_errors import MAX_DEATHS, OwnErrors, reason

LOST = ActorUnavailableError("the node is gone", None)
LOST_TOO = RayActorError(error_msg="The actor died because its node has died.")
DIED = RayActorError(error_msg="The actor is dead because its worker process has died. Worker exit")
OWN = RayTaskError("train", "Traceback: the loss is not finite", ValueError("not finite"))
BROKEN = RayActorError(error_msg="cannot be imported there", actor_init_failed=True)


class Tune:
    """What Tune does with a trial, as far as it asks about failures."""

    def __init__(self, folder: Path, max_failures: int) -> None:
        self._callback = OwnErrors(max_failures)
        self.trial: Any = SimpleNamespace(
            trial_id="one", max_failures=-1, pickled_error_file=str(folder / "error.pkl")
        )
        self.failures, self.ended = 0, False

    def start(self) -> None:
        self._callback.on_trial_start(0, [self.trial], self.trial)

    def report(self, epoch: int) -> None:
        self._callback.on_trial_result(0, [self.trial], self.trial, {"epoch": epoch})

    def fail(self, error: Exception) -> None:
        Path(self.trial.pickled_error_file).write_bytes(pickle.dumps(error))
        self.failures += 1
        bound = self.trial.max_failures
        if bound >= 0 and self.failures > bound:
            self.ended = True
            return
        self._callback.on_trial_recover(0, [self.trial], self.trial)
        self.start()


@pytest.fixture
def tune(tmp_path: Path) -> Tune:
    """A trial that is started and may fail once by itself."""
    found = Tune(tmp_path, 1)
    found.start()
    return found


def test_lost_machines_are_not_counted(tune: Tune) -> None:
    for _ in range(50):
        tune.fail(LOST)
        tune.fail(LOST_TOO)
    assert not tune.ended


def test_a_trial_that_kills_its_workers_is_given_up(tune: Tune) -> None:
    for epoch in range(1, 4):
        for _ in range(MAX_DEATHS - 1):
            tune.fail(DIED)
        tune.report(epoch)
    for _ in range(MAX_DEATHS):
        tune.fail(DIED)
        assert not tune.ended
    tune.fail(DIED)
    assert tune.ended
    assert "memory" in reason(DIED)


@pytest.mark.parametrize("error", [OWN, BROKEN])
def test_an_error_that_comes_twice_in_an_epoch_ends_the_trial_at_its_next_failure(
    tune: Tune, error: Exception
) -> None:
    for another in (error, LOST, error):
        tune.fail(another)
        assert not tune.ended
    tune.fail(error)
    assert tune.ended


def test_an_epoch_in_between_forgives(tune: Tune) -> None:
    for epoch in range(1, 20):
        tune.fail(OWN)
        tune.report(epoch)
    assert not tune.ended


def test_an_epoch_that_is_reported_again_does_not(tune: Tune) -> None:
    tune.report(3)
    for _ in range(2):
        tune.fail(OWN)
        tune.report(3)
    tune.fail(OWN)
    assert tune.ended


def test_a_sweep_that_goes_on_begins_anew_with_a_trial_that_has_ended(tune: Tune) -> None:
    tune.trial.max_failures = 0
    again = OwnErrors(1)
    again.on_trial_start(0, [tune.trial], tune.trial)
    assert tune.trial.max_failures == -1
