"""Cross-coin signals: where the medians of other products have just gone.

A reference is another product that is looked at: BTC, ETH, and the product's nearest coins. Of beat
k it gives the log returns of its median from beats k-1, k-8 and k-68 to k, and whether they are
known. They are if those four beats are there and valid; else the returns are 0. Nothing after beat
k is read. `cross` is the one definition: live trading calls it on the last beats of each reference.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.checks import check_settings
from market.features import LOOKBACK_BEATS, MEDIAN_LAGS, Floats, Ints, valid_run
from market.jit import compiled
from market.windows import BEAT_NS

# Beats: one; 30 s as the medians count them; and the five minutes that they look back.
RETURN_LAGS = (1, MEDIAN_LAGS[-2], LOOKBACK_BEATS)
WIDTH = len(RETURN_LAGS) + 1  # Columns of one reference.
GIVEN_UP_BEATS = 8  # A reference that has been silent for longer is not waited for.
LATE_BEATS = 450  # Half an hour: how far a live product may be behind its references.
MOST_NEIGHBOURS = 8

_MAJORS = {"btc": "BTC-USD", "eth": "ETH-USD"}
_REACH = max(RETURN_LAGS)
_BPS = 10_000.0
_BEAT_S = BEAT_NS // 1_000_000_000


class CrossConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which other products a sample looks at."""

    btc_eth: Annotated[
        bool, msgspec.Meta(description="returns of BTC's and ETH's medians over 4, 32 and 272 s")
    ] = False
    neighbours: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=MOST_NEIGHBOURS,
            description="the same of this many coins that correlate most on train",
        ),
    ] = 0

    def __post_init__(self) -> None:
        check_settings("cross", self)


class Mids(NamedTuple):
    """The medians of one product."""

    beats: Ints  # [n], ascending
    mid2: Ints  # [n], bid + ask in ticks, 0 where the beat is invalid


def names(config: CrossConfig) -> tuple[str, ...]:
    """Return the name of each column, with its unit, in the order of `cross`."""
    majors = tuple(_MAJORS) if config.btc_eth else ()
    near = tuple(f"near{place + 1}" for place in range(config.neighbours))
    columns = (*(f"return_{lag * _BEAT_S}s_bps" for lag in RETURN_LAGS), "known")
    return tuple(f"{slot}_{column}" for slot in majors + near for column in columns)


def references_of(
    product_id: str, config: CrossConfig, nearest: Sequence[str] = ()
) -> tuple[str | None, ...]:
    """Return the product that each reference of `product_id` is; None: there is none.

    `nearest` are the other products, nearest first. A product is no reference of its own, and BTC
    and ETH, if they are looked at anyway, are nobody's neighbours.
    """
    majors = tuple(_MAJORS.values()) if config.btc_eth else ()
    near = [other for other in nearest if other not in (product_id, *majors)]
    near = near[: config.neighbours]
    missing = [None] * (config.neighbours - len(near))
    return (*(None if major == product_id else major for major in majors), *near, *missing)


def mids(windows: NDArray[np.void]) -> Mids:
    """Return the medians of WINDOW[n] of one product; ValueError as from `valid_run`."""
    valid_run(windows)
    mid2 = np.where(windows["valid"], windows["bid"] + windows["ask"], 0)
    return Mids(np.ascontiguousarray(windows["beat"]), mid2)


def cross(beats: Ints, references: Sequence[Mids | None]) -> Floats:
    """Return the signals of beats (i8[n], ascending), f8[n, WIDTH * references].

    Of each reference: one log return per lag, bp, and 1 where they are known, else 0 throughout,
    as where a reference is None. ValueError unless `beats` ascend, without duplicates.
    """
    beats = np.ascontiguousarray(beats, np.int64)
    if (beats[1:] <= beats[:-1]).any():
        raise ValueError("beats must be in ascending order, without duplicates")
    out = np.zeros((len(references), len(beats), WIDTH))
    for found, reference in zip(out, references, strict=True):
        if reference is not None:
            _fill(beats, reference.beats, reference.mid2, found)
    by_beat = np.ascontiguousarray(out.transpose(1, 0, 2))
    return by_beat.reshape(len(beats), WIDTH * len(references))


class CrossBuilder:
    """The cross-coin signals of live products; a window may come before or after another's."""

    def __init__(self, references: Mapping[str, Sequence[str | None]]) -> None:
        """Take the references of each product that is asked for, as from `references_of`."""
        self._references = {product_id: tuple(refs) for product_id, refs in references.items()}
        named = {name for refs in self._references.values() for name in refs if name is not None}
        self._recent = {name: _Recent() for name in sorted(named)}

    @property
    def watched(self) -> frozenset[str]:
        """The products whose windows are needed, traded or not."""
        return frozenset(self._recent)

    def push(self, windows: Mapping[str, NDArray[np.void]]) -> None:
        """Add the next windows of any products (WINDOW[m]), such as those of one beat.

        If they raise ValueError, as from `mids` or for a beat that is not after the last of its
        product, none is added. Products that are no reference are passed over.
        """
        found = {name: mids(rows) for name, rows in windows.items() if name in self._recent}
        for name, new in found.items():
            if len(new.beats) and new.beats[0] <= self._recent[name].newest:
                raise ValueError(
                    f"windows: beat {new.beats[0]} of {name} is not after "
                    f"{self._recent[name].newest}"
                )
        for name, new in found.items():
            self._recent[name].add(new)

    def absent(self, product_id: str, beat: int) -> tuple[str, ...]:
        """Return the references of a product whose window of `beat` has not come."""
        named = dict.fromkeys(self._references[product_id])
        return tuple(n for n in named if n is not None and self._recent[n].newest < beat)

    def waits_for(self, product_id: str, beat: int) -> tuple[str, ...]:
        """Return those absent that should come any moment: silent for GIVEN_UP_BEATS at most."""
        absent = self.absent(product_id, beat)
        return tuple(n for n in absent if beat - self._recent[n].newest <= GIVEN_UP_BEATS)

    def row(self, product_id: str, beat: int) -> Floats:
        """Return the signals of a beat, f8[WIDTH * references], from the windows pushed so far.

        A reference that is at most LATE_BEATS ahead of `beat`, and not behind it, gives what
        `cross` gives; any other one is not known.
        """
        found = [None if n is None else self._recent[n].mids for n in self._references[product_id]]
        row: Floats = cross(np.array([beat]), found)[0]
        return row


class _Recent:
    """The newest medians of a product; once full, what may be needed moves to the front."""

    def __init__(self) -> None:
        self._kept = LATE_BEATS + _REACH + 1
        self._beats, self._mid2 = np.zeros((2, 2 * self._kept), np.int64)
        self._count = 0
        self.newest = -1

    @property
    def mids(self) -> Mids:
        return Mids(self._beats[: self._count], self._mid2[: self._count])

    def add(self, new: Mids) -> None:
        for beat, mid2 in zip(new.beats[-self._kept :], new.mid2[-self._kept :], strict=True):
            if self._count == len(self._beats):
                for column in (self._beats, self._mid2):
                    column[: self._kept] = column[-self._kept :]
                self._count = self._kept
            self._beats[self._count], self._mid2[self._count] = beat, mid2
            self._count += 1
            self.newest = int(beat)


@compiled
def _fill(beats: Ints, known: Ints, mid2: Ints, out: Floats) -> None:
    """Fill `out`, which is zero, for the beats at which all medians needed are known."""
    now = -1
    for i in range(len(beats)):
        while now + 1 < len(known) and known[now + 1] <= beats[i]:
            now += 1
        if now >= 0 and known[now] == beats[i] and mid2[now] > 0:
            _fill_row(known, mid2, now, out[i])


@compiled
def _fill_row(known: Ints, mid2: Ints, now: int, row: Floats) -> None:
    for j, lag in enumerate(RETURN_LAGS):
        then = max(now - lag, 0)  # No earlier: there is at most one row per beat.
        while known[then] < known[now] - lag:
            then += 1
        if known[then] != known[now] - lag or mid2[then] == 0:
            row[:] = 0.0
            return
        row[j] = np.log1p((mid2[now] - mid2[then]) / mid2[then]) * _BPS
    row[len(RETURN_LAGS)] = 1.0
