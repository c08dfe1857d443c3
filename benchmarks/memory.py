"""Memory of books: one like BTC's, the same after a wild jump, and the 55 of the universe together.

Measured by tracemalloc, to which numpy reports its arrays: what a WindowBuilder still holds after
its snapshot, without the rows that it was fed.
"""

import tracemalloc

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Result, report
from benchmarks.workload import BTC, START_NS, Shape, workload
from market.events import ASK, EVENT, Kind
from market.products import UNIVERSE
from market.windows import WindowBuilder

BOOK_LIMIT_MB, UNIVERSE_LIMIT_MB = 64, 1024
OTHER_LEVELS = 5_000  # A side, of books other than BTC's; fewer where there are fewer ticks.

# Plausible prices in USD; what matters is how many ticks they are.
PRICES = {
    "ZEC-USD": 500, "BTC-USD": 100_000, "ETH-USD": 4_000, "XRP-USD": 2.5, "SOL-USD": 200,
    "LTC-USD": 110, "AERO-USD": 1.1, "MORPHO-USD": 1.8, "XLM-USD": 0.4, "ADA-USD": 0.8,
    "TAO-USD": 400, "BCH-USD": 550, "ICP-USD": 5, "UNI-USD": 9, "LINK-USD": 20,
    "DOGE-USD": 0.2, "SUI-USD": 3.5, "DOT-USD": 4, "ONDO-USD": 0.9, "AVAX-USD": 25,
    "FIL-USD": 2.3, "HBAR-USD": 0.2, "NEAR-USD": 2.6, "PENGU-USD": 0.03, "WLD-USD": 1,
    "ZRO-USD": 2, "YFI-USD": 5_400, "PAXG-USD": 4_000, "COOKIE-USD": 0.15, "ARB-USD": 0.45,
    "COTI-USD": 0.06, "AAVE-USD": 300, "APE-USD": 0.6, "FET-USD": 0.65, "BICO-USD": 0.1,
    "SEI-USD": 0.3, "ETC-USD": 20, "ATOM-USD": 4.5, "AUCTION-USD": 10, "DASH-USD": 50,
    "TRUMP-USD": 8, "INJ-USD": 13, "APT-USD": 4.5, "JTO-USD": 1.7, "FIDA-USD": 0.08,
    "PENDLE-USD": 5, "WIF-USD": 0.8, "PYTH-USD": 0.12, "ALGO-USD": 0.22, "KAITO-USD": 1.2,
    "LDO-USD": 1.2, "TIA-USD": 1.6, "OP-USD": 0.75, "CRV-USD": 0.75, "STRK-USD": 0.13,
}  # fmt: skip


def measure() -> list[Result]:
    """Return megabytes held, against the limits."""
    WindowBuilder().feed(_snapshot(BTC))  # Compiles, so that the compiler's memory is not counted.
    btc = _held_mb([_snapshot(BTC)])
    tenfold = BTC._replace(mid=10 * BTC.mid, reach=10 * BTC.reach)
    far = _change(1_000_000_000)
    jumped = _held_mb([_snapshot(BTC), far, _snapshot(tenfold), far, _snapshot(BTC), far])
    universe = sum(_held_mb([_snapshot(_shape(listed.id, listed.tick))]) for listed in UNIVERSE)
    return [
        _result("memory of a book: btc", btc, BOOK_LIMIT_MB),
        _result("memory of a book: btc, to ten times the price and back", jumped, BOOK_LIMIT_MB),
        _result(f"memory of {len(UNIVERSE)} books", universe, UNIVERSE_LIMIT_MB),
    ]


def _result(name: str, held_mb: float, limit_mb: int) -> Result:
    print(f"{name}: {held_mb:.1f} MB; limit {limit_mb} MB")  # noqa: T201
    return Result(name, held_mb, "MB", limit_mb / held_mb, f"limit {limit_mb} MB")


def _held_mb(parts: list[NDArray[np.void]]) -> float:
    """Return what a builder holds after it was fed the parts, in MB of 2^20 bytes."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    builder = WindowBuilder()
    for part in parts:
        builder.feed(part)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert builder.synced
    return (held - before) / 2**20


def _shape(product_id: str, tick: float) -> Shape:
    """Return levels spread evenly over 20 % on both sides, at most one per tick."""
    if product_id == "BTC-USD":
        return BTC
    mid = round(PRICES[product_id] / tick)
    reach = mid // 5
    levels = min(OTHER_LEVELS, reach - 1)
    return Shape(product_id, mid, levels, levels // 10, reach, (0, 0))


def _snapshot(shape: Shape) -> NDArray[np.void]:
    return workload(shape, updates=0).events[:-1]


def _change(price: int) -> NDArray[np.void]:
    """Return one row: an ask far above everything."""
    row = np.zeros(1, EVENT)
    row["ns"], row["kind"], row["side"], row["last"] = START_NS, Kind.CHANGE, ASK, 1
    row["price"], row["size"] = price, 1
    return row


if __name__ == "__main__":
    report(measure())
