"""Raw partitions -> windows -> samples, one Ray Data task per product and day.

Each partition rebuilds its book alone; features and labels of a day also read the windows of the
days beside it, so that nothing is lost at midnight. Only what is missing or stale is built. What
fails stops nothing else; where the server is away, what failed for it is done again.
"""

import logging
import time
import warnings
from collections.abc import Iterator
from typing import Any

import msgspec
import ray.data

from actors.patience import answers, patiently
from actors.store import Away, Store
from datasets.partition import Built, build_samples, build_windows, windows_read
from datasets.recipe import Recipe
from datasets.table_manifest import Partition
from datasets.todo import Todo
from market.errors import QuaverError
from market.products import product_index

_DEATHS = 2  # Of the processes of one task, before it is given up.
# Before each new try of what a server that answers did not take: a minute of trouble is survived, a
# server that has no room left, and does not say so, is given up after two.
_PAUSES_S = (1.0, 5.0, 15.0, 30.0, 60.0)
log = logging.getLogger(__name__)


class Failure(msgspec.Struct, frozen=True):
    """A partition that could not be built."""

    product: str
    day: str
    stage: str
    why: str


class Watcher:
    """Is told how a build goes on; does nothing by itself."""

    def done(self, one: Built | Failure, total: int) -> None:
        """Take note of a partition, and of how many are to be built in all, as far as is known."""

    def says(self, what: str) -> None:
        """Take note of what is done between partitions."""

    def waiting(self, why: str) -> None:
        """Take note that the server is away."""


class Outcome(msgspec.Struct):
    """What a build did."""

    built: list[Built] = []
    failures: list[Failure] = []


class _Result(msgspec.Struct):
    """What a task gave: one of the three."""

    built: Built | None = None
    error: str | None = None
    away: str | None = None


def find_todo(
    store: Store,
    recipe: Recipe,
    products: str | None = None,
    days: str | None = None,
    force: bool = False,
    watcher: Watcher | None = None,
) -> Todo:
    """Return what is to be built; QuaverError if there is nothing to build from."""

    def look() -> Todo:
        answers(store)
        todo = Todo(store, recipe, products, days, force)
        todo.drop_orphans(store)
        return todo

    return patiently(look, (watcher or Watcher()).waiting)


def build(
    store: Store,
    todo: Todo,
    split: tuple[float, float, float],
    watcher: Watcher | None = None,
) -> Outcome:
    """Build what is to be built with the running Ray.

    Products that are not in the universe get windows but no samples: models know products by their
    index. Samples whose windows, or those of a product that they look at, could not be built stay
    as they are; all do as long as the nearest coins have to be found and windows are missing.
    QuaverError if there is too little to find them from; train is that of `split`.
    """
    watcher, outcome = watcher or Watcher(), Outcome()
    # All windows first: samples read those of neighbouring days and of other products.
    total = len(todo.windows) + len(todo.samples(set(todo.windows)))
    for partition, one in _stage(store, todo.recipe, "windows", todo.windows, watcher):
        _note(outcome, one)
        if isinstance(one, Built):
            todo.has_windows(partition, one.sha256)
        watcher.done(one, total)
    failed = {(failure.product, failure.day) for failure in outcome.failures}
    if todo.lacks_neighbours:
        if any(product_index(product_id) is not None for product_id, _ in failed):
            return outcome
        watcher.says("working out which coins are nearest")
        patiently(lambda: todo.find_neighbours(store, split), watcher.waiting)
    samples = []
    for partition in todo.samples(set()):
        read = windows_read(*partition, todo.recipe)
        others = [p for p in read if p in failed and p[0] != partition[0]]
        if others:
            why = f"the windows of {' on '.join(others[0])}, which they look at, could not be built"
            outcome.failures.append(Failure(*partition, "samples", why))
        elif partition not in failed:
            samples.append(partition)
    total = len(todo.windows) + len(samples)
    for _, one in _stage(store, todo.recipe, "samples", samples, watcher):
        _note(outcome, one)
        watcher.done(one, total)
    return outcome


def _note(outcome: Outcome, one: Built | Failure) -> None:
    if isinstance(one, Built):
        outcome.built.append(one)
    else:
        outcome.failures.append(one)


def _stage(
    store: Store, recipe: Recipe, stage: str, todo: list[Partition], watcher: Watcher
) -> Iterator[tuple[Partition, Built | Failure]]:
    """Build partitions as they come; those for which the server was away once it is back.

    One goes ahead then, each time another: all are tried when it is done, or at the very last.
    """
    left, now, tries = dict.fromkeys(todo, ""), todo, 0
    while now:
        refused, waiting = 0, len(left) - len(now)
        for partition, result in _map(store, recipe, stage, now):
            del left[partition]
            if result.away:
                left[partition] = result.away  # As the last of them.
                refused += 1
                watcher.waiting(f"{waiting + refused} partitions wait: {result.away}")
            else:
                yield partition, result.built or Failure(*partition, stage, result.error or "")
        if refused < len(now):
            tries = 0
        if not refused:
            now = list(left)
            continue
        if tries == len(_PAUSES_S):
            break
        patiently(lambda: answers(store), watcher.waiting)
        time.sleep(_PAUSES_S[tries])
        tries += 1
        now = list(left)[: None if tries == len(_PAUSES_S) else 1]
    for partition, why in left.items():
        yield partition, Failure(*partition, stage, why)


def _map(
    store: Store, recipe: Recipe, stage: str, todo: list[Partition]
) -> Iterator[tuple[Partition, _Result]]:
    """Build partitions in the running Ray; yield what each gave, as they are done."""

    def one(row: dict[str, Any]) -> dict[str, Any]:
        result = build_one(store, recipe, stage, (row["product"], row["day"]))
        return row | {"result": msgspec.json.encode(result)}

    if not todo:
        return
    _set_up_ray_data()
    rows = [{"product": product_id, "day": day} for product_id, day in todo]
    missing = dict.fromkeys(todo)
    items = ray.data.from_items(rows, override_num_blocks=len(rows))
    with warnings.catch_warnings():
        # Ray Data itself would start a task that always dies for ever, and knows no newer way.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*ray_remote_args")
        dataset = items.map(one, num_cpus=1, max_retries=_DEATHS)
    for row in dataset.iter_rows():
        partition = (row["product"], row["day"])
        del missing[partition]
        yield partition, msgspec.json.decode(row["result"], type=_Result)
    for partition in missing:
        yield partition, _Result(error="its process was killed, it may have run out of memory")


def build_one(store: Store, recipe: Recipe, stage: str, partition: Partition) -> _Result:
    """Build one partition; what goes wrong is returned, so that it stops no other."""
    try:
        if stage == "windows":
            return _Result(built=build_windows(store, *partition))
        return _Result(built=build_samples(store, *partition, recipe))
    except Away as e:
        return _Result(away=str(e))
    except QuaverError as e:
        return _Result(error=str(e))
    except Exception as e:
        log.exception("%s of %s", stage, partition)
        return _Result(error=f"{type(e).__name__}: {e}; this is a bug, its trace is in Ray's log")


def _set_up_ray_data() -> None:
    """Keep Ray Data's progress and notes in its log file; a task that dies stops no other."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    context.use_datasource_v2 = False  # Its listing costs a quarter of a second a job.
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.CRITICAL + 1)
