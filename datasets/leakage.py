"""The look-ahead check: does anything stored of a beat know what came after its end?

At random beats the raw rows after a beat's end are cut off, or replaced by others. From what is
left windows and samples are made by the code that builds them, and compared with the stored files,
which were made with the whole future at hand: up to the beat all must be the same, labels up to a
horizon before it. Other products' medians and external series are cut or replaced at the same beat.
Labels must not look back either: the windows before the beat are replaced too.

Rows are fed once per product and day; what is tried at a beat goes on from a copy of the book.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple, get_args

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.raw import (
    day_of,
    day_start_ns,
)
from actors.store import Store
from datasets import partition
from datasets.beside import Beside, beside
from datasets.differences import between, differing
from datasets.partition import days_read, read_raw
from datasets.prefix import Prefix
from datasets.rebuild import windows_of
from datasets.recipe import Recipe
from datasets.scramble import beside_until, scrambled_past, scrambled_past_beside
from datasets.table_manifest import Partition, read_table_manifest
from datasets.tables import (
    read_samples,
    read_windows,
    table_path,
    windows_table,
)
from datasets.units import Units, in_units_of
from market.errors import QuaverError
from market.external import Series
from market.features import LOOKBACK_BEATS
from market.products import product_index
from market.windows import BEAT_NS

How = Literal["future cut off", "future scrambled", "past scrambled"]
_HOWS: tuple[How, ...] = get_args(How)  # What is told first comes first.
_EVER = 1 << 62
_LABEL = "label"  # The one column of samples that may know the future, up to the horizon.
_NEAR_BEATS = 80  # About a horizon and a look-back: what a border or a gap can spoil.

Windows = NDArray[np.void]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A column that is not what it was without a part of the recording that it must not know."""

    product: str
    day: str
    table: str  # "windows" or "samples".
    column: str
    beat: int  # The first that differs,
    beats: int  # and how many do, at the cuts that were tried.
    cut: int  # The first beat at whose end (a past: at whose start) a change showed it.
    how: How
    built_so: bool  # Whether building the day again, with all rows, gives what is stored.


class DayChecked(msgspec.Struct, kw_only=True):
    """What was compared of one product and day."""

    product: str
    day: str
    cuts: list[int]
    windows: int = 0  # Stored rows that were compared at least once.
    samples: int = 0
    findings: list[Finding] = []


def check_features(
    store: Store,
    recipe: Recipe,
    todo: list[Partition],
    cuts: int,
    seed: int,
    on_day: Callable[[int, int], None] = lambda done, of: None,
) -> list[DayChecked]:
    """Check windows, features and labels at `cuts` random beats of these products and days.

    The same seed and files give the same beats, spread evenly: half are anywhere, the others near
    the ends of what a day holds and near its gaps. `on_day` is told when each product's day is
    done. QuaverError where tables are missing, or were made by another recipe.
    """
    order = np.random.default_rng(seed).permutation(len(todo))
    kinds: dict[int, list[int]] = {}
    for i in range(cuts):
        # With another kind of beat in each round, whatever the number of days.
        kinds.setdefault(int(order[i % len(todo)]), []).append((i + i // len(todo)) % 4)
    found, series = [], partition.read_series(store, recipe)
    for place in sorted(kinds):
        rng = np.random.default_rng((seed, place))
        found.append(_DayCheck(store, recipe, series, todo[place], rng).run(kinds[place]))
        on_day(len(found), len(kinds))
    return found


def _columns(table: pa.Table, labels: bool) -> pa.Table:
    """Return the beats with the labels, or with all that is no label."""
    kept = [name for name in table.column_names if (name == _LABEL) == labels or name == "beat"]
    return table.select(kept)


class _Stored(NamedTuple):
    """What lies under the root of one product's day and of those beside it."""

    day: str
    samples: pa.Table | None
    within: Windows
    before: Windows
    after: Windows
    known: Beside


class _DayCheck:
    """The check of one product and day."""

    def __init__(
        self,
        store: Store,
        recipe: Recipe,
        series: Mapping[str, Series],
        todo: Partition,
        rng: np.random.Generator,
    ) -> None:
        product_id, day = todo
        manifest = read_raw(store, product_id, day)
        self._store, self._recipe, self._manifest, self._rng = store, recipe, manifest, rng
        self._series = series
        self._stored = self._read(day)
        before = day_of(day_start_ns(day) - 1)
        self._day_before = self._read(before)
        if self._units(product_id, before) != self._units(product_id, day):
            self._day_before = self._day_before._replace(samples=None)  # No label reaches here.
        self._windows = windows_table(self._stored.within)
        self._found: dict[tuple[str, str, str], dict[How, tuple[int, NDArray[np.int64]]]] = {}
        self.checked = DayChecked(product=product_id, day=day, cuts=[])

    def run(self, kinds: list[int]) -> DayChecked:
        """Check at one random beat of each kind."""
        prefix, done = Prefix(self._store, self._manifest), -1
        for beat in self._cuts(kinds):
            prefix.feed(beat)
            self._future(beat, done, "future cut off", prefix.cut_off())
            self._future(beat, done, "future scrambled", prefix.scrambled(self._rng))
            self._past(beat)
            done = beat
            self.checked.cuts.append(beat)
        stored = self._stored.samples
        self.checked.windows = between(self._windows, -1, done).num_rows
        self.checked.samples = 0 if stored is None else between(stored, -1, done).num_rows
        self.checked.findings = self._judged()
        return self.checked

    def _cuts(self, kinds: list[int]) -> list[int]:
        """Pick a beat of each kind: 0 and 1 any, 2 near an end of the day, 3 near a gap."""
        windows = self._stored.within
        places = np.arange(len(windows))
        ends = np.concatenate([places[:_NEAR_BEATS], places[-_NEAR_BEATS:]])
        breaks = (np.diff(windows["beat"]) != 1) | (np.diff(windows["valid"].view("i1")) != 0)
        around = np.arange(-_NEAR_BEATS, _NEAR_BEATS + 1)
        gaps = np.clip(np.flatnonzero(breaks)[:, None] + around, 0, len(windows) - 1)
        chosen: list[int] = []
        for kind in kinds:
            wanted = {2: ends, 3: np.unique(gaps)}.get(kind, places)
            free = np.setdiff1d(wanted, chosen)
            free = free if len(free) else np.setdiff1d(places, chosen)
            chosen += [int(self._rng.choice(free))] if len(free) else []
        return sorted(windows["beat"][chosen].tolist())

    def _future(self, beat: int, done: int, how: How, windows: Windows) -> None:
        """Compare what is known when `beat` ends; windows up to `done` were compared before."""
        table = windows_table(windows)
        new = between(table, done + 1, beat), between(self._windows, done + 1, beat)
        self._note("windows", self._stored.day, beat, how, differing(*new))
        today = self._stored._replace(within=windows, after=windows[:0])
        self._samples(self._stored, today, beat, how)
        first = day_start_ns(self._stored.day) // BEAT_NS
        if beat < first + self._recipe.horizon_beats:  # Labels of the day before reach here.
            self._samples(self._day_before, self._day_before._replace(after=windows), beat, how)

    def _samples(self, stored: _Stored, cut: _Stored, beat: int, how: How) -> None:
        """Compare what is stored with what is made of windows that were cut after a beat."""
        if stored.samples is None:
            return
        cut_off = how == "future cut off"
        known = beside_until(cut.known, beat, None if cut_off else self._rng)
        found = self._made(cut.day, self._around(cut), known)
        for labels, last in ((False, beat), (True, beat - self._recipe.horizon_beats)):
            pair = (
                between(_columns(found, labels), -1, last),
                between(_columns(stored.samples, labels), -1, last),
            )
            self._note_samples(stored.day, beat, how, pair, labels)

    def _past(self, beat: int) -> None:
        """Compare labels from `beat` on, and features from where none reaches back before it."""
        stored = self._stored
        if stored.samples is None:
            return
        windows = scrambled_past(self._around(stored), beat, self._rng)
        known = scrambled_past_beside(stored.known, beat, self._rng)
        found = self._made(stored.day, windows, known)
        for labels, from_beat in ((False, beat + LOOKBACK_BEATS), (True, beat)):
            pair = (
                between(_columns(found, labels), from_beat, _EVER),
                between(_columns(stored.samples, labels), from_beat, _EVER),
            )
            self._note_samples(stored.day, beat, "past scrambled", pair, labels)

    def _note_samples(
        self, day: str, cut: int, how: How, pair: tuple[pa.Table, pa.Table], labels: bool
    ) -> None:
        differ = differing(*pair)
        if labels:  # Which beats have a sample is a matter of features.
            differ.pop("beat", None)
        self._note("samples", day, cut, how, differ)

    def _around(self, of: _Stored) -> Windows:
        after = of.after[: self._recipe.horizon_beats]
        return np.concatenate([of.before[-LOOKBACK_BEATS:], of.within, after])

    def _made(self, day: str, windows: Windows, known: Beside) -> pa.Table:
        return partition.samples_of(windows, known, self._manifest.listed, day, self._recipe)

    def _note(
        self, table: str, day: str, cut: int, how: How, differ: dict[str, NDArray[np.int64]]
    ) -> None:
        """Keep which beats of a column differ, and the first cut at which one did."""
        for column, beats in differ.items():
            ways = self._found.setdefault((day, table, column), {})
            first, before = ways.get(how, (cut, beats))
            ways[how] = first, np.union1d(before, beats)

    def _judged(self) -> list[Finding]:
        """Tell findings of code that looks ahead from those of files that it did not make."""
        if not self._found:
            return []
        whole = windows_of(self._store, self._manifest)
        other: dict[tuple[str, str], set[str]] = {}
        other[self._stored.day, "windows"] = set(differing(windows_table(whole), self._windows))
        for one in (
            self._stored._replace(within=whole),
            self._day_before._replace(after=whole),
        ):
            if one.samples is not None:
                made = self._made(one.day, self._around(one), one.known)
                other[one.day, "samples"] = set(differing(made, one.samples))
        return [
            self._finding(day, table, column, column not in other[day, table])
            for day, table, column in self._found
        ]

    def _finding(self, day: str, table: str, column: str, built_so: bool) -> Finding:
        ways = self._found[day, table, column]
        how = next(how for how in _HOWS if how in ways)
        cut, beats = ways[how]
        return Finding(
            product=self._manifest.product,
            day=day,
            table=table,
            column=column,
            beat=int(beats[0]),
            beats=len(beats),
            cut=cut,
            how=how,
            built_so=built_so,
        )

    def _read(self, day: str) -> _Stored:
        store, product_id = self._store, self._manifest.product
        samples = table_path("samples", product_id, day)
        if day == self._manifest.day:
            tables = ("windows",) if product_index(product_id) is None else ("windows", "samples")
            for table in tables:
                if not store.exists(table_path(table, product_id, day)):
                    raise QuaverError(
                        f"there are no {table} of {product_id} on {day} in {store.root}; "
                        f"run quaver build --data {store.root}"
                    )
        found = None
        if store.exists(samples):
            found = read_samples(store, product_id, day, self._recipe)
        windows = in_units_of(day, partial(read_windows, store), self._units)
        before, within, after = (windows(product_id, one) for one in days_read(day))
        known = beside(product_id, day, self._recipe, windows, self._series)
        return _Stored(day, found, within, before, after, known)

    def _units(self, product_id: str, day: str) -> Units:
        made = read_table_manifest(self._store, "windows", product_id, day)
        return made and made.units
