"""Which failures end a trial: errors of its own that come again, never the loss of a machine.

A worker that dies on a living machine may be no fault of the trial's, but a trial that needs more
memory than there is kills each of its workers: many such deaths within an epoch end it too. Tune
counts all alike and only knows one bound for their sum, so it is given none, and this callback sets
one on the trial that is to end.
"""

import pickle
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.exceptions import RayActorError

MAX_DEATHS = 10  # Of workers, within an epoch.
_NO_BOUND = -1
_DEATH = "its worker process has died"  # Ray's words; of a lost machine it says that.


class OwnErrors(ray_tune.Callback):
    """Lets Tune give a trial up at its next failure, once it had too many errors of its own."""

    def __init__(self, max_failures: int) -> None:
        self._max_failures = max_failures
        self._epochs: dict[str, int] = {}  # Highest reported, by trial.
        self._errors: dict[str, int] = {}  # Since then.
        self._deaths: dict[str, int] = {}

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
        elif _DEATH in str(error):
            self._deaths[trial.trial_id] += 1
        failed = self._errors[trial.trial_id] > self._max_failures
        if failed or self._deaths[trial.trial_id] >= MAX_DEATHS:
            trial.max_failures = 0

    def _progressed(self, trial: Any) -> None:
        self._errors[trial.trial_id] = self._deaths[trial.trial_id] = 0
        trial.max_failures = _NO_BOUND


def reason(error: Exception) -> str:
    """Return in a line why a trial was given up."""
    if isinstance(error, RayActorError) and _DEATH in str(error):
        return "its workers died again and again within an epoch, mostly a want of memory"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _error(trial: Any) -> Exception | None:
    """Return what a trial failed of."""
    # Tune keeps no other note of it.
    if trial.pickled_error_file is None:
        return None
    found = pickle.loads(Path(trial.pickled_error_file).read_bytes())
    assert isinstance(found, Exception)
    return found
