"""Which failures end a trial: errors of its own that come again, never the loss of a machine.

A worker that dies on a living machine may be no fault of the trial's, but a trial that needs more
memory than there is kills each of its workers, or has Ray kill them: many such deaths within an
epoch end it too. Tune counts all alike and only knows one bound for their sum, so it is given none,
and this callback sets one on the trial that is to end.
"""

import contextlib
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError

MAX_DEATHS = 10  # Of workers, within an epoch.
_NO_BOUND = -1
# Ray's words; of a lost machine it says that.
_DIED, _KILLED = "its worker process has died", "due to the node running low on memory"


class OwnErrors(ray_tune.Callback):
    """Lets Tune give a trial up at its next failure, once it had too many errors of its own."""

    def __init__(self, max_failures: int) -> None:
        self._max_failures = max_failures
        self._epochs: dict[str, int] = {}  # Highest reported, by trial.
        self._errors: dict[str, int] = defaultdict(int)  # Since then.
        self._deaths: dict[str, int] = defaultdict(int)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Begin anew with a trial of a sweep that goes on."""
        if trial.trial_id not in self._epochs:
            self._epochs[trial.trial_id] = 0
            self._progressed(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Forget the errors of a trial that has finished another epoch."""
        epoch = result.get("epoch", 0)
        if epoch > self._epochs[trial.trial_id]:
            self._epochs[trial.trial_id] = epoch
            self._progressed(trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count an error; the trial is being restarted."""
        error = _error(trial)
        if not isinstance(error, RayActorError) or error.actor_init_failed:
            self._errors[trial.trial_id] += 1
        elif _DIED in str(error) or _KILLED in str(error):
            self._deaths[trial.trial_id] += 1
        failed = self._errors[trial.trial_id] > self._max_failures
        if failed or self._deaths[trial.trial_id] >= MAX_DEATHS:
            trial.max_failures = 0

    def _progressed(self, trial: Any) -> None:
        self._errors[trial.trial_id] = self._deaths[trial.trial_id] = 0
        trial.max_failures = _NO_BOUND


def reason(error: Exception) -> str:
    """Return in a line why a trial was given up."""
    if isinstance(error, RayActorError) and _DIED in str(error):
        return "its workers died again and again within an epoch, mostly a want of memory"
    if isinstance(error, RayActorError) and _KILLED in str(error):
        return (
            "Ray killed its workers again and again within an epoch for want of memory; let fewer "
            "trials share a machine (trial_resources), or lower batch_size or the model's sizes"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def kills_are_deaths() -> Iterator[None]:
    """Have Tune take a worker that Ray kills for want of memory for one that has died.

    Ray has an error of its own for it, at which Tune ends its loop, or, where the worker was still
    starting, does not keep what the error was.
    """
    names = ("_actor_task_failed", "_actor_start_failed")
    methods = {name: getattr(RayActorManager, name) for name in names}
    for name, method in methods.items():
        setattr(RayActorManager, name, _with_deaths(method))
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(RayActorManager, name, method)


def _with_deaths(method: Callable[..., None]) -> Callable[..., None]:
    def failed(manager: RayActorManager, *, exception: Exception, **tracked: Any) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=str(exception))
        method(manager, exception=exception, **tracked)

    return failed


def _error(trial: Any) -> Exception | None:
    """Return what a trial failed of."""
    # Tune keeps no other note of it.
    if trial.pickled_error_file is None:
        return None
    found = pickle.loads(Path(trial.pickled_error_file).read_bytes())
    assert isinstance(found, Exception)
    return found
