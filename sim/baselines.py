"""What a backtest is compared with: lines that need no skill, other fees, and chance.

Beside a model stand buy-and-hold, the label oracle, three fee tiers, the break-even taker fee and a
bootstrap interval.
"""

import msgspec
import numpy as np

from market.actions import LOWEST_TIER_FEES, ZERO_FEES, Fees
from market.labels import labels
from market.products import Product
from market.trader import TraderConfig
from sim.backtest import BacktestResult, Values, Windows, backtest
from tune.bootstrap import block_bootstrap


def buy_and_hold_values(values: Values) -> Values:
    """Return values that buy one unit more of each product at its first decision and then hold."""
    held: Values = {}
    for name, (at, five) in values.items():
        first = np.full_like(five, np.nan)
        if len(at):
            first[0] = [np.inf, 0.0, 0.0, 0.0, 0.0]
        held[name] = at, first
    return held


def oracle_values(windows: Windows, values: Values, fees: Fees) -> Values:
    """Return the labels of the beats in `values`, NaN where there is no label.

    A label assumes an inventory of zero, which the trader may not have, so this is no upper bound.
    """
    known: Values = {}
    for name, (at, five) in values.items():
        rows = windows[name]
        known[name] = at, np.full_like(five, np.nan)
        _, here, there = np.intersect1d(at, rows["beat"], assume_unique=True, return_indices=True)
        known[name][1][here] = labels(rows, fees)[there]
    return known


class FeeRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the model's decisions come to at other fees."""

    name: str
    fees: Fees
    excess_usd: float
    excess_bps: float | None
    fees_usd: float
    orders: int
    fills: int
    blocked: dict[str, int]  # A tripped loss limit makes a bad tier look better than it is.


class FeeTable(msgspec.Struct, frozen=True, kw_only=True):
    """The same predictions at three fee tiers, and the taker fee that would eat all the profit."""

    rows: list[FeeRow]
    break_even_taker_bps: float | None


def fee_table(
    model: BacktestResult,
    windows: Windows,
    values: Values,
    products: dict[str, Product],
    config: TraderConfig,
) -> FeeTable:
    """Return the model's results at its own fees, at 0/0 and at 120/60, each run anew.

    The model is not retrained, but reserves and limits act at each tier's own fees.
    """
    runs = {"configured": model}
    for name, fees in (("no fees", ZERO_FEES), ("lowest tier", LOWEST_TIER_FEES)):
        runs[name] = backtest(windows, values, products, fees, config)
    return FeeTable(
        rows=[
            FeeRow(
                name=name,
                fees=run.fees,
                excess_usd=run.excess_usd,
                excess_bps=run.excess_bps,
                fees_usd=run.fees_usd,
                orders=run.orders,
                fills=run.taker_fills + run.maker_fills,
                blocked=run.blocked,
            )
            for name, run in runs.items()
        ],
        break_even_taker_bps=break_even_taker_bps(model),
    )


def break_even_taker_bps(model: BacktestResult) -> float | None:
    """Return the taker fee at which these very trades would earn as much as doing nothing.

    Trades and the maker fee are held as they are, which makes the profit linear in the taker fee.
    None without taker fills, or where no fee of zero or more breaks even.
    """
    if not model.taker_usd:
        return None
    bps = (model.excess_usd + model.taker_fees_usd) / model.taker_usd * 1e4
    return bps if bps >= 0 else None


class MeanExcess(msgspec.Struct, frozen=True, kw_only=True):
    """Mean excess per beat with its 95 % interval."""

    mean_usd: float
    low_usd: float
    high_usd: float
    beats: int
    blocks: int
    includes_zero: bool


def significance(result: BacktestResult, seed: int = 0) -> MeanExcess | None:
    """Return the block bootstrap of the excess per beat; None where there are too few beats."""
    gains = np.diff(result.equity_usd - result.hold_usd, prepend=0.0)
    interval = block_bootstrap(gains, seed)
    return interval and MeanExcess(
        mean_usd=interval.mean,
        low_usd=interval.low,
        high_usd=interval.high,
        beats=len(gains),
        blocks=interval.blocks,
        includes_zero=interval.includes_zero,
    )


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A model's backtest with everything that belongs beside it."""

    model: BacktestResult
    buy_and_hold: BacktestResult
    oracle: BacktestResult
    fee_table: FeeTable
    significance: MeanExcess | None


def compare(
    windows: Windows,
    values: Values,
    products: dict[str, Product],
    fees: Fees,
    config: TraderConfig,
) -> Comparison:
    """Backtest a model's values and its lines over the same beats; arguments as in `backtest`."""
    model = backtest(windows, values, products, fees, config)
    known = oracle_values(windows, values, fees)
    return Comparison(
        model=model,
        buy_and_hold=backtest(windows, buy_and_hold_values(values), products, fees, config),
        oracle=backtest(windows, known, products, fees, config),
        fee_table=fee_table(model, windows, values, products, config),
        significance=significance(model),
    )
