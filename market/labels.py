"""Labels (section 6): what each action earns if the best actions follow for the next five minutes.

For each beat the search runs backwards from the horizon over the only state there is, the
inventory in {-1, 0, +1}: the best cash flow per inventory is all that a search over action
sequences needs to keep, so this finds exactly what the breadth-first search with pruning finds.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from market.actions import Action, Fees, resting_buy_fills, resting_sell_fills
from market.features import valid_run
from market.windows import WINDOW

HORIZON_BEATS = 75  # Five minutes.
TOLERANCE_BPS = 1e-6

# As numba wants them: plain module constants.
_FORCE_BUY, _CLOSE_BUY = Action.FORCE_BUY, Action.CLOSE_BUY
_FORCE_SELL, _CLOSE_SELL, _NO_OP = Action.FORCE_SELL, Action.CLOSE_SELL, Action.NO_OP

Floats = NDArray[np.float64]


def labels(windows: NDArray[np.void], fees: Fees, horizon: int = HORIZON_BEATS) -> Floats:
    """Return the five labels of every window in basis points of its median, [n, 5].

    A row is NaN where beats k .. k+horizon are not all there and valid. `windows` is WINDOW[n] of
    one product in ascending order of beat.
    """
    if windows.dtype != WINDOW:
        raise ValueError(f"windows must have the WINDOW dtype, got {windows.dtype}")
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1 beat, got {horizon}")
    run = valid_run(windows)
    out = np.full((len(windows), len(Action)), np.nan)
    complete = np.flatnonzero(run > horizon) - horizon
    cash = _cash_flows(windows, fees.taker_bps / 1e4, fees.maker_bps / 1e4)
    mid = (windows["bid"] + windows["ask"]) / 2
    _search(cash, mid, complete, horizon, out)
    return out


def optimal(values: Floats) -> NDArray[np.bool_]:
    """Return which actions are optimal, [n, 5]: within 1e-6 bp of the row's maximum."""
    best: Floats = values.max(axis=1, keepdims=True)
    return np.greater_equal(values, best - TOLERANCE_BPS)


def advantage(values: Floats) -> Floats:
    """Return labels minus that of NO_OP, [n, 5]: what a decision can earn."""
    return values - values[:, Action.NO_OP : Action.NO_OP + 1]


def _cash_flows(windows: NDArray[np.void], taker: float, maker: float) -> Floats:
    """Cash of each action if placed when a beat ends, in ticks, [n, 5]; NaN if it does not fill."""
    n = len(windows)
    cash = np.zeros((n, len(Action)))
    cash[:, Action.FORCE_BUY] = -windows["ask"] * (1 + taker)
    cash[:, Action.FORCE_SELL] = windows["bid"] * (1 - taker)
    buy_at, sell_at = windows["ask"] - 1, windows["bid"] + 1
    buys, sells = np.zeros(n, bool), np.zeros(n, bool)
    _resting_fills(windows, buy_at, sell_at, buys, sells)
    cash[:, Action.CLOSE_BUY] = np.where(buys, -buy_at * (1 + maker), np.nan)
    cash[:, Action.CLOSE_SELL] = np.where(sells, sell_at * (1 - maker), np.nan)
    return cash


@njit(cache=True)
def _resting_fills(windows, buy_at, sell_at, buys, sells):  # type: ignore[no-untyped-def]
    for k in range(len(windows) - 1):
        after = windows[k + 1]
        buys[k] = resting_buy_fills(buy_at[k], after.low_ask, after.trades, after.trade_low)
        sells[k] = resting_sell_fills(sell_at[k], after.high_bid, after.trades, after.trade_high)


@njit(cache=True)
def _better(cash: float, then: float, best: float) -> float:
    """The larger of `best` and `cash + then`; an order that does not fill (NaN) changes nothing."""
    return cash + then if cash + then > best else best


@njit(cache=True)
def _search(cash, mid, complete, horizon, out):  # type: ignore[no-untyped-def]
    for k in complete:
        last = mid[k + horizon]
        short, flat, long = -last, 0.0, last  # Value of holding each inventory at the horizon.
        for j in range(k + horizon - 1, k, -1):
            force_buy, close_buy = cash[j, _FORCE_BUY], cash[j, _CLOSE_BUY]
            force_sell, close_sell = cash[j, _FORCE_SELL], cash[j, _CLOSE_SELL]
            from_short = _better(close_buy, flat, _better(force_buy, flat, short))
            from_flat = _better(close_buy, long, _better(force_buy, long, flat))
            from_flat = _better(close_sell, short, _better(force_sell, short, from_flat))
            from_long = _better(close_sell, flat, _better(force_sell, flat, long))
            short, flat, long = from_short, from_flat, from_long
        scale = 1e4 / mid[k]
        close_buy, close_sell = cash[k, _CLOSE_BUY], cash[k, _CLOSE_SELL]
        out[k, _FORCE_BUY] = (cash[k, _FORCE_BUY] + long) * scale
        out[k, _CLOSE_BUY] = (flat if np.isnan(close_buy) else close_buy + long) * scale
        out[k, _FORCE_SELL] = (cash[k, _FORCE_SELL] + short) * scale
        out[k, _CLOSE_SELL] = (flat if np.isnan(close_sell) else close_sell + short) * scale
        out[k, _NO_OP] = flat * scale
