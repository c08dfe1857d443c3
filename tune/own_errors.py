"""Which failures end a trial: errors of its own that come again, never the loss of a machine.

Tune counts both alike and only knows one bound for their sum, so it is given none, and this
callback sets one on the trial that is to end.
"""

import pickle
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.exceptions import RayActorError

_NO_BOUND = -1


class OwnErrors(ray_tune.Callback):
    """Lets Tune give a trial up at its next failure, once it had too many errors of its own."""

    def __init__(self, max_failures: int) -> None:
        self._max_failures = max_failures
        self._epochs: dict[str, int] = {}  # Highest reported, by trial.
        self._errors: dict[str, int] = {}  # Since then.

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
        if _is_loss(trial):
            return
        self._errors[trial.trial_id] += 1
        if self._errors[trial.trial_id] > self._max_failures:
            trial.max_failures = 0

    def _progressed(self, trial: Any) -> None:
        self._errors[trial.trial_id] = 0
        trial.max_failures = _NO_BOUND


def _is_loss(trial: Any) -> bool:
    """Whether a trial failed because its worker or machine is gone."""
    # Tune keeps no other note of what it was.
    if trial.pickled_error_file is None:
        return False
    error = pickle.loads(Path(trial.pickled_error_file).read_bytes())
    return isinstance(error, RayActorError) and not error.actor_init_failed
