"""Samples straight from the generated market, with what it planted, and no exchange between.

What a model is shown is what it would be shown otherwise: events, windows, features, labels. Beside
them stands the hidden drift at the end of each beat, which no order shows: whoever knows it knows
all of the edge that `FlowConfig.edge_bps` plants.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from datasets.samples import Samples
from market.actions import Fees
from market.events import ASK, BID, EVENT, Kind, mark
from market.features import features
from market.labels import advantage, labels
from market.products import Product, product_index
from market.windows import BEAT_NS, WindowBuilder
from sim.flow import FlowConfig, FlowMarket

START_BEAT = 441_892_800  # 2026-01-05
RULE_BINS = 40

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Planted:
    """Samples of a generated market, in order of product and beat, and its hidden drift."""

    samples: Samples
    drift: Floats  # [n], of unit variance, when the beat of the sample ends.


def planted(products: Sequence[Product], config: FlowConfig, beats: int, fees: Fees) -> Planted:
    """Generate so many beats of each product, which must be in the universe.

    A frame comes every `config.tick_s`, of which a beat must hold a whole number.
    """
    start_ns = START_BEAT * BEAT_NS
    market = FlowMarket(products, config, start_ns)
    if BEAT_NS % market.tick_ns:
        raise ValueError(f"a beat must hold whole ticks, not ones of {config.tick_s} s")
    builders = [WindowBuilder() for _ in products]
    for index, builder in enumerate(builders):
        builder.feed(_opening(market, index, start_ns))
    windows: list[list[NDArray[np.void]]] = [[] for _ in products]
    drifts = np.empty((len(products), beats))
    for next_ns in range(start_ns + market.tick_ns, start_ns + beats * BEAT_NS + 1, market.tick_ns):
        market.advance(next_ns - 1)
        for index, builder in enumerate(builders):
            builder.feed(_frame(market, index, next_ns - 1))
            if next_ns % BEAT_NS == 0:
                drifts[index, (next_ns - 1 - start_ns) // BEAT_NS] = market.drift_state(index)
                windows[index].append(builder.feed(_clock(next_ns)))
    made = [
        _samples(one, np.concatenate(found), drift, fees)
        for one, found, drift in zip(products, windows, drifts, strict=True)
    ]
    return Planted(
        samples=Samples(
            **{
                column.name: np.concatenate([getattr(part, column.name) for part, _ in made])
                for column in fields(Samples)
            }
        ),
        drift=np.concatenate([drift for _, drift in made]),
    )


def planted_rule(found: Planted, train: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return what a rule that knows the hidden drift when a beat ends chooses there, [n].

    It takes the action that earned most over NO_OP, by the labels of `train` (bool[n], labelled
    rows), at a drift like this one: the drifts of train are cut into RULE_BINS of as many samples.
    Labels of other rows, and whatever else of the future, it does not know.
    """
    edges = np.quantile(found.drift[train], np.linspace(0, 1, RULE_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, found.drift)
    gains = advantage(found.samples.label[train])
    best = [gains[bins[train] == each].mean(axis=0).argmax() for each in range(RULE_BINS)]
    return np.array(best)[bins]


def _samples(
    listed: Product, windows: NDArray[np.void], drift: Floats, fees: Fees
) -> tuple[Samples, Floats]:
    index = product_index(listed.id)
    if index is None:
        raise ValueError(f"{listed.id} is not in the universe")
    found = features(windows, listed.tick)
    at = np.searchsorted(windows["beat"], found.beats)
    rows = Samples(
        beat=found.beats,
        product=np.full(len(at), index, np.int32),
        medians=found.medians,
        bids=found.bids,
        asks=found.asks,
        label=labels(windows, fees)[at],
        signals=np.empty((len(at), 0)),
    )
    return rows, drift[found.beats - START_BEAT]


def _opening(market: FlowMarket, index: int, ns: int) -> NDArray[np.void]:
    """The book that the market starts with; carried, so that the first beat is valid."""
    bids, asks = market.book(index)
    levels = [(BID, *level) for level in bids.items()] + [(ASK, *level) for level in asks.items()]
    rows = np.zeros(len(levels), EVENT)
    _fill(rows, ns, Kind.CARRIED, levels)
    return rows


def _frame(market: FlowMarket, index: int, ns: int) -> NDArray[np.void]:
    """What the feed shows at `ns` since the frame before: level changes, then trades."""
    changes, trades = market.drain(index)
    rows = np.zeros(len(changes) + len(trades), EVENT)
    if changes:
        _fill(rows[: len(changes)], ns, Kind.CHANGE, changes)
    if trades:
        made = rows[len(changes) :]
        _fill(made, ns, Kind.TRADE, [(t.taker, t.price_ticks, t.size_lots) for t in trades])
        made["trade_id"] = [trade.trade_id for trade in trades]
    return rows


def _fill(
    rows: NDArray[np.void], ns: int, kind: Kind, levels: Sequence[tuple[int, int, int]]
) -> None:
    rows["ns"], rows["kind"] = ns, kind
    rows["side"], rows["price"], rows["size"] = np.array(levels, np.int64).T
    rows["last"][-1] = 1


def _clock(ns: int) -> NDArray[np.void]:
    return np.array([mark(Kind.CLOCK, ns, 0)], EVENT)
