"""A Ray Tune sweep over training runs that survives the loss of machines and of itself.

Every trial saves and reports after every epoch, so nothing costs more than the running epoch: a
lost worker goes on elsewhere from its file, a stopped sweep goes on by name, a server that is away
is waited for. Under runs/<sweep>/ lie one folder per trial (its state, TensorBoard events),
results.json and best/model.safetensors.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import ray
from ray import tune as ray_tune
from ray.exceptions import RayError
from ray.tune import TuneError

from actors.patience import answers, patiently
from actors.store import Store
from datasets.sample_cache import CachedSamples
from market.errors import Interrupted, QuaverError
from tune.capacity import Capacity
from tune.checks import check_part
from tune.config import SweepConfig
from tune.contained import contained
from tune.curves import Curves
from tune.own_errors import OwnErrors, kills_are_deaths
from tune.results import SweepResult, finish
from tune.run_folder import RUNS, Identity, Splits, begin, check_name, digest, folder, trained_on
from tune.schedule import Halving, Suggestions, name_of, params_of, trial_config
from tune.search import check_space, configured, trials
from tune.snapshot import restorable
from tune.trial import run_trial

_OUTAGES = 20  # Of the server that end Tune, in one sweep.


class SweepProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a sweep is."""

    finished_epochs: int  # Over all trials; of a trial that is over, all that it would have had.
    total_epochs: int
    finished_trials: int  # Stopped and failed ones included.
    total_trials: int
    running_trials: int
    best_value_bps: float | None  # Validation value captured of the best trial so far.
    warning: str = ""  # Why nothing runs, to be said now.


OnProgress = Callable[[SweepProgress], None]


def run_sweep(
    samples: CachedSamples,
    splits: Splits,
    config: SweepConfig,
    *,
    name: str,
    store: Store,
    products: tuple[str, ...],
    resume: bool = False,
    can_grow: bool = True,
    on_progress: OnProgress | None = None,
) -> SweepResult:
    """Run the trials on the Ray that is connected, export the best model and return the table.

    The best trial is the one with the highest validation value captured in any epoch, that epoch's
    weights are exported; the validation loss would not do, as objectives have different ones.
    `splits` has masks of `samples` under `train` and `validation`; `products` are the universe's
    ids by index. With `resume` the sweep of this name goes on, finished epochs are kept and
    finished trials not run again. `can_grow` says whether nodes may join this Ray. QuaverError
    where the name is taken or unknown, another config or other data are given, no node can run a
    trial, all trials failed, or the sweep was interrupted.
    """
    _check(config, products)
    check_name(store, name, resume)
    wait_s = config.wait_for_node_s if can_grow else 0.0
    capacity = Capacity(config.trial_resources, _nodes, wait_s)
    progress = _Progress(config, capacity, on_progress)
    progress.say(capacity.check(idle=True))
    train_part, validation_part = trained_on(samples.open(), splits)
    check_part("train", train_part, config.train)
    check_part("validation", validation_part, config.train)
    identity = Identity(
        config=config,
        products=products,
        trained=tuple(products[i] for i in train_part.products()),
        recipe=samples.recipe,
        data_sha256=digest(train_part, validation_part),
    )
    begin(store, name, identity, resume)
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(
            run_trial,
            train_config=config.train,
            samples=samples,
            train_rows=train_part.rows,
            validation_rows=validation_part.rows,
            store=store,
            folder=folder(name),
            spot=config.spot,
        ),
        config.trial_resources,
    )
    pending = trials(config) if config.search == "random" else 1
    with contained(pending), kills_are_deaths():
        results = _fitted(trainable, config, store, name, progress, resume)
    if progress.unfinished:
        raise Interrupted(
            f"sweep: {name} was interrupted, {len(progress.unfinished)} of {trials(config)} trials "
            "are unfinished; go on with --resume"
        )
    return finish(results, identity, store, name)


class _Progress(ray_tune.Callback):
    """Calls `on_progress` whenever something has changed, and looks after a sweep that waits.

    It looks at the trials after each step of Tune, not at single reports: an error in
    `on_progress` then ends the sweep instead of passing for an error of the trial.
    """

    def __init__(
        self, config: SweepConfig, capacity: Capacity | None, on_progress: OnProgress | None
    ) -> None:
        self.search = Suggestions(config) if config.search == "optuna" else None
        self.unfinished: set[str] = set()  # Of a sweep that is restored finished, no step is made.
        self._config = config
        self._capacity = capacity
        self._on_progress = on_progress
        self._trials = trials(config)
        self._epochs: dict[str, int] = {}
        self._reached: dict[str, int] = {}
        self._shown = self._progress([])

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into the sweep's folder; the caller's functions stay out.
        return {**self.__dict__, "search": None, "_capacity": None, "_on_progress": None}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Let the search see what there is, before it is asked for more."""
        if self.search is not None:
            self.search.watch(trials)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Report what has changed."""
        self.unfinished = {name_of(trial) for trial in trials if not trial.is_finished()}
        now = self._progress(trials)
        if now != self._shown and self._on_progress is not None:
            self._on_progress(now)
        self._shown = now
        if self._capacity is not None:
            waiting = any(trial.status in ("PENDING", "PAUSED") for trial in trials)
            self.say(self._capacity.check(idle=waiting and not now.running_trials))

    def say(self, warning: str) -> None:
        """Pass a warning on."""
        if warning and self._on_progress is not None:
            self._on_progress(msgspec.structs.replace(self._shown, warning=warning))

    def _progress(self, known: list[Any]) -> SweepProgress:
        finished_epochs = 0
        for trial in known:
            name, over = name_of(trial), trial.is_finished()
            if name not in self._epochs:
                self._epochs[name] = configured(self._config.train, params_of(trial)).epochs
            # A trial that is restarted reports its finished epochs again.
            reached = max(self._reached.get(name, 0), (trial.last_result or {}).get("epoch", 0))
            self._reached[name] = reached
            finished_epochs += self._epochs[name] if over else reached
        reports = [trial.last_result for trial in known if "epoch" in (trial.last_result or {})]
        unknown = self._trials - len(known)
        return SweepProgress(
            finished_epochs=finished_epochs,
            total_epochs=sum(self._epochs.values()) + unknown * self._config.train.epochs,
            finished_trials=sum(trial.is_finished() for trial in known),
            total_trials=self._trials,
            running_trials=sum(trial.status == "RUNNING" for trial in known),
            best_value_bps=max((r["best_value_bps"] for r in reports), default=None),
        )


def _fitted(
    trainable: Any,
    config: SweepConfig,
    store: Store,
    name: str,
    progress: _Progress,
    resume: bool,
) -> ray_tune.ResultGrid:
    """Run Tune to its end; where it gives up because the server is away, wait and go on."""
    for left in range(_OUTAGES, -1, -1):
        try:
            return _tuner(trainable, config, store, name, progress, resume).fit()
        except (OSError, TuneError, RuntimeError) as e:
            is_unknown = isinstance(e, RuntimeError)  # To Tune, which ends its loop.
            if is_unknown and not isinstance(e.__cause__, RayError):
                raise
            if is_unknown or store.is_local or not left:
                raise QuaverError(
                    f"sweep: {name} under {store.root} was interrupted: {e}; go on with --resume"
                ) from e
        patiently(lambda: answers(store))
        resume = True
    raise AssertionError("unreachable")


def _tuner(
    trainable: Any,
    config: SweepConfig,
    store: Store,
    name: str,
    progress: _Progress,
    resume: bool,
) -> ray_tune.Tuner:
    filesystem = None if store.is_local else store.filesystem
    going_on = {}
    if resume and restorable(store, folder(name), config):
        going_on["resume_config"] = ray_tune.ResumeConfig(
            errored=ray_tune.ResumeConfig.ResumeType.RESUME
        )
    space = {}
    if progress.search is None:
        every = [trial_config(config, index)["trial"] for index in range(trials(config))]
        space = {"trial": ray_tune.grid_search(every)}
    return ray_tune.Tuner(
        trainable,
        param_space=space,
        tune_config=ray_tune.TuneConfig(
            search_alg=progress.search,
            scheduler=Halving(config) if config.asha.enabled else None,
            reuse_actors=True,  # A new worker imports torch and Ray for three seconds.
            trial_name_creator=name_of,
            trial_dirname_creator=name_of,
        ),
        run_config=ray_tune.RunConfig(
            name=name,
            storage_path=store.full_path(RUNS),
            storage_filesystem=filesystem,
            failure_config=ray_tune.FailureConfig(max_failures=-1),  # `OwnErrors` decides.
            callbacks=[progress, OwnErrors(config.max_failures), Curves()],
            verbose=0,
        ),
        # `Tuner.restore` would add settings pickled at the start, in a file that may be cut short.
        _tuner_kwargs=going_on,
    )


def _check(config: SweepConfig, products: tuple[str, ...]) -> None:
    check_space(config)
    if config.train.model.products != len(products):
        raise QuaverError(
            f"sweep: the model is configured for {config.train.model.products} products, the "
            f"universe has {len(products)}"
        )


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
