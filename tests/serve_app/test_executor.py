"""The executor trades exactly as the market's rules say, and survives what breaks."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest

from datasets.external import ExternalReader
from datasets.recipe import Recipe
from market.actions import Action
from market.errors import QuaverError
from market.features import features
from market.ledger import Order
from market.paper import Fill, PaperBroker
from market.policy import Limits
from market.products import product
from market.signals import names, signals
from market.trader import Trader, TraderConfig
from market.windows import BEAT_NS
from serve_app.brokers import Paper
from serve_app.execution_config import ExecutionConfig, traded
from serve_app.executor import Executor
from sim.backtest import backtest
from tests.serve_app.market_walk import (
    ALL,
    FIRST_BEAT,
    PLAIN,
    PRODUCTS,
    WARM_UP,
    meta_of,
    walk,
)

BTC, ETH = PRODUCTS[:2]


class FakeModel:
    """Values drawn from the features themselves; keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[np.ndarray, ...]] = []

    async def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        self.calls.append(inputs)
        return values_of(*inputs)


def values_of(
    medians: np.ndarray,
    bids: np.ndarray,
    asks: np.ndarray,
    signals: np.ndarray,
    index: np.ndarray,
) -> np.ndarray:
    """Return numbers that favour every action now and then."""
    del medians, signals
    return (bids[:, :5] - asks[:, :5]) * 100 + index[:, None]


async def wants_to_buy_cheaply(*inputs: np.ndarray) -> np.ndarray:
    return np.tile([0.0, 1.0, 0.0, 0.0, 0.0], (len(inputs[-1]), 1))


class Clock:
    """A wall clock that stands `age_s` after the end of the last window sent."""

    def __init__(self, age_s: float = 1.0) -> None:
        self.age_ns, self.beat = int(age_s * 1e9), FIRST_BEAT

    def __call__(self) -> int:
        return (self.beat + 1) * BEAT_NS + self.age_ns


class Watched(Paper):
    """Paper trading that keeps what reached it."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted: list[Order] = []
        self.cancelled: list[str] = []
        self.fills: list[Fill] = []

    async def submit(self, order: Order) -> Fill | None:
        self.submitted.append(order)
        fill = await super().submit(order)
        self.fills += [fill] if fill else []
        return fill

    async def cancel(self, order_id: str) -> bool:
        self.cancelled.append(order_id)
        return await super().cancel(order_id)

    async def on_window(self, product_id: str, window: np.ndarray) -> list[Fill]:
        fills = await super().on_window(product_id, window)
        self.fills += fills
        return fills


class Bench:
    """An executor with everything around it faked."""

    def __init__(
        self,
        predict: Callable[..., Any] | None = None,
        recipe: Recipe = PLAIN,
        external: ExternalReader | None = None,
        predict_timeout_s: float = 3.0,
        **limits: Any,
    ) -> None:
        self.model = FakeModel()
        self.broker = Watched()
        self.clock = Clock()
        self.ticks_ns = 0
        config = ExecutionConfig(
            products=(BTC, ETH),
            trader=TraderConfig(limits=Limits(**limits)),
            predict_timeout_s=predict_timeout_s,
        )
        self.executor = Executor(
            meta_of(recipe=recipe),
            config,
            predict or self.model,
            self.broker,
            external,
            monotonic_ns=self.monotonic_ns,
            wall_ns=self.clock,
        )

    def monotonic_ns(self) -> int:
        self.ticks_ns += 1_000_000
        return self.ticks_ns

    def send(self, *streams: tuple[str, np.ndarray]) -> None:
        """Send the windows beat by beat, all products of a beat together."""

        async def run() -> None:
            for i in range(len(streams[0][1])):
                self.clock.beat = int(streams[0][1]["beat"][i])
                await self.executor.on_item([(name, rows[i : i + 1]) for name, rows in streams])

        asyncio.run(run())


def test_the_first_prediction_needs_69_valid_beats() -> None:
    bench = Bench()
    rows = walk(WARM_UP, 1)
    bench.send((BTC, rows[:-1]))
    assert bench.model.calls == []
    bench.send((BTC, rows[-1:]))
    assert len(bench.model.calls) == 1
    assert bench.executor.health()["predictions"] == 1


def test_all_products_of_a_beat_are_asked_for_at_once() -> None:
    bench = Bench()
    bench.send((BTC, walk(WARM_UP + 2, 1)), (ETH, walk(WARM_UP + 2, 2)))
    assert [len(call[0]) for call in bench.model.calls] == [2, 2, 2]
    assert bench.model.calls[0][-1].tolist() == [0, 1]


def test_served_features_equal_those_of_the_batch_bit_for_bit() -> None:
    bench = Bench()
    rows = walk(120, 3)
    rows["valid"][20] = False
    bench.send((ETH, rows))
    expected = features(rows, product(ETH).tick)
    assert len(expected.beats) == 120 - 21 - (WARM_UP - 1)
    for column in range(3):
        served = np.concatenate([call[column] for call in bench.model.calls])
        assert np.array_equal(served, expected[column + 1])


def test_served_signals_equal_those_of_the_batch_bit_for_bit_also_over_lost_beats() -> None:
    bench = Bench(recipe=Recipe(signals=ALL))
    streams = {BTC: walk(300, 3), ETH: walk(300, 4)}
    streams[ETH]["valid"][20] = False
    streams[BTC] = np.delete(streams[BTC], np.r_[100:104, 200])
    for beat in range(FIRST_BEAT, FIRST_BEAT + 300):
        rows = {name: windows[windows["beat"] == beat] for name, windows in streams.items()}
        asyncio.run(bench.executor.on_item(list(rows.items())))
    assert bench.executor.health()["errors"] == 0
    for index, (name, windows) in enumerate(streams.items()):
        expected = signals(windows, product(name), ALL)
        assert expected.shape == ((100 + 96 + 99 - 3 * 68, 300 - 21 - 68)[index], len(names(ALL)))
        asked = (call[3][call[4] == index] for call in bench.model.calls)
        assert np.concatenate(list(asked)).tobytes() == expected.tobytes()


def test_without_signals_the_model_is_given_none() -> None:
    bench = Bench()
    bench.send((BTC, walk(WARM_UP, 1)))
    assert [call[3].shape for call in bench.model.calls] == [(1, 0)]


def test_an_invalid_beat_starts_the_count_anew_and_takes_the_order_back() -> None:
    bench = Bench(wants_to_buy_cheaply)
    rows = walk(WARM_UP + 1, 4)
    rows["ask"] = rows["low_ask"] = 60_000  # Far from everything: nothing fills.
    rows["trade_low"], rows["trade_high"] = 59_999, 59_999
    rows["bid"] = rows["high_bid"] = 59_000
    rows["valid"][-1] = False
    bench.send((BTC, rows[:-1]))
    assert len(bench.executor.positions()["open_orders"]) == 1
    bench.send((BTC, rows[-1:]))
    assert bench.broker.cancelled == [bench.broker.submitted[0].id]
    assert bench.executor.positions()["open_orders"] == []
    more = walk(WARM_UP, 5, FIRST_BEAT + len(rows))
    bench.send((BTC, more[:-1]))
    assert bench.executor.health()["predictions"] == 1
    bench.send((BTC, more[-1:]))
    assert bench.executor.health()["predictions"] == 2


def traded_plainly(streams: dict[str, np.ndarray]) -> tuple[Trader, list[str], list[Fill]]:
    """The market's own pieces, called in the order of section 7, over whole partitions."""
    trader = Trader({name: product(name) for name in streams}, ExecutionConfig().fees, CONFIG)
    paper, placed, fills = PaperBroker(), [], []
    known = {}
    for i, (name, rows) in enumerate(streams.items()):
        f = features(rows, product(name).tick)
        index = np.full(len(f.beats), i)
        known[name] = dict(zip(f.beats, values_of(*f[1:], f.medians[:, :0], index), strict=True))
    for k in range(len(next(iter(streams.values())))):
        for name, rows in streams.items():
            for fill in paper.on_window(name, rows[k : k + 1]):
                trader.filled(fill.order_id, fill.price_ticks, fill.lots)
                fills.append(fill)
            trader.observe(name, rows[k : k + 1])
            decision = trader.decide(name, rows[k : k + 1], known[name].get(rows["beat"][k]))
            if decision.cancel:
                assert paper.cancel(decision.cancel.id)
                trader.cancelled(decision.cancel.id)
            if decision.place and trader.admit(decision.place, k * BEAT_NS, 1.0) is None:
                placed.append(decision.place.id)
                fill = paper.submit(decision.place)
                if fill:
                    trader.filled(fill.order_id, fill.price_ticks, fill.lots)
                    fills.append(fill)
    return trader, placed, fills


CONFIG = TraderConfig(limits=Limits(max_orders_per_minute=1_000_000))


def test_decisions_fills_and_ledger_equal_the_market_rules_applied_plainly() -> None:
    streams = {BTC: walk(400, 6), ETH: walk(400, 7)}
    bench = Bench(max_orders_per_minute=1_000_000)
    bench.send(*streams.items())
    trader, placed, fills = traded_plainly(streams)
    assert [order.id for order in bench.broker.submitted] == placed
    assert bench.broker.fills == fills
    assert len(fills) > 20
    ledger = bench.executor.trader.ledger
    assert (ledger.usd, ledger.lots, ledger.open) == (
        trader.ledger.usd,
        trader.ledger.lots,
        trader.ledger.open,
    )
    health, positions = bench.executor.health(), bench.executor.positions()
    assert (health["orders"], health["fills"]) == (len(placed), len(fills))
    assert (health["beats"], health["windows"], health["errors"]) == (400, 800, 0)
    taken = sum(not order.post_only for order in bench.broker.submitted)
    assert (health["taker_fills"], health["maker_fills"]) == (taken, len(fills) - taken)
    assert sum(health["actions"].values()) == health["predictions"] == 2 * (401 - WARM_UP)
    assert positions["equity_usd"] == format(trader.equity, "f")
    assert positions["equity_curve"][-1] == [FIRST_BEAT + 399, positions["equity_usd"]]
    assert len(positions["open_orders"]) == len(trader.ledger.open)
    wanted = Decimal(usd_of_reserves(streams, trader.unit, 0))
    assert Decimal(positions["deposited_usd"]) == wanted  # Zeros at the end are no difference.
    assert positions["held_usd"] == usd_of_reserves(streams, trader.unit, -1)
    assert msgspec.json.decode(msgspec.json.encode([health, positions])) == [health, positions]


def usd_of_reserves(streams: dict[str, np.ndarray], unit: dict[str, int], at: int) -> str:
    """What 1,200 USD and one unit per product are worth at a window's medians."""
    usd = Decimal(1_200 * len(streams))
    for name, rows in streams.items():
        mid2 = int(rows["bid"][at] + rows["ask"][at])
        usd += product(name).size(unit[name]) * product(name).price(mid2) / 2
    return str(usd)


def test_several_beats_in_one_item_are_decided_one_by_one() -> None:
    rows = {BTC: walk(200, 8), ETH: walk(200, 9)}
    one, many = Bench(max_data_age_s=1e9), Bench(max_data_age_s=1e9)
    one.send(*rows.items())
    asyncio.run(many.executor.on_item(list(rows.items())))
    assert many.broker.submitted == one.broker.submitted
    assert len(many.broker.submitted) > 5
    assert many.executor.positions() == one.executor.positions()


def test_windows_that_are_empty_unknown_or_repeated_are_passed_over() -> None:
    bench = Bench()
    rows = walk(10, 1)
    item = [(BTC, rows[:0]), ("SOL-USD", rows), (ETH, rows), (ETH, rows[5:])]
    asyncio.run(bench.executor.on_item(item))
    health = bench.executor.health()
    assert (health["windows"], health["ignored_windows"], health["repeated_windows"]) == (10, 10, 5)
    assert health["errors"] == 0


def test_old_data_blocks_the_order_and_says_why() -> None:
    bench = Bench()
    bench.clock.age_ns = int(8.5e9)
    bench.send((BTC, walk(WARM_UP + 10, 1)))
    health = bench.executor.health()
    assert health["orders"] == 0
    assert health["blocked"]["max_data_age_s"] > 0
    assert health["data_age_s"] == 8.5


def quiet(n: int) -> np.ndarray:
    """Windows between whose bid and ask nothing ever happens."""
    rows = walk(n, 4)
    rows["bid"] = rows["high_bid"] = 59_000
    rows["ask"] = rows["low_ask"] = 60_000
    rows["trades"] = 0
    return rows


def test_an_order_is_not_kept_against_a_limit() -> None:
    bench = Bench(wants_to_buy_cheaply)
    rows = quiet(WARM_UP + 3)
    bench.send((BTC, rows[: WARM_UP + 1]))
    kept = bench.executor.positions()["open_orders"]
    assert [order["id"] for order in kept] == [f"{BTC}:{FIRST_BEAT + WARM_UP - 1}"]
    bench.clock.age_ns = int(8.5e9)
    bench.send((BTC, rows[WARM_UP + 1 : WARM_UP + 2]))
    health = bench.executor.health()
    assert (health["blocked"], health["cancels"]) == ({"max_data_age_s": 1}, 1)
    assert bench.executor.positions()["open_orders"] == []
    bench.clock.age_ns = 0
    bench.send((BTC, rows[WARM_UP + 2 :]))
    assert len(bench.broker.submitted) == 2


def test_a_kept_order_does_not_count_against_the_order_rate() -> None:
    bench = Bench(wants_to_buy_cheaply, max_orders_per_minute=1)
    bench.send((BTC, quiet(WARM_UP + 3)))
    assert bench.executor.health()["blocked"] == {}
    assert len(bench.executor.positions()["open_orders"]) == 1


def test_no_order_outlives_lost_beats() -> None:
    bench = Bench(wants_to_buy_cheaply)
    rows = quiet(WARM_UP + 5)
    rows["low_ask"][-1] = 1  # What rests would fill.
    bench.send((BTC, rows[:WARM_UP]))
    bench.send((BTC, rows[-1:]))
    health = bench.executor.health()
    assert (health["orders"], health["cancels"], health["fills"]) == (1, 1, 0)
    assert (health["breaks"], health["windows"], health["errors"]) == (1, WARM_UP + 1, 0)
    assert bench.executor.positions()["open_orders"] == []


def test_with_lost_beats_live_trading_equals_the_backtest() -> None:
    streams, values = {}, {}
    for i, name in enumerate((BTC, ETH)):
        rows = walk(500, 20 + i)
        for side in ("bid", "ask"):  # The unit is fixed at the first window, live and there alike.
            rows[side][0] = rows[side][WARM_UP - 1]
        rows = np.delete(rows, np.r_[170 + 50 * i, 320 + i : 330])
        streams[name] = rows
        f = features(rows, product(name).tick)
        values[name] = f.beats, values_of(*f[1:], f.medians[:, :0], np.full(len(f.beats), i))
    bench = Bench(max_orders_per_minute=1_000_000)

    async def live() -> None:
        for beat in range(FIRST_BEAT, FIRST_BEAT + 500):
            bench.clock.beat = beat
            item = [(name, rows[rows["beat"] == beat]) for name, rows in streams.items()]
            await bench.executor.on_item(item)
        await bench.executor.withdraw()

    asyncio.run(live())
    listed = {name: product(name) for name in streams}
    run = backtest(streams, values, listed, ExecutionConfig().fees, CONFIG)
    health, positions = bench.executor.health(), bench.executor.positions()
    assert (health["breaks"], health["errors"]) == (4, 0)
    assert health["orders"] == run.orders > 100
    assert (health["taker_fills"], health["maker_fills"]) == (run.taker_fills, run.maker_fills)
    assert health["cancels"] == run.cancels
    assert health["actions"] == run.actions
    assert float(positions["equity_usd"]) == run.final_equity_usd
    assert float(positions["held_usd"]) == run.hold_usd[-1]
    assert float(positions["deposited_usd"]) == run.deposited_usd[-1]


def test_a_restart_shows() -> None:
    bench = Bench()
    began = bench.executor.health()["started"]
    assert began == bench.executor.positions()["started"] == "2026-08-09T09:00:05+00:00"
    bench.send((BTC, walk(3, 1)))
    assert bench.executor.health()["started"] == began


def test_without_an_answer_of_the_model_nothing_rests_and_the_next_beat_trades() -> None:
    fail = [False]

    async def predict(*inputs: np.ndarray) -> np.ndarray:
        if fail[0]:
            raise TimeoutError("too slow")
        return await wants_to_buy_cheaply(*inputs)

    bench = Bench(predict)
    rows = walk(WARM_UP + 2, 4)
    rows["low_ask"] = rows["ask"] = 60_000
    rows["trades"] = 0
    bench.send((BTC, rows[:-2]))
    fail[0] = True
    bench.send((BTC, rows[-2:-1]))
    health = bench.executor.health()
    assert health["last_error"] == "prediction: TimeoutError: too slow"
    assert (health["errors"], health["beats"], health["cancels"]) == (1, WARM_UP + 1, 1)
    fail[0] = False
    bench.send((BTC, rows[-1:]))
    assert len(bench.broker.submitted) == 2


def test_an_error_costs_one_product_one_beat() -> None:
    bench = Bench()
    rows = walk(WARM_UP + 5, 1)
    observe = bench.executor.trader.observe

    def broken(product_id: str, window: np.ndarray) -> None:
        if product_id == BTC and window["beat"][0] == FIRST_BEAT + WARM_UP:
            raise RuntimeError("no such luck")
        observe(product_id, window)

    bench.executor.trader.observe = broken  # type: ignore[method-assign]
    bench.send((BTC, rows), (ETH, rows))
    health = bench.executor.health()
    assert (
        health["last_error"] == f"beat {FIRST_BEAT + WARM_UP}, BTC-USD: RuntimeError: no such luck"
    )
    assert (health["errors"], health["beats"]) == (1, len(rows))
    assert health["predictions"] == 2 * (len(rows) - (WARM_UP - 1))
    assert sum(health["actions"].values()) == health["predictions"] - 1


def test_a_window_that_cannot_be_costs_its_product_the_beat_and_no_other() -> None:
    bench = Bench()
    rows = walk(WARM_UP + 5, 1)
    crossed = rows.copy()
    crossed["ask"][WARM_UP] = crossed["bid"][WARM_UP]
    bench.send((BTC, rows), (ETH, crossed))
    health = bench.executor.health()
    assert health["beats"] == len(rows)
    assert f"beat {FIRST_BEAT + WARM_UP}, {ETH}: ValueError: " in health["last_error"]
    asked = [len(call[-1]) for call in bench.model.calls]
    assert asked[:2] == [2, 1]  # Of the first full beat, then of the one that ETH spoilt.


def test_an_unconfirmed_cancel_keeps_the_funds_locked_and_places_nothing() -> None:
    bench = Bench()
    wanted = [Action.CLOSE_BUY]

    async def predict(*inputs: np.ndarray) -> np.ndarray:
        values = np.zeros((len(inputs[-1]), 5))
        values[:, wanted[0]] = 1.0
        return values

    async def unconfirmed(order_id: str) -> bool:
        del order_id
        return False

    bench.executor._predict = predict
    rows = walk(WARM_UP + 1, 4)
    rows["low_ask"] = rows["ask"] = 60_000
    rows["trades"] = 0
    bench.send((BTC, rows[:-1]))
    locked = bench.executor.positions()["free_usd"]
    assert locked != bench.executor.positions()["usd"]
    wanted[0] = Action.FORCE_SELL
    bench.broker.cancel = unconfirmed  # type: ignore[method-assign]
    bench.send((BTC, rows[-1:]))
    assert bench.executor.health()["cancels_unconfirmed"] == 1
    assert len(bench.broker.submitted) == 1
    assert bench.executor.positions()["free_usd"] == locked


def test_withdraw_takes_every_resting_order_back() -> None:
    bench = Bench(wants_to_buy_cheaply)
    rows = walk(WARM_UP, 4)
    bench.send((BTC, rows), (ETH, rows))
    assert len(bench.executor.positions()["open_orders"]) == 2
    asyncio.run(bench.executor.withdraw())
    positions = bench.executor.positions()
    assert positions["open_orders"] == []
    assert positions["usd"] == positions["free_usd"]


def test_latency_is_from_the_arrival_of_the_item_to_each_decision() -> None:
    bench = Bench()
    bench.send((BTC, walk(WARM_UP, 1)))
    latency = bench.executor.health()["decision_latency_ms"]
    assert latency == {"n": 1, "p50": 1.0, "p99": 1.0, "max": 1.0}  # One reading later: 1 ms.


def test_what_the_model_was_not_trained_for_is_not_traded() -> None:
    meta = meta_of(trained=PRODUCTS[1:])
    for name in ("DOGE-USD", BTC):
        with pytest.raises(QuaverError, match=f"not trained for {name}"):
            Executor(meta, ExecutionConfig(products=(name, ETH)), FakeModel(), Paper())
    assert traded(meta, ExecutionConfig()) == {ETH: 1, PRODUCTS[2]: 2}
    executor = Executor(meta, ExecutionConfig(), FakeModel(), Paper())
    assert list(executor.positions()["products"]) == list(PRODUCTS[1:])
