"""What Ray Tune asks while a sweep runs: the next trial, and whether to stop one.

Both answer from the table of trials that Tune restores, and keep nothing else: a sweep whose driver
was killed asks on as if nothing had happened. (Tune does not save its schedulers at all, and saves
its searchers beside the table, not with it.)
"""

from collections.abc import Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from tune.config import SweepConfig
from tune.search import most_epochs, trials, variant


def trial_config(config: SweepConfig, index: int, known: Sequence[Trial] = ()) -> dict[str, Any]:
    """Return what Tune calls the config of trial `index`; `known` are the trials before it."""
    finished = [
        (params_of(trial), trial.last_result["best_value_bps"])
        for trial in sorted(known, key=number_of)
        if trial.status == Trial.TERMINATED
    ]
    found = variant(config, index, finished)
    return {"trial": {"name": found.name, "params": found.params}}


def name_of(trial: Trial) -> str:
    """Return the name of a trial, which is its folder."""
    return str(trial.config["trial"]["name"])


def number_of(trial: Trial) -> int:
    """Return which trial this is, from 0; names begin with it."""
    return int(name_of(trial).split("_")[0])


def params_of(trial: Trial) -> dict[str, Any]:
    """Return what a trial tries, by dotted path."""
    return dict(trial.config["trial"]["params"])


class Suggestions(SearchGenerator):
    """The trials of a search that learns, made one by one; `watch` before it is asked."""

    def __init__(self, config: SweepConfig) -> None:
        super().__init__(_Suggester(config))
        self._trials = trials(config)

    def watch(self, known: list[Trial]) -> None:
        """Take Tune's own list of trials, which grows."""
        self.searcher.known = known

    def is_finished(self) -> bool:
        """Return whether all trials have been made."""
        return len(self.searcher.known) >= self._trials


class _Suggester(Searcher):
    """Has no state of its own, so there is nothing to save."""

    def __init__(self, config: SweepConfig) -> None:
        super().__init__()
        self.known: list[Trial] = []
        self._config = config

    def suggest(self, trial_id: str) -> dict[str, Any]:
        return trial_config(self._config, len(self.known), self.known)

    def on_trial_complete(self, *_: object, **__: object) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        pass


class Halving(ASHAScheduler):
    """Stops trials that fall behind at 1, r, r^2, ... times `grace_epochs`."""

    def __init__(self, config: SweepConfig) -> None:
        super().__init__(
            time_attr="epoch",
            metric="best_value_bps",
            mode="max",
            max_t=most_epochs(config),
            grace_period=config.asha.grace_epochs,
            reduction_factor=config.asha.reduction,
        )

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Take a trial; where it is restored, what it had reached at each comparison."""
        super().on_trial_add(tune_controller, trial)
        result = trial.last_result or {}
        if result.get("done") and trial.status == Trial.PENDING:
            trial.set_status(Trial.TERMINATED)  # Its driver was killed before it noted the stop.
        values = [look[0] for look in result.get("history", ())]
        # The last epoch of one that goes on may be unjudged: that is done when it reports again.
        judged = len(values) if trial.is_finished() else len(values) - 1
        for epochs, reached in self._trial_info[trial.trial_id]._rungs:
            if epochs <= judged:
                reached[trial.trial_id] = max(values[:epochs])
