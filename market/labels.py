"""Labels (section 6): what each action earns if the best actions follow for the next five minutes.

All that a sequence of actions leaves behind is cash and an inventory in {-1, 0, +1}. One beat is
then a 3x3 matrix in (max,+) algebra: entry p,q is the best cash that takes inventory p to q. Two
numbers fill it, the best cash of a buy and of a sale; staying costs nothing and no order moves the
inventory by two. A label needs the product of the matrices of beats k+1 .. k+horizon-1, applied to
what each inventory is worth in the end.

Such sliding products cost O(1) per beat, whatever the horizon (van Herk 1992, Gil and Werman 1993,
who take maxima; any associative operation will do): cut time into blocks of horizon-1 beats, keep
the products of all tails of one block and let the product of the head of the next one grow; what
a label needs is a tail times a head. The borders lie at fixed beats, so that a label's bits do not
depend on where the windows begin.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from market.actions import Action, Fees, resting_buy_fills, resting_sell_fills
from market.features import checked_windows, valid_run
from market.jit import compiled

HORIZON_BEATS = 75  # Five minutes.
TOLERANCE_BPS = 1e-6

# As numba wants them: plain module constants.
_FORCE_BUY, _CLOSE_BUY = Action.FORCE_BUY, Action.CLOSE_BUY
_FORCE_SELL, _CLOSE_SELL, _NO_OP = Action.FORCE_SELL, Action.CLOSE_SELL, Action.NO_OP
_MEDIAN = _NO_OP  # Doing nothing costs nothing: until there are labels, its column is free.
_NEVER = -np.inf  # The cash of what cannot be done.

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class _PerInventory(NamedTuple):
    """A row or a column of a matrix, or what each inventory is worth."""

    short: float
    flat: float
    long: float


def labels(windows: NDArray[np.void], fees: Fees, horizon: int = HORIZON_BEATS) -> Floats:
    """Return the five labels of every window in basis points of its median, [n, 5].

    A row is NaN where beats k .. k+horizon are not all there and valid. `windows` is WINDOW[n] of
    one product in ascending order of beat. ValueError as from `valid_run`, for a valid beat without
    extremes, and for a horizon that is not a whole number of beats from 1.
    """
    windows = checked_windows(windows)
    if not isinstance(fees, Fees):
        raise ValueError(f"fees must be Fees, got {type(fees).__name__}")
    whole = isinstance(horizon, (int, np.integer)) and not isinstance(horizon, bool)
    if not whole or horizon < 1:
        raise ValueError(f"horizon must be a whole number of beats from 1, got {horizon!r}")
    run = valid_run(windows)
    out = np.empty((len(windows), len(Action)))
    # A horizon beyond all windows leaves no label, however far.
    reach = min(int(horizon), len(windows) + 1)
    bad = _place(windows, fees.taker_bps / 1e4, fees.maker_bps / 1e4, out)
    if bad >= 0:
        raise ValueError(
            f"windows: valid beat {windows['beat'][bad]} must have low_ask and high_bid, and "
            "trade_low and trade_high if there are trades"
        )
    _label(windows, run, reach, np.empty((reach, 3, 3)), out)
    return out


def optimal(values: Floats) -> NDArray[np.bool_]:
    """Return which actions are optimal, [n, 5]: within 1e-6 bp of the row's maximum.

    None is in a row with NaN. ValueError unless `values` is f8[n, 5].
    """
    best: Floats = _checked_values(values).max(axis=1, keepdims=True)
    return np.greater_equal(values, best - TOLERANCE_BPS)


def advantage(values: Floats) -> Floats:
    """Return labels minus that of NO_OP, [n, 5]: what a decision can earn.

    ValueError unless `values` is f8[n, 5].
    """
    return _checked_values(values) - values[:, Action.NO_OP : Action.NO_OP + 1]


def _checked_values(values: Floats) -> Floats:
    if not isinstance(values, np.ndarray) or values.dtype != np.float64:
        got = getattr(values, "dtype", type(values).__name__)
        raise ValueError(f"values must be float64, got {got}")
    if values.ndim != 2 or values.shape[1] != len(Action):
        raise ValueError(f"values must be [n, {len(Action)}], got {list(values.shape)}")
    return values


@compiled
def _place(windows: NDArray[np.void], taker: float, maker: float, out: Floats) -> int:
    """Note for each beat, in ticks, the cash of the orders placed when it ends, and its median.

    Return the first valid beat whose extremes are no prices, or -1.
    """
    for k in range(len(windows)):
        here, after = windows[k], windows[min(k + 1, len(windows) - 1)]
        traded = here.trades == 0 or 0 < here.trade_low <= here.trade_high
        if here.valid and not (here.low_ask > 0 and here.high_bid > 0 and traded):
            return k
        buy_at, sell_at = here.ask - 1, here.bid + 1
        bought = resting_buy_fills(buy_at, after.low_ask, after.trades, after.trade_low)
        sold = resting_sell_fills(sell_at, after.high_bid, after.trades, after.trade_high)
        out[k, _FORCE_BUY] = -here.ask * (1 + taker)
        out[k, _CLOSE_BUY] = -buy_at * (1 + maker) if bought else _NEVER
        out[k, _FORCE_SELL] = here.bid * (1 - taker)
        out[k, _CLOSE_SELL] = sell_at * (1 - maker) if sold else _NEVER
        out[k, _MEDIAN] = (here.bid + here.ask) * 0.5
    return -1


@compiled
def _label(windows: NDArray[np.void], runs: Ints, horizon: int, tails: Floats, out: Floats) -> None:
    """Put labels in the place of what `_place` noted, NaN where there is none.

    `tails` is room for the products of a block without its first i beats, [horizon, 3, 3].
    """
    block = max(horizon - 1, 1)
    from_short, from_flat, from_long = _identity()  # Rows of the head's product.
    run = at = 0
    for j in range(len(out)):
        before, run = run, runs[j]
        if run < 2:  # What the run before leaves behind has no label, nor has an invalid beat.
            out[j - min(before, horizon) : j + 1 - run] = np.nan
        if run <= horizon:
            continue
        k = j - horizon
        at = windows[k].beat % block if run == horizon + 1 else at + 1
        done = j - 1
        if at == block or run == horizon + 1:  # The border has moved on: to `at` beats before j.
            at %= block
            done = j - at
            _multiply_tails(out[k + 1 : done], tails[at:])
            from_short, from_flat, from_long = _identity()
        for i in range(done, j):
            buy, sell = _best(out[i])
            from_short = _extended(from_short, sell, buy)
            from_flat = _extended(from_flat, sell, buy)
            from_long = _extended(from_long, sell, buy)
        mid = out[j, _MEDIAN]
        end = _PerInventory(-mid, 0.0, mid)
        border = _PerInventory(_dot(from_short, end), _dot(from_flat, end), _dot(from_long, end))
        _finish(out[k], _applied(tails[at], border), 1e4 / out[k, _MEDIAN])
    out[len(out) - min(run, horizon) :] = np.nan


@compiled
def _best(cash: Floats) -> tuple[float, float]:
    """The best cash of a buy and of a sale: all that a beat's matrix needs."""
    return max(cash[_FORCE_BUY], cash[_CLOSE_BUY]), max(cash[_FORCE_SELL], cash[_CLOSE_SELL])


@compiled
def _finish(row: Floats, value: _PerInventory, scale: float) -> None:
    """Turn the orders' cash into labels; `value` is what each inventory is worth after them."""
    row[_FORCE_BUY] = (row[_FORCE_BUY] + value.long) * scale
    row[_FORCE_SELL] = (row[_FORCE_SELL] + value.short) * scale
    # A resting order that does not fill is as good as none.
    bought, sold = row[_CLOSE_BUY] > _NEVER, row[_CLOSE_SELL] > _NEVER
    row[_CLOSE_BUY] = (row[_CLOSE_BUY] + value.long if bought else value.flat) * scale
    row[_CLOSE_SELL] = (row[_CLOSE_SELL] + value.short if sold else value.flat) * scale
    row[_NO_OP] = value.flat * scale


@compiled
def _identity() -> tuple[_PerInventory, _PerInventory, _PerInventory]:
    return (
        _PerInventory(0.0, _NEVER, _NEVER),
        _PerInventory(_NEVER, 0.0, _NEVER),
        _PerInventory(_NEVER, _NEVER, 0.0),
    )


@compiled
def _extended(line: _PerInventory, up: float, down: float) -> _PerInventory:
    """A column times one beat before it (up: buy, down: sell), or a row times one after it.

    In a row the cash to reach an inventory from above is a sale's, so there up is sell.
    """
    return _PerInventory(
        max(line.short, line.flat + up),
        max(line.flat, max(line.long + up, line.short + down)),
        max(line.long, line.flat + down),
    )


@compiled
def _multiply_tails(cash: Floats, tails: Floats) -> None:
    """Fill tails[i] with the product of all beats from the i-th on, given their orders' cash."""
    columns = _identity()
    for i in range(len(cash), -1, -1):
        if i < len(cash):
            buy, sell = _best(cash[i])
            columns = (
                _extended(columns[0], buy, sell),
                _extended(columns[1], buy, sell),
                _extended(columns[2], buy, sell),
            )
        for q, column in enumerate(columns):
            tails[i, 0, q], tails[i, 1, q], tails[i, 2, q] = column


@compiled
def _dot(row: _PerInventory, worth: _PerInventory) -> float:
    return max(row.flat + worth.flat, max(row.short + worth.short, row.long + worth.long))


@compiled
def _applied(matrix: Floats, worth: _PerInventory) -> _PerInventory:
    return _PerInventory(
        _dot(_PerInventory(matrix[0, 0], matrix[0, 1], matrix[0, 2]), worth),
        _dot(_PerInventory(matrix[1, 0], matrix[1, 1], matrix[1, 2]), worth),
        _dot(_PerInventory(matrix[2, 0], matrix[2, 1], matrix[2, 2]), worth),
    )
