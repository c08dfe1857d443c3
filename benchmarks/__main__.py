"""Print one line per hot path: its speed, its yardstick's, and the ratio of the two."""

import json
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.advanced_trade import decode
from actors.reader import Reader
from market.actions import Fees
from market.events import ASK, BID, EVENT, Kind
from market.labels import HORIZON_BEATS, labels
from market.products import product
from market.windows import BEAT_NS, WINDOW, WindowBuilder
from tests.reference.labels import labels_of

SEED = 7
REPEATS = 3
MID = 10_000_000  # Ticks of 0.01: a book like BTC's at 100,000.


class Row(NamedTuple):
    """One measured path."""

    name: str
    unit: str
    rate: float
    yardstick: str
    yardstick_rate: float


def best_rate(work: Callable[[], object], amount: int) -> float:
    """Return amount per second of the fastest of some runs, after one that compiles."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return amount / min(times)


def btc_like_events(levels: int = 20_000, updates: int = 200_000) -> NDArray[np.void]:
    """Return a snapshot of `levels` a side and updates near the touch over some beats."""
    rng = np.random.default_rng(SEED)
    events = np.zeros(2 * levels + updates, EVENT)
    depth = np.arange(1, levels + 1)
    events["kind"][: 2 * levels] = Kind.SNAPSHOT
    events["side"][levels : 2 * levels] = ASK
    events["price"][: 2 * levels] = np.concatenate([MID - depth * 100, MID + depth * 100])
    events["kind"][2 * levels :] = Kind.CHANGE
    side = rng.integers(0, 2, updates)
    away = 100 * np.minimum(1 + rng.geometric(0.05, updates), levels)
    events["side"][2 * levels :] = side
    events["price"][2 * levels :] = np.where(side == BID, MID - away, MID + away)
    events["size"] = rng.integers(1, 10**8, len(events))
    events["size"][2 * levels :][rng.random(updates) < 0.4] = 0
    events["last"][2 * levels - 1 :] = 1
    events["ns"][2 * levels :] = np.linspace(0, 90 * BEAT_NS, updates).astype(np.int64)
    return events


def plain_dict_windows(events: NDArray[np.void]) -> int:
    """Apply the same rows to two dicts and sum the near levels at each beat's end."""
    book: tuple[dict[int, int], dict[int, int]] = ({}, {})
    beat, total = 0, 0
    for ns, side, price, size in zip(
        *(events[c].tolist() for c in ("ns", "side", "price", "size")), strict=True
    ):
        if ns // BEAT_NS > beat:
            beat = ns // BEAT_NS
            mid2 = max(book[0]) + min(book[1])
            reach = mid2 // 100
            total += sum(q for p, q in book[0].items() if mid2 - 2 * p < reach)
            total += sum(q for p, q in book[1].items() if 2 * p - mid2 < reach)
        if size:
            book[side][price] = size
        else:
            book[side].pop(price, None)
    return total


def advanced_frames(count: int = 20_000) -> list[bytes]:
    """Return update frames of five level changes each."""
    rng = np.random.default_rng(SEED)
    frames = []
    for n in range(count):
        cents, lots = rng.integers(6_000_000, 6_500_000, 5), rng.integers(0, 10**8, 5)
        updates = [
            {
                "side": "bid" if c % 2 else "offer",
                "event_time": "2026-08-09T05:23:41.877755Z",
                "price_level": f"{c / 100:.2f}",
                "new_quantity": f"{q / 1e8:.8f}",
            }
            for c, q in zip(cents.tolist(), lots.tolist(), strict=True)
        ]
        event = {"type": "update", "product_id": "BTC-USD", "updates": updates}
        stamp = f"2026-08-09T05:{n // 600 % 60:02d}:{n // 10 % 60:02d}.{n % 10}Z"
        frame = {"channel": "l2_data", "timestamp": stamp, "sequence_num": n, "events": [event]}
        frames.append(json.dumps(frame, separators=(",", ":")).encode())
    return frames


def walk_windows(beats: int) -> NDArray[np.void]:
    """Return valid windows of a random walk with fills on both sides."""
    rng = np.random.default_rng(SEED)
    windows = np.zeros(beats, WINDOW)
    windows["beat"], windows["valid"] = np.arange(beats), True
    windows["bid"] = MID + np.cumsum(rng.integers(-50, 51, beats))
    windows["ask"] = windows["bid"] + rng.integers(1, 100, beats)
    windows["low_ask"] = windows["ask"] - rng.integers(0, 60, beats)
    windows["high_bid"] = windows["bid"] + rng.integers(0, 60, beats)
    return windows


def measure() -> list[Row]:
    """Measure every path beside its yardstick."""
    events, frames = btc_like_events(), advanced_frames()
    many = walk_windows(50_000)
    plain = [dict(zip(WINDOW.names or (), row, strict=True)) for row in many[:300].tolist()]
    for row in plain:
        row["trade_low"] = row["trade_high"] = None
    products = {"BTC-USD": product("BTC-USD")}

    def read() -> None:
        reader = Reader(decode, products)
        for frame in frames:
            reader.frame(frame, 0)

    return [
        Row(
            "events through the book to windows",
            "events/s",
            best_rate(lambda: WindowBuilder().feed(events), len(events)),
            "two dicts",
            best_rate(lambda: plain_dict_windows(events), len(events)),
        ),
        Row(
            "frames to events",
            "frames/s",
            best_rate(read, len(frames)),
            "json.loads alone",
            best_rate(lambda: [json.loads(f) for f in frames], len(frames)),
        ),
        Row(
            "labels, five actions, horizon 75",
            "beats/s",
            best_rate(lambda: labels(many, Fees()), len(many)),
            "pruned search in plain Python",
            best_rate(lambda: labels_of(plain, 5.0, 0.0, HORIZON_BEATS), len(plain)),
        ),
    ]


def main() -> None:
    """Print the table."""
    for row in measure():
        ratio = row.rate / row.yardstick_rate
        print(  # noqa: T201
            f"{row.name}: {row.rate:,.0f} {row.unit}; {row.yardstick}: "
            f"{row.yardstick_rate:,.0f}; ratio {ratio:.1f}"
        )


if __name__ == "__main__":
    main()
