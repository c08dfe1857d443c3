"""`quaver build`: what a person sees of it, from what is stale to what could not be built."""

import time
from datetime import timedelta

from rich.console import Console
from rich.markup import escape

from actors.store import Store
from cluster.config import Config
from cluster.progress import Display, Stage
from cluster.session import ray_session
from datasets.build import Failure, Outcome, Watcher, build, find_todo
from datasets.partition import Built
from datasets.todo import Todo
from market.errors import QuaverError

_SHOWN = 20


class BuildView(Watcher):
    """Shows partitions done of all, rows, rate and time left as the note of a stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._since_s = self._began_s = time.monotonic()
        self._table, self._done_before = "windows", 0
        self._done = self._rows = self._failed = 0

    def done(self, one: Built | Failure, total: int) -> None:
        """Count a partition."""
        if one.stage != self._table:  # Samples take a small part of the time that windows take.
            self._table, self._done_before = one.stage, self._done
            self._since_s = time.monotonic()
        self._done += 1
        if isinstance(one, Built):
            self._rows += one.rows
        else:
            self._failed += 1
        spent_s = time.monotonic() - self._since_s
        left_s = spent_s / (self._done - self._done_before) * (total - self._done)
        rate = self._rows / max(time.monotonic() - self._began_s, 1e-3)
        failed = f", {self._failed} failed" if self._failed else ""
        self._stage.update(
            self._done,
            total,
            f"{self._done:,} of {total:,} partitions, {self._rows:,} rows, {rate:,.0f} rows/s, "
            f"{timedelta(seconds=round(left_s))} left{failed}",
        )

    def says(self, what: str) -> None:
        """Say what is done between partitions."""
        self._stage.say(what)

    def waiting(self, why: str) -> None:
        """Say why nothing goes on, or not all."""
        self._stage.say(f"waiting, will try again: {why}")


def run_build(
    config: Config,
    store: Store,
    products: str | None,
    days: str | None,
    force: bool,
    console: Console,
) -> None:
    """Build what is missing or stale; QuaverError if some of it cannot be built."""
    with Display(console) as display, display.stage("build") as stage:
        stage.update(0, 1, "looking for what is missing or stale")
        todo = find_todo(store, config.recipe, products, days, force, BuildView(stage))
        outcome = Outcome()
        if todo.is_empty():
            stage.update(1, 1, f"nothing to do: {todo.partitions:,} partitions are up to date")
        else:
            stage.update(0, 1, "starting Ray")
            with ray_session(config.ray_address):
                outcome = build(store, todo, config.split, BuildView(stage))
            stage.update(1, 1, _counted(todo, outcome))
    if todo.unlisted:
        names = ", ".join(todo.unlisted)
        console.print(f"not in the universe, so windows only: {names}", soft_wrap=True)
    _raise_failures(store, todo, outcome, console)
    samples = [b for b in outcome.built if b.stage == "samples"]
    if samples and not any(b.valid for b in samples):
        console.print(
            "no sample that was built has a label: that takes 144 valid beats in a row "
            "(ten minutes without a gap) of a product of the universe"
        )
    else:
        console.print(f"next: quaver sweep --data {store.root}", soft_wrap=True, markup=False)


def build_tables(store: Store, config: Config, stage: Stage) -> list[Built]:
    """Build what is missing or stale with the running Ray, all of it or QuaverError."""
    view = BuildView(stage)
    todo = find_todo(store, config.recipe, watcher=view)
    outcome = build(store, todo, config.split, view)
    stage.update(1, 1, _counted(todo, outcome))
    _raise_failures(store, todo, outcome, stage.console)
    return outcome.built


def _counted(todo: Todo, outcome: Outcome) -> str:
    windows = [b for b in outcome.built if b.stage == "windows"]
    samples = [b for b in outcome.built if b.stage == "samples"]
    current = todo.partitions - len(outcome.built) - len(outcome.failures)
    return (
        f"{len(windows):,} windows and {len(samples):,} samples partitions built, {current:,} left "
        f"as they are: {sum(b.rows for b in windows):,} events, "
        f"{sum(b.valid for b in windows):,} valid windows, "
        f"{sum(b.valid for b in samples):,} labelled samples"
    )


def _raise_failures(store: Store, todo: Todo, outcome: Outcome, console: Console) -> None:
    """Print what could not be built, each with its reason, and raise a QuaverError if any."""
    lines = [f"{f.stage} of {f.product} on {f.day}: {f.why}" for f in outcome.failures]
    lines += [
        f"{store.root}/{folder} is no raw partition, which would be raw/product=ID/day=YYYY-MM-DD; "
        "move it elsewhere"
        for folder in todo.foreign
    ]
    if not lines:
        return
    for line in lines[:_SHOWN]:
        console.print(f"[red]failed:[/] {escape(line)}", soft_wrap=True, highlight=False)
    if len(lines) > _SHOWN:
        console.print(f"and {len(lines) - _SHOWN:,} more")
    others = "no samples are" if todo.lacks_neighbours else "all others are"
    because = ": which coins are nearest is worked out from all windows" * todo.lacks_neighbours
    raise QuaverError(
        f"{len(lines):,} partitions could not be built, {others}{because}; mend what is said above "
        "and run quaver build again"
    )
