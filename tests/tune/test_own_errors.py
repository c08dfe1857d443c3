"""Losses never end a trial; an error of its own does, once it comes again in the same epoch."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayTaskError

from tune.own_errors import MAX_DEATHS, OwnErrors, kills_are_deaths, reason

LOST = ActorUnavailableError("the node is gone", None)
LOST_TOO = RayActorError(error_msg="The actor died because its node has died.")
DIED = RayActorError(error_msg="The actor is dead because its worker process has died. Worker exit")
KILLED = RayActorError(error_msg="1 worker(s) were killed due to the node running low on memory.")
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


@pytest.mark.parametrize("death", [DIED, KILLED])
def test_a_trial_that_kills_its_workers_is_given_up(tune: Tune, death: Exception) -> None:
    for epoch in range(1, 4):
        for _ in range(MAX_DEATHS - 1):
            tune.fail(death)
        tune.report(epoch)
    for _ in range(MAX_DEATHS):
        tune.fail(death)
        assert not tune.ended
    tune.fail(death)
    assert tune.ended
    assert "memory" in reason(death)


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


@pytest.mark.parametrize("error", [LOST, LOST_TOO, DIED, KILLED, BROKEN])
def test_a_worker_that_is_lost_before_its_trial_has_ever_started_is_restarted(
    tmp_path: Path, error: Exception
) -> None:
    """Tune calls on_trial_start only once the worker is up."""
    tune = Tune(tmp_path, 1)
    tune.fail(error)
    assert not tune.ended


def test_a_worker_that_ray_kills_for_memory_is_one_that_has_died() -> None:
    """Ray's own error for it would end Tune's loop, or its words be lost."""
    seen: list[Exception] = []
    tracked: Any = SimpleNamespace(
        actor_id="one", _on_error=lambda _, error: seen.append(error), _tracked_actor=None
    )
    tracked._tracked_actor = tracked
    manager: Any = RayActorManager(resource_manager=SimpleNamespace())
    manager._cleanup_actor = lambda **_: None
    killed = OutOfMemoryError(str(KILLED))
    with kills_are_deaths():
        manager._actor_start_failed(tracked_actor=tracked, exception=killed)
        manager._actor_task_failed(tracked_actor_task=tracked, exception=killed)
    assert [type(error) for error in seen] == [RayActorError] * 3
    assert {str(error) for error in seen} == {str(KILLED)}
    with pytest.raises(RuntimeError):
        manager._actor_task_failed(tracked_actor_task=tracked, exception=killed)
