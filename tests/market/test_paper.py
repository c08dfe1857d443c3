"""The paper broker fills as section 5 says: strict on trades, blind in a beat that is not valid."""

import numpy as np
import pytest

from market.events import BUY, SELL
from market.ledger import Order
from market.paper import Fill, PaperBroker
from market.windows import WINDOW

PRICE = 10_000
FAR = {"low_ask": PRICE + 50, "high_bid": PRICE - 50}


def order(side: int, post_only: bool = True, name: str = "AAA-USD") -> Order:
    return Order(f"{name}:1", name, side, PRICE, 7, post_only)


def window(valid: bool = True, **fields: int) -> np.ndarray:
    row = np.zeros(1, WINDOW)
    row["valid"] = valid
    for name, value in (FAR | fields).items():
        row[name] = value
    return row


FILL = Fill("AAA-USD:1", PRICE, 7)
BUY_CASES = [
    ({}, False),
    ({"low_ask": PRICE + 1}, False),
    ({"low_ask": PRICE}, True),
    ({"low_ask": PRICE - 3}, True),
    ({"trades": 2, "trade_low": PRICE, "trade_high": PRICE + 9}, False),
    ({"trades": 2, "trade_low": PRICE - 1, "trade_high": PRICE + 9}, True),
    ({"trades": 0, "trade_low": 0}, False),  # 0 stands for no trade, not for a price.
    ({"trades": 1, "trade_low": PRICE + 4, "trade_high": PRICE + 4}, False),
]
SELL_CASES = [
    ({}, False),
    ({"high_bid": PRICE - 1}, False),
    ({"high_bid": PRICE}, True),
    ({"high_bid": PRICE + 3}, True),
    ({"trades": 2, "trade_low": PRICE - 9, "trade_high": PRICE}, False),
    ({"trades": 2, "trade_low": PRICE - 9, "trade_high": PRICE + 1}, True),
    ({"trades": 1, "trade_low": PRICE - 4, "trade_high": PRICE - 4}, False),
]


@pytest.mark.parametrize(
    ("side", "fields", "fills"),
    [(BUY, *case) for case in BUY_CASES] + [(SELL, *case) for case in SELL_CASES],
)
def test_a_resting_order_fills_by_the_extremes(
    side: int, fields: dict[str, int], fills: bool
) -> None:
    broker = PaperBroker()
    assert broker.submit(order(side)) is None
    assert broker.on_window("AAA-USD", window(**fields)) == ([FILL] if fills else [])
    assert broker.cancel("AAA-USD:1") is not fills


@pytest.mark.parametrize("side", [BUY, SELL])
def test_an_invalid_beat_fills_nothing(side: int) -> None:
    broker = PaperBroker()
    broker.submit(order(side))
    through = {"low_ask": 1, "high_bid": 10 * PRICE}
    assert broker.on_window("AAA-USD", window(valid=False, **through)) == []
    assert broker.on_window("AAA-USD", window(**through)) == [FILL]


@pytest.mark.parametrize("side", [BUY, SELL])
def test_a_taking_order_fills_at_once_and_does_not_rest(side: int) -> None:
    broker = PaperBroker()
    assert broker.submit(order(side, post_only=False)) == FILL
    assert broker.cancel("AAA-USD:1") is False
    assert broker.on_window("AAA-USD", window(low_ask=1)) == []


def test_a_cancelled_order_does_not_fill() -> None:
    broker = PaperBroker()
    broker.submit(order(BUY))
    assert broker.cancel("AAA-USD:1") is True
    assert broker.cancel("AAA-USD:1") is False
    assert broker.on_window("AAA-USD", window(low_ask=1)) == []


def test_a_window_fills_orders_of_its_product_only() -> None:
    broker = PaperBroker()
    broker.submit(order(BUY))
    broker.submit(order(BUY, name="BBB-USD"))
    assert broker.on_window("AAA-USD", window(low_ask=1)) == [FILL]
    assert broker.on_window("BBB-USD", window(low_ask=1)) == [Fill("BBB-USD:1", PRICE, 7)]
