"""Stylised facts of the generated market beside those of real recordings, in docs/stylised.md.

Everything is measured on the windows that the project's own readers and books make, so both are
seen as a model sees them. Nothing is judged here: the columns differ, and the table says by how
much. `python -m benchmarks.stylised`
"""

import gzip
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors import advanced_trade, exchange_feed
from actors.reader import Reader
from benchmarks.__main__ import ROOT, replaced
from market.events import ASK, BID, EVENT, Kind, mark
from market.products import Product, product, product_of
from market.windows import BEAT_NS, WindowBuilder
from sim.flow import FlowConfig, FlowMarket

PAGE = ROOT / "docs" / "stylised.md"
RECORDINGS = ROOT.parent / "shared" / "data"
BTC = product("BTC-USD")
THIN = "BAND-GBP BAND-BTC YFI-BTC NU-GBP CRV-EUR SKL-GBP SKL-USD SKL-BTC NMR-EUR DASH-BTC".split()
RECORDED = {
    "BTC-USD 2026, 3 min": ("advanced-btc-usd-180s.jsonl.gz", [BTC]),
    "BTC-USD 2018, 45 min": ("exchange-btc-usd-2018-45min.jsonl.gz", [BTC]),
    "ten thin, 2021, 31 s, median": (
        "exchange-10-products-31s.jsonl.gz",
        [product_of(name, "0.00000001", "0.00000001") for name in THIN],
    ),
}
GENERATED = ("BTC-USD", "SOL-USD", "ADA-USD", "STRK-USD")
GENERATED_S = 45 * 60
START_NS = 1_767_571_200_000_000_000
LAGS = 5
FEWEST_RETURNS = 30  # For an autocorrelation to be stated.
NEAR = 0.02


class Facts(NamedTuple):
    """What is measured of one product; of several, the medians."""

    beats: float
    spread_median: float  # Ticks, when a beat ends.
    spread_p90: float
    spread_bps: float
    levels_near: float  # Within 2 % of the mid, mean of both sides.
    updates_per_s: float
    moved: float  # Share of beats in which the median moves.
    return_bps: float  # Standard deviation of the 4 s returns.
    depth: tuple[float, ...]  # Share of each of the 20 buckets, mean of both sides and all beats.
    returns: tuple[float, ...]  # Autocorrelation of 4 s returns, lags 1 to 5; nan if unknown.
    magnitudes: tuple[float, ...]  # The same of their absolute values.


def main() -> None:
    """Measure recordings and the generated market, print the table and write it."""
    columns: dict[str, Facts] = {}
    for name, (file, products) in RECORDED.items():
        if (RECORDINGS / file).exists():
            columns[name] = median_of([_facts_of(events) for events in _recorded(file, products)])
        else:
            print(f"{file} is not in {RECORDINGS}: skipped")  # noqa: T201
    for name in GENERATED:
        columns[f"generated {name}"] = _facts_of(_generated(product(name)))
    table = table_of(columns)
    print(table)  # noqa: T201
    PAGE.write_text(replaced(PAGE.read_text("utf-8"), table), "utf-8")


def measure(windows: NDArray[np.void], levels_near: float) -> Facts:
    """Return the facts of windows (WINDOW[n], in order) of which the valid ones count."""
    valid = windows[windows["valid"]]
    mid2 = (valid["bid"] + valid["ask"]).astype(float)
    spread = (valid["ask"] - valid["bid"]).astype(float)
    adjacent = np.diff(valid["beat"]) == 1
    returns = np.where(adjacent, np.diff(np.log(mid2)) * 1e4, np.nan)
    known = returns[adjacent]
    depth = np.mean([_shares(valid["bid_depth"]), _shares(valid["ask_depth"])], axis=0)
    return Facts(
        beats=len(valid),
        spread_median=float(np.median(spread)),
        spread_p90=float(np.percentile(spread, 90)),
        spread_bps=float(np.median(2e4 * spread / mid2)),
        levels_near=levels_near,
        updates_per_s=float(valid["updates"].mean() / (BEAT_NS / 1e9)),
        moved=float((known != 0).mean()),
        return_bps=float(known.std()),
        depth=tuple(map(float, depth)),
        returns=autocorrelation(returns),
        magnitudes=autocorrelation(np.abs(returns)),
    )


def autocorrelation(series: NDArray[np.float64]) -> tuple[float, ...]:
    """Return it at lags 1 to 5, over the pairs of which both are known (not nan)."""
    found = []
    for lag in range(1, LAGS + 1):
        earlier, later = series[:-lag], series[lag:]
        both = ~(np.isnan(earlier) | np.isnan(later))
        earlier, later = earlier[both], later[both]
        enough = both.sum() >= FEWEST_RETURNS and earlier.std() > 0 and later.std() > 0
        found.append(float(np.corrcoef(earlier, later)[0, 1]) if enough else float("nan"))
    return tuple(found)


def median_of(several: list[Facts]) -> Facts:
    """Return the facts of one as they are, of several the median of each figure."""
    middle: list[Any] = [
        tuple(map(float, np.median(column, axis=0)))
        if isinstance(column[0], tuple)
        else float(np.median(column))
        for column in zip(*several, strict=True)
    ]
    return Facts(*middle)


def table_of(columns: dict[str, Facts]) -> str:
    """Return the facts as a Markdown table, a column per market."""
    rows: list[tuple[str, Callable[[Facts], str]]] = [
        ("valid beats", lambda f: f"{f.beats:.0f}"),
        ("spread, ticks, median", lambda f: f"{f.spread_median:,.0f}"),
        ("spread, ticks, 90th percentile", lambda f: f"{f.spread_p90:,.0f}"),
        ("spread, bp, median", lambda f: f"{f.spread_bps:.3f}"),
        ("levels within 2 %, a side", lambda f: f"{f.levels_near:,.0f}"),
        ("level changes a second", lambda f: f"{f.updates_per_s:.1f}"),
        ("beats in which the median moves", lambda f: f"{f.moved:.2f}"),
        ("4 s return, standard deviation, bp", lambda f: f"{f.return_bps:.2f}"),
    ]
    for lag in range(LAGS):
        rows.append((f"autocorrelation of returns, lag {lag + 1}", _at("returns", lag)))
    for lag in range(LAGS):
        rows.append((f"autocorrelation of their sizes, lag {lag + 1}", _at("magnitudes", lag)))
    for bucket in range(20):
        rows.append((f"share of depth, bucket {bucket}", _at("depth", bucket)))
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for name, text in rows:
        lines.append(f"| {name} | {' | '.join(text(facts) for facts in columns.values())} |")
    return "\n".join(lines)


def _at(field: str, index: int) -> Callable[[Facts], str]:
    def text(facts: Facts) -> str:
        value = getattr(facts, field)[index]
        return "" if np.isnan(value) else f"{value:.3f}"

    return text


def _shares(depth: NDArray[np.int64]) -> NDArray[np.float64]:
    totals = depth.sum(axis=1, keepdims=True)
    return np.asarray((depth / np.maximum(totals, 1)).mean(axis=0))


def _facts_of(events: Iterator[NDArray[np.void]]) -> Facts:
    builder, windows, near = WindowBuilder(), [], []
    for rows in events:
        closed = builder.feed(rows)
        if len(closed):
            windows.append(closed)
            if builder.synced:
                near.append(_levels_near(builder))
    return measure(np.concatenate(windows), float(np.mean(near)))


def _levels_near(builder: WindowBuilder) -> float:
    bids, asks = builder.levels()
    mid = (bids[0, 0] + asks[0, 0]) / 2
    return float(
        ((bids[:, 0] > mid * (1 - NEAR)).sum() + (asks[:, 0] < mid * (1 + NEAR)).sum()) / 2
    )


def _recorded(file: str, products: list[Product]) -> list[Iterator[NDArray[np.void]]]:
    """Return the events of each product of a capture."""
    wire = advanced_trade if file.startswith("advanced") else exchange_feed
    reader = Reader(wire.decoder, {p.id: p for p in products})
    found: dict[str, list[NDArray[np.void]]] = {p.id: [] for p in products}
    with gzip.open(RECORDINGS / file) as lines:
        for line in lines:
            for product_id, rows in reader.frame(line.strip(), 0):
                found[product_id].append(rows)
    return [iter(events) for events in found.values()]


def _generated(of: Product) -> Iterator[NDArray[np.void]]:
    """Yield a generated product's snapshot, then a frame per tick and a clock mark per beat."""
    market = FlowMarket([of], FlowConfig(), START_NS)
    bids, asks = market.book(0)
    snapshot = [(BID, price, lots) for price, lots in bids.items()]
    yield _rows(snapshot + [(ASK, *level) for level in asks.items()], Kind.SNAPSHOT, START_NS)
    for ns in range(
        START_NS + market.tick_ns, START_NS + GENERATED_S * 1_000_000_000, market.tick_ns
    ):
        market.advance(ns)
        changes, _ = market.drain(0)
        if ns % BEAT_NS < market.tick_ns:
            yield np.array([mark(Kind.CLOCK, ns, 0)], EVENT)
        if changes:
            yield _rows(changes, Kind.CHANGE, ns)


def _rows(changes: list[tuple[int, int, int]], kind: Kind, ns: int) -> NDArray[np.void]:
    rows = np.zeros(len(changes), EVENT)
    rows["ns"], rows["kind"] = ns, kind
    rows["side"], rows["price"], rows["size"] = np.array(changes, np.int64).T
    rows["last"][-1] = 1
    return rows


if __name__ == "__main__":
    main()
