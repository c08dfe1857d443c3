"""All five labels of a day of beats, horizon 75, beside the search that defines them.

The yardsticks search in compiled code as well. The plain one goes forward as the definition words
it, with arrays over inventories and a loop over actions. The tuned one is the same by hand: a
beat's actions folded into its best purchase and best sale, the five first actions into the three
inventories that they lead to, searched side by side in nine scalars. The last one goes backward,
which needs three. Before the clock starts, all must find the same labels.
"""

from functools import partial

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.harness import Result, compare, report
from market.actions import Fees, resting_buy_fills, resting_sell_fills
from market.labels import HORIZON_BEATS, TOLERANCE_BPS, labels
from market.windows import WINDOW

SEED = 11
BEATS = 21_600  # A day.
REPEATS = 20  # Of ours, which is done with a day in less time than a clock likes.
TICKS = 6_400_000  # The price, 64,000.00.
FEES = Fees(taker_bps=5.0, maker_bps=0.0)

Windows = NDArray[np.void]
Floats = NDArray[np.float64]


def a_day(beats: int = BEATS) -> Windows:
    """Return the windows of a market much like BTC-USD, ten beats of which are invalid.

    The mid moves 1.2 bp per beat, four spreads of five are one tick, and within a beat the book
    reaches beyond where it opens and closes. Some 60 % of resting orders fill, on both sides.
    """
    rng = np.random.default_rng(SEED)
    windows = np.zeros(beats, WINDOW)
    windows["beat"] = 446_563_257 + np.arange(beats)
    windows["valid"] = True
    windows["valid"][rng.choice(beats, 10, replace=False)] = False
    steps = rng.normal(0, 1.2e-4 * TICKS, beats)
    bid = TICKS + np.cumsum(steps).astype(np.int64)
    ask = bid + np.where(rng.random(beats) < 0.8, 1, rng.integers(2, 400, beats))
    windows["bid"], windows["ask"] = bid, ask
    reach = rng.exponential(0.5e-4 * TICKS, (2, beats)).astype(np.int64)
    windows["low_ask"] = np.minimum(ask, np.roll(ask, 1)) - reach[0]
    windows["high_bid"] = np.maximum(bid, np.roll(bid, 1)) + reach[1]
    windows["trades"] = rng.poisson(3, beats)
    windows["trade_low"] = windows["low_ask"] - rng.integers(0, 20, beats)
    traded_high = windows["high_bid"] + rng.integers(0, 20, beats)
    windows["trade_high"] = np.maximum(traded_high, windows["trade_low"])
    windows["bid_depth"] = rng.lognormal(18, 1, (beats, 20)).astype(np.int64)
    windows["ask_depth"] = rng.lognormal(18, 1, (beats, 20)).astype(np.int64)
    return windows


def measure() -> list[Result]:
    """Measure ours beside the three searches."""
    windows = a_day()
    arguments = windows, FEES.taker_bps / 1e4, FEES.maker_bps / 1e4, HORIZON_BEATS
    searches = {
        "pruned search, plain": partial(_plain, *arguments),
        "pruned search, tuned to scalars": partial(_tuned, *arguments),
        "backward search in scalars": partial(_backward, *arguments),
    }
    wanted = labels(windows, FEES)
    for name, search in searches.items():
        found = search()
        same = np.array_equal(np.isnan(found), np.isnan(wanted))
        if not same or np.nanmax(abs(found - wanted)) > TOLERANCE_BPS:
            raise SystemExit(f"{name} does not find our labels")
    labelled = int((~np.isnan(wanted[:, 0])).sum())
    print(f"{len(windows)} beats, {labelled} labels; the searches find the same")  # noqa: T201

    def ours() -> None:
        for _ in range(REPEATS):
            labels(windows, FEES)

    against = {name: (search, len(windows)) for name, search in searches.items()}
    name = f"labels, five actions, horizon {HORIZON_BEATS}"
    return compare(name, "beats/s", ours, against, REPEATS * len(windows), runs=7)


@njit(cache=True)
def _whole(windows, k, horizon):  # type: ignore[no-untyped-def]
    """Whether beats k .. k+horizon are all there and valid."""
    if k + horizon >= len(windows) or windows[k + horizon].beat != windows[k].beat + horizon:
        return False
    for j in range(k, k + horizon + 1):
        if not windows[j].valid:
            return False
    return True


@njit(cache=True)
def _moves(windows, taker, maker):  # type: ignore[no-untyped-def]
    """Per beat and action: the change of inventory, and the cash in ticks."""
    change, cash = np.zeros((len(windows), 5), np.int64), np.zeros((len(windows), 5))
    for k in range(len(windows) - 1):
        here, after = windows[k], windows[k + 1]
        change[k, 0], cash[k, 0] = 1, -here.ask * (1 + taker)
        change[k, 2], cash[k, 2] = -1, here.bid * (1 - taker)
        if resting_buy_fills(here.ask - 1, after.low_ask, after.trades, after.trade_low):
            change[k, 1], cash[k, 1] = 1, -(here.ask - 1) * (1 + maker)
        if resting_sell_fills(here.bid + 1, after.high_bid, after.trades, after.trade_high):
            change[k, 3], cash[k, 3] = -1, (here.bid + 1) * (1 - maker)
    return change, cash


@njit(cache=True)
def _plain(windows, taker, maker, horizon):  # type: ignore[no-untyped-def]
    out = np.full((len(windows), 5), np.nan)
    change, cash = _moves(windows, taker, maker)
    best, reached = np.empty(3), np.empty(3)  # Cash per inventory -1, 0, +1.
    for k in range(len(windows)):
        if not _whole(windows, k, horizon):
            continue
        mid = (windows[k].bid + windows[k].ask) / 2
        last = (windows[k + horizon].bid + windows[k + horizon].ask) / 2
        for first in range(5):
            best[:] = -np.inf
            best[1 + change[k, first]] = cash[k, first]
            for j in range(k + 1, k + horizon):
                reached[:] = -np.inf
                for inventory in range(3):
                    for action in range(5):
                        landing = inventory + change[j, action]
                        if 0 <= landing <= 2:
                            total = best[inventory] + cash[j, action]
                            reached[landing] = max(reached[landing], total)
                best, reached = reached, best
            worth = max(best[0] - last, best[1], best[2] + last)
            out[k, first] = worth / mid * 1e4
    return out


@njit(cache=True)
def _folded(change, cash):  # type: ignore[no-untyped-def]
    """The best cash of a purchase and of a sale, per beat."""
    buy, sell = np.empty(len(cash)), np.empty(len(cash))
    for k in range(len(cash)):
        buy[k] = max(cash[k, 0], cash[k, 1]) if change[k, 1] else cash[k, 0]
        sell[k] = max(cash[k, 2], cash[k, 3]) if change[k, 3] else cash[k, 2]
    return buy, sell


@njit(cache=True)
def _after(best, buy, sell):  # type: ignore[no-untyped-def]
    """The best cash per inventory (short, flat, long) one beat later."""
    short, flat, long = best
    return max(short, flat + sell), max(flat, max(short + buy, long + sell)), max(long, flat + buy)


@njit(cache=True)
def _tuned(windows, taker, maker, horizon):  # type: ignore[no-untyped-def]
    out = np.full((len(windows), 5), np.nan)
    change, cash = _moves(windows, taker, maker)
    buy, sell = _folded(change, cash)
    worth = np.empty(3)
    for k in range(len(windows)):
        if not _whole(windows, k, horizon):
            continue
        mid = (windows[k].bid + windows[k].ask) / 2
        last = (windows[k + horizon].bid + windows[k + horizon].ask) / 2
        from_short, from_flat = (0.0, -np.inf, -np.inf), (-np.inf, 0.0, -np.inf)
        from_long = (-np.inf, -np.inf, 0.0)
        for j in range(k + 1, k + horizon):
            from_short = _after(from_short, buy[j], sell[j])
            from_flat = _after(from_flat, buy[j], sell[j])
            from_long = _after(from_long, buy[j], sell[j])
        for start, (short, flat, long) in enumerate((from_short, from_flat, from_long)):
            worth[start] = max(flat, max(short - last, long + last))
        for first in range(5):
            out[k, first] = (cash[k, first] + worth[1 + change[k, first]]) / mid * 1e4
    return out


@njit(cache=True)
def _backward(windows, taker, maker, horizon):  # type: ignore[no-untyped-def]
    out = np.full((len(windows), 5), np.nan)
    change, cash = _moves(windows, taker, maker)
    buy, sell = _folded(change, cash)
    for k in range(len(windows)):
        if not _whole(windows, k, horizon):
            continue
        mid = (windows[k].bid + windows[k].ask) / 2
        last = (windows[k + horizon].bid + windows[k + horizon].ask) / 2
        short, flat, long = -last, 0.0, last  # What each inventory is worth.
        for j in range(k + horizon - 1, k, -1):
            bought, sold = buy[j] + flat, sell[j] + flat
            flat = max(flat, max(buy[j] + long, sell[j] + short))
            short, long = max(short, bought), max(long, sold)
        for first in range(5):
            start = change[k, first]
            worth = flat if start == 0 else long if start == 1 else short
            out[k, first] = (cash[k, first] + worth) / mid * 1e4
    return out


if __name__ == "__main__":
    report(measure())
