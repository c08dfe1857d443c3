"""Signals beyond the features (section 4): further inputs of a model, each a switch.

A signal of beat k is made of the product's windows k-68 .. k, as its features are, so it exists
where they do and knows nothing that comes after beat k ends. `signals` is the one definition: live
trading calls it on the last 69 windows, so what is served is what was trained on, bit for bit.

Spans are counted in beats: 4 s; 30 s, rounded up to 8 beats as by the medians; and the five minutes
that the medians reach over, 68 beats. A span of L beats is those from k-L+1 to k, that is, from the
end of beat k-L on. In each formula b and a are best bid and ask, m their median, n a beat.
"""

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.book import BUCKETS
from market.checks import check_settings
from market.features import LOOKBACK_BEATS, MEDIAN_LAGS, Floats, Ints, checked_windows, valid_run
from market.jit import compiled
from market.products import Product
from market.windows import BEAT_NS, Record, Records

SPANS_BEATS = (1, MEDIAN_LAGS[-2], LOOKBACK_BEATS)
_RETURN_SPANS_BEATS = SPANS_BEATS[1:]  # One return alone is no volatility.
_DAY_BEATS = 86_400 * 1_000_000_000 // BEAT_NS
_WEEK_BEATS = 7 * _DAY_BEATS
_SINCE_MONDAY = 3 * _DAY_BEATS  # Beat 0 begins on Thursday 1970-01-01.


class SignalsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which signals a model is given besides the features."""

    order_flow: Annotated[
        bool,
        msgspec.Meta(
            description="order-flow imbalance at the touch over the span, in mean depths of the "
            "nearest bucket"
        ),
    ] = False
    taker: Annotated[
        bool,
        msgspec.Meta(description="(bought - sold) / (bought + sold) of takers over the span"),
    ] = False
    spread: Annotated[
        bool, msgspec.Meta(description="spread when the beat ends, bp of the median")
    ] = False
    depth: Annotated[
        bool,
        msgspec.Meta(
            description="kept depth when the beat ends: log(1 + its worth in quote currency), and "
            "(bids - asks) / (bids + asks)"
        ),
    ] = False
    volatility: Annotated[
        bool,
        msgspec.Meta(
            description="root of the sum of squared log returns of the median over the span, bp"
        ),
    ] = False
    time_of_day: Annotated[
        bool,
        msgspec.Meta(description="sine and cosine of the UTC day, and of the week from Monday"),
    ] = False

    def __post_init__(self) -> None:
        check_settings("signals", self)


def _over(name: str, spans: tuple[int, ...], unit: str = "") -> tuple[str, ...]:
    return tuple(f"{name}_{span * BEAT_NS // 1_000_000_000}s{unit}" for span in spans)


# Columns of each switch, in the order of the switches.
NAMES = {
    "order_flow": _over("order_flow", SPANS_BEATS),
    "taker": _over("taker", SPANS_BEATS),
    "spread": ("spread_bps",),
    "depth": ("depth_log", "depth_imbalance"),
    "volatility": _over("volatility", _RETURN_SPANS_BEATS, "_bps"),
    "time_of_day": ("day_sin", "day_cos", "week_sin", "week_cos"),
}


def names(config: SignalsConfig) -> tuple[str, ...]:
    """Return the names of the signals that are switched on, in the order of their columns."""
    return tuple(name for switch, own in NAMES.items() if getattr(config, switch) for name in own)


def signals(windows: NDArray[np.void], listed: Product, config: SignalsConfig) -> Floats:
    """Return the signals of every beat that `features` gives, f8[n, len(names(config))].

    `windows` is WINDOW[m] of the product `listed`, in ascending order; beats may be missing. All
    signals are finite. ValueError as from `valid_run`, and for a valid beat of negative lots.
    """
    windows = checked_windows(windows)
    at = np.flatnonzero(valid_run(windows) > LOOKBACK_BEATS)
    out = np.empty((len(at), len(names(config))))
    if not out.shape[1]:
        return out
    bad = _negative(windows)
    if bad >= 0:
        beat = int(windows["beat"][bad])
        raise ValueError(f"windows: lots must not be negative, but are in beat {beat}")
    lot_tick = float(listed.base_increment) * listed.tick
    _fill(windows, at, msgspec.structs.astuple(config), lot_tick, out)
    return out


@compiled
def _negative(windows: Records) -> int:
    """Return the first valid row of negative lots, or -1."""
    for k in range(len(windows)):
        here = windows[k]
        bits = here.buy_lots | here.sell_lots
        for i in range(BUCKETS):
            bits |= here.bid_depth[i] | here.ask_depth[i]
        if here.valid and bits < 0:
            return k
    return -1


@compiled
def _fill(
    windows: Records, at: Ints, switches: tuple[bool, ...], lot_tick: float, out: Floats
) -> None:
    """Fill the signals of the rows `at`; the switches are in the order of the configuration."""
    order_flow, taker, spread, depth, volatility, time_of_day = switches
    for i in range(len(at)):
        k, row, column = at[i], out[i], 0
        if order_flow:
            column = _order_flow(windows, k, row, column)
        if taker:
            column = _taker(windows, k, row, column)
        if spread:
            column = _spread(windows[k], row, column)
        if depth:
            column = _depth(windows[k], lot_tick, row, column)
        if volatility:
            column = _volatility(windows, k, row, column)
        if time_of_day:
            _time_of_day(windows[k].beat, row, column)


@compiled
def _order_flow(windows: Records, k: int, row: Floats, column: int) -> int:
    """Order-flow imbalance per span (Cont, Kukanov & Stoikov 2014), in mean depths.

    e_n = [b_n >= b_(n-1)] qb_n - [b_n <= b_(n-1)] qb_(n-1)
        - [a_n <= a_(n-1)] qa_n + [a_n >= a_(n-1)] qa_(n-1)
    summed over the span's L beats, divided by the mean of (qb_n + qa_n) / 2 over beats k-L .. k; 0
    where that is 0. They count every change of the touch and take q as the size there. A window
    knows no size at the best price and nothing between the ends of two beats, so n is a beat and q
    the lots of the nearest bucket, within 0.1 % of the median.
    """
    newest = windows[k]
    flow, depth, done = 0.0, float(newest.bid_depth[0]) + float(newest.ask_depth[0]), 0
    for span in SPANS_BEATS:
        for n in range(k - done, k - span, -1):
            before, here = windows[n - 1], windows[n]
            if here.bid >= before.bid:
                flow += float(here.bid_depth[0])
            if here.bid <= before.bid:
                flow -= float(before.bid_depth[0])
            if here.ask <= before.ask:
                flow -= float(here.ask_depth[0])
            if here.ask >= before.ask:
                flow += float(before.ask_depth[0])
            depth += float(before.bid_depth[0]) + float(before.ask_depth[0])
        done = span
        row[column] = flow / (depth / (2 * (span + 1))) if depth > 0 else 0.0
        column += 1
    return column


@compiled
def _taker(windows: Records, k: int, row: Floats, column: int) -> int:
    """Taker imbalance per span (Chordia, Roll & Subrahmanyam 2002), a share from -1 to 1.

    (bought - sold) / (bought + sold), in lots that takers bought and sold; 0 where none traded.
    """
    bought, sold, done = 0.0, 0.0, 0
    for span in SPANS_BEATS:
        for n in range(k - done, k - span, -1):
            bought += float(windows[n].buy_lots)
            sold += float(windows[n].sell_lots)
        done = span
        row[column] = (bought - sold) / (bought + sold) if bought + sold > 0 else 0.0
        column += 1
    return column


@compiled
def _spread(newest: Record, row: Floats, column: int) -> int:
    """Spread when beat k ends, (a - b) / m in bp (Chordia, Roll & Subrahmanyam 2000)."""
    row[column] = 2e4 * float(newest.ask - newest.bid) / float(newest.bid + newest.ask)
    return column + 1


@compiled
def _depth(newest: Record, lot_tick: float, row: Floats, column: int) -> int:
    """Depth when beat k ends: all lots kept, B and A on the two sides.

    log(1 + (B + A) m), sizes in coins and m in quote currency (dollar depth of Chordia, Roll &
    Subrahmanyam 2000); and (B - A) / (B + A), from -1 to 1, 0 where there are none (Cao, Hansch &
    Wang 2009).
    """
    bids, asks = 0.0, 0.0
    for i in range(BUCKETS):
        bids += float(newest.bid_depth[i])
        asks += float(newest.ask_depth[i])
    median = float(newest.bid + newest.ask) / 2
    row[column] = np.log1p((bids + asks) * (median * lot_tick))
    row[column + 1] = (bids - asks) / (bids + asks) if bids + asks > 0 else 0.0
    return column + 2


@compiled
def _volatility(windows: Records, k: int, row: Floats, column: int) -> int:
    """Realised volatility per span, bp (Andersen, Bollerslev, Diebold & Labys 2003).

    The root of the sum over the span's L beats of log(m_n / m_(n-1))^2: not per unit of time.
    """
    squares, done = 0.0, 0
    for span in _RETURN_SPANS_BEATS:
        for n in range(k - done, k - span, -1):
            before = windows[n - 1].bid + windows[n - 1].ask
            moved = windows[n].bid + windows[n].ask - before
            squares += np.log1p(float(moved) / float(before)) ** 2
        done = span
        row[column] = 1e4 * np.sqrt(squares)
        column += 1
    return column


@compiled
def _time_of_day(beat: int, row: Floats, column: int) -> int:
    """Sine and cosine of the share of the UTC day, and of the week from Monday, at the beat's end.

    The first terms of the Fourier form of Andersen & Bollerslev (1997).
    """
    day = (beat % _DAY_BEATS + 1) / _DAY_BEATS
    week = ((beat % _WEEK_BEATS + 1 + _SINCE_MONDAY) % _WEEK_BEATS) / _WEEK_BEATS
    row[column], row[column + 1] = np.sin(2 * np.pi * day), np.cos(2 * np.pi * day)
    row[column + 2], row[column + 3] = np.sin(2 * np.pi * week), np.cos(2 * np.pi * week)
    return column + 4
