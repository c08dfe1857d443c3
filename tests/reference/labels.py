"""Labels by search over action sequences: breadth first with pruning, and exhaustively.

Windows are plain dicts. Prices stay in ticks: a label is a ratio, so the unit cancels. The same
breadth-first search for many beats at once, in integers, is for longer sweeps and exact ties.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORCE_BUY, CLOSE_BUY, FORCE_SELL, CLOSE_SELL, NO_OP = range(5)
ACTIONS = range(5)

Move = tuple[int, float]  # change of inventory, cash flow
Search = Callable[[list[list[Move]], int, float], float]


def median(window: dict[str, Any]) -> float:
    """Mid price in ticks."""
    return (window["bid"] + window["ask"]) / 2


def move(action: int, here: dict, following: dict, taker: float, maker: float) -> Move:
    """What an action placed at the end of beat `here` does in the beat after; fees as fractions."""
    low, high = following["trade_low"], following["trade_high"]
    if action == FORCE_BUY:
        return 1, -here["ask"] * (1 + taker)
    if action == FORCE_SELL:
        return -1, here["bid"] * (1 - taker)
    if action == CLOSE_BUY:
        price = here["ask"] - 1
        if following["low_ask"] <= price or (low is not None and low < price):
            return 1, -price * (1 + maker)
    if action == CLOSE_SELL:
        price = here["bid"] + 1
        if following["high_bid"] >= price or (high is not None and high > price):
            return -1, price * (1 - maker)
    return 0, 0.0


def available(action: int, inventory: int) -> bool:
    """Whether the order, if it fills, keeps the inventory within one unit."""
    if action in (FORCE_BUY, CLOSE_BUY):
        return inventory + 1 <= 1
    if action in (FORCE_SELL, CLOSE_SELL):
        return inventory - 1 >= -1
    return True


def breadth_first(moves: list[list[Move]], first: int, last_median: float) -> float:
    """Best profit when `first` comes first: best cash per inventory at each depth."""
    change, flow = moves[0][first]
    best = {change: flow}
    for step in moves[1:]:
        reached: dict[int, float] = {}
        for inventory, cash in best.items():
            for action in ACTIONS:
                if available(action, inventory):
                    change, flow = step[action]
                    landing = inventory + change
                    reached[landing] = max(reached.get(landing, float("-inf")), cash + flow)
        best = reached
    return max(cash + inventory * last_median for inventory, cash in best.items())


def exhaustive(moves: list[list[Move]], first: int, last_median: float) -> float:
    """Best profit when `first` comes first, over all available sequences, nothing pruned."""

    def rest(depth: int, inventory: int, cash: float) -> float:
        if depth == len(moves):
            return cash + inventory * last_median
        outcomes = []
        for action in ACTIONS:
            if available(action, inventory):
                change, flow = moves[depth][action]
                outcomes.append(rest(depth + 1, inventory + change, cash + flow))
        return max(outcomes)

    change, flow = moves[0][first]
    return rest(1, change, flow)


def labels_of(
    windows: list[dict[str, Any]],
    taker_bps: float,
    maker_bps: float,
    horizon: int,
    search: Search = breadth_first,
) -> list[list[float] | None]:
    """One row of five labels in basis points per window, None where there is no label."""
    by_beat = {window["beat"]: window for window in windows}
    taker, maker = taker_bps / 10_000, maker_bps / 10_000
    rows: list[list[float] | None] = []
    for window in windows:
        path = [by_beat.get(window["beat"] + ahead) for ahead in range(horizon + 1)]
        if any(step is None or not step["valid"] for step in path):
            rows.append(None)
            continue
        moves = [
            [move(action, path[i], path[i + 1], taker, maker) for action in ACTIONS]
            for i in range(horizon)
        ]
        last = median(path[horizon])
        rows.append([search(moves, a, last) / median(window) * 10_000 for a in ACTIONS])
    return rows


Longs = NDArray[np.int64]
UNREACHED = -(2**62)


def exact_moves(
    windows: dict[str, Longs], taker: int, maker: int
) -> list[tuple[int, NDArray[np.bool_], Longs]]:
    """Per action: change of inventory, whether it fills in the next beat, and the cash flow then.

    Fees are in hundredths of a basis point, cash in 2,000,000ths of a tick: all is whole.
    """
    ask, bid = windows["ask"][:-1], windows["bid"][:-1]
    low_ask, high_bid, trades = (windows[name][1:] for name in ("low_ask", "high_bid", "trades"))
    buys = (low_ask <= ask - 1) | ((trades > 0) & (windows["trade_low"][1:] < ask - 1))
    sells = (high_bid >= bid + 1) | ((trades > 0) & (windows["trade_high"][1:] > bid + 1))
    always, whole = np.ones(len(ask), bool), 1_000_000
    return [
        (1, always, -2 * ask * (whole + taker)),
        (1, buys, -2 * (ask - 1) * (whole + maker)),
        (-1, always, 2 * bid * (whole - taker)),
        (-1, sells, 2 * (bid + 1) * (whole - maker)),
        (0, always, 0 * ask),
    ]


def exact_breadth_first(
    windows: dict[str, Longs], taker: int, maker: int, horizon: int
) -> tuple[Longs, Longs]:
    """Best profits in 2,000,000ths of a tick, [n - horizon, 5], and twice the medians they are of.

    `windows` are columns of beats that follow each other, all valid.
    """
    mid2 = windows["bid"] + windows["ask"]
    count = max(len(mid2) - horizon, 0)
    moves = exact_moves(windows, taker, maker)
    profits = np.zeros((count, len(ACTIONS)), np.int64)
    for first in ACTIONS:
        best = {inventory: np.full(count, UNREACHED) for inventory in (-1, 0, 1)}
        best[0] = np.zeros(count, np.int64)
        for depth in range(horizon):
            reached = {inventory: np.full(count, UNREACHED) for inventory in best}
            for inventory, cash in best.items():
                for action in [first] if depth == 0 else ACTIONS:
                    if available(action, inventory):
                        change, fills, flow = moves[action]
                        here = slice(depth, depth + count)
                        done = np.where(fills[here], cash + flow[here], UNREACHED)
                        idle = np.where(fills[here], UNREACHED, cash)
                        landing = inventory + change
                        reached[landing] = np.maximum(reached[landing], done)
                        reached[inventory] = np.maximum(reached[inventory], idle)
            best = reached
        last = mid2[horizon:] * 1_000_000
        profits[:, first] = np.max([cash + inv * last for inv, cash in best.items()], axis=0)
    return profits, mid2[:count]
