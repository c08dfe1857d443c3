"""The nearest coins of each product: those whose 30 s returns correlate most with its own on train.

A return is that of the median from beat k-8 to k, both valid, where 8 divides k: returns do not
overlap. Two products are compared by Pearson over the beats at which both have one. Which coins are
near is part of what a sample is, so it is worked out once and kept as a file, whose removal is what
has it worked out again; beats from `until_beat` on have no part in it.
"""

from collections.abc import Mapping
from itertools import combinations, groupby

import msgspec
import numpy as np
from numpy.typing import NDArray

from actors.store import Store, sha256
from datasets.recipe import Recipe
from datasets.splits import split_by_time
from datasets.table_manifest import read_table_manifest
from datasets.tables import read_windows, stored
from market.cross import MOST_NEIGHBOURS, RETURN_LAGS, Mids, mids
from market.errors import QuaverError
from market.features import LOOKBACK_BEATS, valid_run
from market.jit import compiled
from market.products import product_index
from market.windows import WINDOW

NEIGHBOURS_FORMAT = "quaver.neighbours.1"
NEIGHBOURS_PATH = "signals/neighbours.json"
LEAST_RETURNS = 300  # In common, 2 h 40 min: the error of a correlation is then 0.06 or less.

_LAG = RETURN_LAGS[1]
_KEPT = MOST_NEIGHBOURS + 2  # BTC and ETH are left out where they are looked at anyway.
_DIGITS = 6  # Of a correlation: the same on every machine, whatever its logarithm's last bit.

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Neighbour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another product, and how near it is."""

    product: str
    correlation: float
    returns: int  # In common.


class Neighbours(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The nearest coins of each product, nearest first, and what they were worked out from."""

    format: str = NEIGHBOURS_FORMAT
    lag_beats: int = _LAG
    least_returns: int
    first_beat: int  # The first median used.
    until_beat: int  # All medians used are of beats before this one.
    inputs_sha256: str  # Of all medians used.
    products: tuple[str, ...]
    nearest: dict[str, tuple[Neighbour, ...]]

    def of(self, product_id: str) -> tuple[str, ...]:
        """Return the nearest coins of a product, nearest first; none of one not looked at."""
        return tuple(near.product for near in self.nearest.get(product_id, ()))


def find_neighbours(
    store: Store, split: tuple[float, float, float], least_returns: int = LEAST_RETURNS
) -> Neighbours:
    """Work out the nearest coins from the windows under a root, on the train part of `split`.

    Train ends where it does for samples of these windows. QuaverError if there are too few.
    """
    found: dict[str, Mids] = {}
    sampled = np.zeros(0, np.int64)
    for product_id, days in groupby(stored(store, "windows"), key=lambda each: each[0]):
        if product_index(product_id) is not None:
            found[product_id], beats = _read(store, product_id, [day for _, day in days])
            sampled = np.union1d(sampled, beats)
    if not found:
        raise QuaverError(f"there are no windows in {store.root}; run quaver build first")
    train = sampled[split_by_time(sampled, split)["train"]]
    try:
        return nearest_coins(found, int(train[-1]) + 1, least_returns)
    except QuaverError as e:
        raise QuaverError(f"{store.root}: {e}") from None


def nearest_coins(
    products: Mapping[str, Mids], until_beat: int, least_returns: int = LEAST_RETURNS
) -> Neighbours:
    """Return the nearest coins by the medians of beats before `until_beat`.

    The highest correlation comes first, then the product's name; a pair with fewer than
    `least_returns` returns in common, or one that never moves, is not compared. QuaverError if no
    pair is.
    """
    used = {name: _before(_on_grid(products[name]), until_beat) for name in sorted(products)}
    returns = {name: _returns(found) for name, found in used.items()}
    pairs: dict[str, list[Neighbour]] = {name: [] for name in used}
    most = 0
    for a, b in combinations(used, 2):
        common, correlation = _correlation(returns[a], returns[b])
        most = max(most, common)
        if common >= least_returns and np.isfinite(correlation):
            rounded = round(correlation, _DIGITS)
            pairs[a].append(Neighbour(b, rounded, common))
            pairs[b].append(Neighbour(a, rounded, common))
    if not any(pairs.values()):
        raise QuaverError(
            f"nearest coins: of {len(used)} products no two have {least_returns} returns of "
            f"{_LAG} beats in common before beat {until_beat}, the most are {most}; record more "
            "products or for longer, or set neighbours = 0"
        )
    return Neighbours(
        least_returns=least_returns,
        first_beat=min(int(found.beats[0]) for found in used.values() if len(found.beats)),
        until_beat=until_beat,
        inputs_sha256=_hash(used),
        products=tuple(used),
        nearest={name: tuple(sorted(found, key=_rank)[:_KEPT]) for name, found in pairs.items()},
    )


def write_neighbours(store: Store, neighbours: Neighbours) -> None:
    """Write them under a root."""
    store.write(NEIGHBOURS_PATH, _encoded(neighbours))


def with_nearest(store: Store, recipe: Recipe) -> Recipe:
    """Return a recipe with the nearest coins kept under a root, if it looks at any.

    QuaverError as from `read_neighbours`.
    """
    if not recipe.cross.neighbours:
        return recipe
    found = read_neighbours(store)
    return msgspec.structs.replace(recipe, nearest={p: found.of(p) for p in found.products})


def read_neighbours(store: Store) -> Neighbours:
    """Return the nearest coins under a root; QuaverError if there are none, or damaged ones."""
    where = f"{store.root}/{NEIGHBOURS_PATH}"
    try:
        data = store.read(NEIGHBOURS_PATH)
    except FileNotFoundError:
        raise QuaverError(f"{where} is not there; run quaver build again") from None
    try:
        found = msgspec.json.decode(data, type=Neighbours)
    except msgspec.DecodeError as e:
        raise QuaverError(f"{where} cannot be read: {e}; remove it and build again") from None
    if (found.format, found.lag_beats) != (NEIGHBOURS_FORMAT, _LAG):
        raise QuaverError(
            f"{where} has format {found.format} with returns over {found.lag_beats} beats, this "
            f"version reads {NEIGHBOURS_FORMAT} with {_LAG}; remove it and build again"
        )
    if data != _encoded(found):
        raise QuaverError(f"{where} was written by somebody else; remove it and build again")
    return found


def check_before(store: Store, recipe: Recipe, first_beat: int) -> None:
    """Raise QuaverError if the nearest coins of a recipe know of `first_beat` or a later one.

    That is the first one of validation.
    """
    if not recipe.cross.neighbours:
        return
    neighbours = read_neighbours(store)
    if neighbours.until_beat > first_beat:
        raise QuaverError(
            f"{NEIGHBOURS_PATH} was worked out from beats before {neighbours.until_beat}, but "
            f"validation begins at {first_beat}: it would know of it; remove the file and run "
            "quaver build, or give train the share that it had"
        )


def _encoded(neighbours: Neighbours) -> bytes:
    return msgspec.json.format(msgspec.json.encode(neighbours), indent=2)


def _read(store: Store, product_id: str, days: list[str]) -> tuple[Mids, Ints]:
    """Return a product's medians on the grid, and the beats at which it has a sample."""
    grid, sampled = [], []
    before, units = np.zeros(0, WINDOW), None
    for day in days:
        windows = read_windows(store, product_id, day)
        made = read_table_manifest(store, "windows", product_id, day)
        past, units = units, made and made.units
        if grid and units != past:  # No return from ticks to other ticks, and no sample over them.
            grid[-1] = Mids(*(column[:-1] for column in grid[-1]))
            before = before[:0]
        grid.append(_on_grid(mids(windows)))
        unbroken = np.concatenate([before, windows])
        new = valid_run(unbroken)[len(before) :] > LOOKBACK_BEATS
        sampled.append(windows["beat"][new])
        before = unbroken[-LOOKBACK_BEATS:]
    beats, mid2 = (np.concatenate(column) for column in zip(*grid, strict=True))
    return Mids(beats, mid2), np.concatenate(sampled)


def _on_grid(found: Mids) -> Mids:
    """Leave the beats that 8 divides and at which the median is known."""
    kept = (found.beats % _LAG == 0) & (found.mid2 > 0)
    return Mids(found.beats[kept], found.mid2[kept])


def _before(found: Mids, until_beat: int) -> Mids:
    kept = int(np.searchsorted(found.beats, until_beat))
    return Mids(found.beats[:kept], found.mid2[:kept])


def _returns(found: Mids) -> tuple[Ints, Floats]:
    """Return the log returns over one step of the grid, and the beats that they end with."""
    out = np.empty(max(len(found.mid2) - 1, 0))
    _fill_returns(found.mid2, out)
    kept = np.diff(found.beats) == _LAG
    return found.beats[1:][kept], out[kept]


def _correlation(a: tuple[Ints, Floats], b: tuple[Ints, Floats]) -> tuple[int, float]:
    """Return how many returns two products have in common, and their correlation (or NaN)."""
    _, in_a, in_b = np.intersect1d(a[0], b[0], assume_unique=True, return_indices=True)
    return len(in_a), float(_pearson(a[1][in_a], b[1][in_b]))


def _rank(near: Neighbour) -> tuple[float, str]:
    return -near.correlation, near.product


def _hash(used: Mapping[str, Mids]) -> str:
    parts = [part for name, found in used.items() for part in (name.encode(), *found)]
    return sha256("\n".join(sha256(bytes(part)) for part in parts).encode())


@compiled
def _fill_returns(mid2: Ints, out: Floats) -> None:
    for i in range(len(out)):
        out[i] = np.log1p((mid2[i + 1] - mid2[i]) / mid2[i])


@compiled
def _pearson(a: Floats, b: Floats) -> float:
    """Summed in order, so that no library's way of adding decides; NaN where one never moves."""
    mean_a, mean_b = 0.0, 0.0
    for i in range(len(a)):
        mean_a += a[i] / len(a)
        mean_b += b[i] / len(a)
    aa, bb, ab = 0.0, 0.0, 0.0
    for i in range(len(a)):
        aa += (a[i] - mean_a) ** 2
        bb += (b[i] - mean_b) ** 2
        ab += (a[i] - mean_a) * (b[i] - mean_b)
    return ab / np.sqrt(aa * bb) if aa > 0 and bb > 0 else np.nan
