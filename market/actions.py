"""The five actions, their fees and how they fill (section 5 of the definitions).

The fill rules are scalar functions that numba compiles into the label search and that the paper
broker and the backtest call as they are: one definition of what fills, everywhere.
"""

from enum import IntEnum
from typing import Annotated

import msgspec

from market.checks import check_settings
from market.jit import compiled


class Action(IntEnum):
    """What may be done when a beat ends: one unit, one order, alive for the next beat only."""

    FORCE_BUY = 0
    CLOSE_BUY = 1
    FORCE_SELL = 2
    CLOSE_SELL = 3
    NO_OP = 4


BUYS = (Action.FORCE_BUY, Action.CLOSE_BUY)


class Fees(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fees in basis points of the notional; the defaults are Coinbase's highest-volume tier."""

    taker_bps: Annotated[float, msgspec.Meta(ge=0, lt=10_000, description="taker fee, bps")] = 5.0
    maker_bps: Annotated[float, msgspec.Meta(ge=0, lt=10_000, description="maker fee, bps")] = 0.0

    def __post_init__(self) -> None:
        check_settings("fees", self)


ZERO_FEES = Fees(taker_bps=0.0, maker_bps=0.0)
LOWEST_TIER_FEES = Fees(taker_bps=120.0, maker_bps=60.0)


@compiled
def resting_buy_fills(price: int, low_ask: int, trades: int, trade_low: int) -> bool:
    """Whether a post-only buy at `price` (ticks) fills in a beat with these extremes.

    A trade at exactly `price` does not count: it may have met the queue ahead of us.
    """
    return low_ask <= price or (trades > 0 and trade_low < price)


@compiled
def resting_sell_fills(price: int, high_bid: int, trades: int, trade_high: int) -> bool:
    """Whether a post-only sell at `price` (ticks) fills in a beat with these extremes."""
    return high_bid >= price or (trades > 0 and trade_high > price)
