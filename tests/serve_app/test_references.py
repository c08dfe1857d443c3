"""Live inputs hold other coins' returns and external series just as samples do."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actors.store import Store
from datasets.beside import Beside
from datasets.external import ExternalReader, parse_external
from datasets.recipe import Recipe
from market.cross import GIVEN_UP_BEATS, CrossConfig, mids
from market.errors import QuaverError
from market.external import ExternalConfig
from market.features import features
from market.products import product
from market.signals import SignalsConfig, signals
from market.windows import BEAT_NS
from serve_app.app import build_app
from serve_app.execution_config import ExecutionConfig
from serve_app.inputs import external_reader
from tests.datasets.test_external import PATH, Rows, parquet
from tests.serve_app.market_walk import FIRST_BEAT, PRODUCTS, WARM_UP, model_file, walk
from tests.serve_app.test_executor import Bench, wants_to_buy_cheaply

BTC, ETH, SOL = PRODUCTS  # Traded are the first two.
LTC = "LTC-USD"
CROSS = Recipe(
    signals=SignalsConfig(spread=True),
    cross=CrossConfig(btc_eth=True, neighbours=2),
    nearest={BTC: (ETH, SOL, LTC), ETH: (SOL,)},
)
NEAR = Recipe(cross=CrossConfig(neighbours=1), nearest={BTC: (SOL,), ETH: (SOL,)})
NEWS = Recipe(external=ExternalConfig(path=PATH, series=("news", "mood"), max_age_s=100.0))
PATIENCE_NS = 1_000_000_000
Windows = np.ndarray


def expected(recipe: Recipe, streams: dict[str, Windows], rows: Rows, name: str) -> np.ndarray:
    """Return the columns that samples of these windows have."""
    windows = streams[name]
    beats = features(windows, product(name).tick).beats
    references = recipe.references_of(name)
    known = Beside(
        tuple(mids(streams[one]) if one in streams else None for one in references),
        parse_external(parquet(rows), "news") if rows else {},
    )
    own = signals(windows, product(name), recipe.signals)
    return np.hstack([own, known.columns(beats, recipe)])


def asked(bench: Bench, index: int) -> np.ndarray:
    return np.concatenate([call[3][call[4] == index] for call in bench.model.calls])


def at(streams: dict[str, Windows], beat: int, *names: str) -> list[tuple[str, Windows]]:
    """Return what a connection sends at the end of a beat."""
    found = ((name, streams[name][streams[name]["beat"] == beat]) for name in names)
    return [(name, rows) for name, rows in found if len(rows)]


def send(bench: Bench, *items: list[tuple[str, Windows]]) -> None:
    async def run() -> None:
        for item in items:
            await bench.executor.on_item(item)

    asyncio.run(run())


@pytest.fixture
def streams() -> dict[str, Windows]:
    """Return windows with gaps, those of a product that is not traded among them."""
    found = {name: walk(300, seed) for seed, name in enumerate((BTC, ETH, SOL, LTC))}
    found[SOL] = np.delete(found[SOL], np.r_[90:95, 250])
    found[ETH]["valid"][110] = False
    return found


@pytest.mark.parametrize("order", [((BTC, ETH), (SOL, LTC)), ((LTC,), (SOL, BTC), (ETH,))])
def test_they_are_those_of_samples_bit_for_bit_whichever_connection_is_first(
    streams: dict[str, Windows], order: tuple[tuple[str, ...], ...]
) -> None:
    bench, lost = Bench(recipe=CROSS), {*range(90, 95), 250}
    for i in range(300):
        send(bench, *(at(streams, FIRST_BEAT + i, *names) for names in order))
        assert bench.executor.health()["last_beat"] == FIRST_BEAT + i - (i in lost)
        bench.ticks_ns += PATIENCE_NS
        asyncio.run(bench.executor.release())
    health = bench.executor.health()
    assert (health["errors"], health["ignored_windows"]) == (0, 0)
    assert health["late_references"] == 2 * len(lost)  # Both products look at SOL.
    for index, name in enumerate((BTC, ETH)):
        wanted = expected(CROSS, streams, [], name)
        assert wanted.shape[1] == 1 + 4 * 4
        assert asked(bench, index).tobytes() == wanted.tobytes()


def test_a_beat_waits_for_a_product_that_it_looks_at_and_not_for_ever(
    streams: dict[str, Windows],
) -> None:
    bench = Bench(recipe=NEAR)
    for i in range(80):
        send(bench, at(streams, FIRST_BEAT + i, ETH, SOL))
    assert bench.executor.patience_left_s is None
    before = len(bench.model.calls)
    send(bench, at(streams, FIRST_BEAT + 80, ETH), at(streams, FIRST_BEAT + 81, ETH))
    assert len(bench.model.calls) == before
    assert 0.9 < (bench.executor.patience_left_s or 0) < 1.0
    bench.ticks_ns += PATIENCE_NS // 2
    send(bench, at(streams, FIRST_BEAT + 80, SOL))  # In time; the other beat goes on waiting.
    assert len(bench.model.calls) == before + 1
    bench.ticks_ns += PATIENCE_NS
    asyncio.run(bench.executor.release())
    assert len(bench.model.calls) == before + 2 and bench.executor.patience_left_s is None
    send(bench, at(streams, FIRST_BEAT + 81, SOL))  # Too late.
    assert bench.executor.health()["late_references"] == 1
    known = NEAR.signal_names.index("near1_known")
    assert asked(bench, 1)[-2:, known].tolist() == [1.0, 0.0]


def test_a_product_that_has_been_silent_for_long_is_not_waited_for(
    streams: dict[str, Windows],
) -> None:
    bench = Bench(recipe=NEAR)
    for i in range(90):
        send(bench, at(streams, FIRST_BEAT + i, ETH, *([SOL] if i < 75 else [])))
        assert (bench.executor.patience_left_s is None) == (not 75 <= i < 75 + GIVEN_UP_BEATS)
        bench.ticks_ns += PATIENCE_NS
        asyncio.run(bench.executor.release())
    assert bench.executor.health()["late_references"] == 15  # Not waited for, counted all the same.
    assert bench.executor.health()["last_beat"] == FIRST_BEAT + 89


def test_windows_of_another_product_that_cannot_be_cost_its_signals_and_nothing_else(
    streams: dict[str, Windows],
) -> None:
    streams[SOL]["ask"][75] = 0
    bench = Bench(recipe=CROSS)
    for i in range(80):
        send(bench, at(streams, FIRST_BEAT + i, ETH, SOL))
        bench.ticks_ns += PATIENCE_NS
        asyncio.run(bench.executor.release())
    health = bench.executor.health()
    assert (health["errors"], health["predictions"]) == (1, 80 - WARM_UP + 1)
    assert "windows of SOL-USD: ValueError" in health["last_error"]


class News:
    """An external series in a folder, written anew while it is read."""

    def __init__(self, folder: Path) -> None:
        late = ((FIRST_BEAT + 9_999) * BEAT_NS, "news", 0.0)
        self._store = Store(str(folder))
        self._rows: Rows = [(BEAT_NS * FIRST_BEAT, "mood", 0.5), late]
        self.reader = external_reader(NEWS, str(folder))
        self.add()

    @property
    def rows(self) -> Rows:
        return self._rows

    def add(self, *rows: tuple[int, str, float]) -> None:
        self._rows = [*self._rows, *rows]
        self._store.write(PATH, parquet(self._rows))


def test_series_are_those_of_samples_bit_for_bit_while_their_file_grows(tmp_path: Path) -> None:
    news, rows = News(tmp_path), walk(200, 3)
    bench = Bench(recipe=NEWS, external=news.reader)
    for i in range(200):
        end_ns = (FIRST_BEAT + i + 1) * BEAT_NS
        if i % 9 == 0 and not 120 < i < 170:
            news.add((end_ns - 1, "news", i / 7), (end_ns, "mood", -float(i)))
        send(bench, [(ETH, rows[i : i + 1])])
    assert bench.executor.health()["errors"] == 0
    wanted = expected(NEWS, {ETH: rows}, news.rows, ETH)
    assert {tuple(row) for row in wanted[:, 1::2]} > {(1.0, 1.0), (0.0, 0.0)}
    assert asked(bench, 1).tobytes() == wanted.tobytes()


def test_a_file_that_cannot_be_read_is_told_of_and_what_was_read_stays(tmp_path: Path) -> None:
    news, rows = News(tmp_path), walk(WARM_UP + 1, 3)
    news.add((BEAT_NS * (FIRST_BEAT + 60), "news", 7.5))
    bench = Bench(recipe=NEWS, external=news.reader)
    for i in range(WARM_UP):
        send(bench, [(ETH, rows[i : i + 1])])
    (tmp_path / PATH).write_bytes(b"half of it")
    send(bench, [(ETH, rows[WARM_UP:])])
    health = bench.executor.health()
    assert (health["errors"], health["predictions"]) == (1, 2)
    assert f"external series: QuaverError: {tmp_path}/{PATH} cannot be read" in health["last_error"]
    assert asked(bench, 1)[:, 0].tolist() == [7.5, 7.5]


class Stuck(ExternalReader):
    """A reader that a server keeps waiting."""

    def __init__(self) -> None:
        super().__init__(Store("nowhere"), NEWS.external)
        self.calls, self.answers = 0, threading.Event()

    def refresh(self) -> bool:
        self.calls += 1
        self.answers.wait(30)
        return False


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    reader = Stuck()
    yield reader
    reader.answers.set()


def test_a_file_that_takes_too_long_is_waited_for_once(stuck: Stuck) -> None:
    bench = Bench(recipe=NEWS, external=stuck, predict_timeout_s=0.5)
    rows = walk(60, 3)

    async def run() -> None:
        async with asyncio.timeout(15):  # Half a second for each would be half a minute.
            for i in range(60):
                await bench.executor.on_item([(ETH, rows[i : i + 1])])
        stuck.answers.set()

    asyncio.run(run())
    assert (stuck.calls, bench.executor.health()["beats"]) == (1, 60)
    assert bench.executor.health()["errors"] == 60
    assert bench.executor.health()["last_error"].startswith("external series: TimeoutError")


def test_the_file_is_looked_at_once_a_beat_however_many_connections_bring_it(
    stuck: Stuck, streams: dict[str, Windows]
) -> None:
    bench = Bench(recipe=NEWS, external=stuck)
    stuck.answers.set()
    for i in range(3):
        send(bench, at(streams, FIRST_BEAT + i, BTC), at(streams, FIRST_BEAT + i, ETH))
    assert stuck.calls == 3


def test_a_series_that_is_gone_is_told_of(tmp_path: Path) -> None:
    news, rows = News(tmp_path), walk(1, 3)
    Store(str(tmp_path)).write(PATH, parquet([(BEAT_NS * FIRST_BEAT, "mood", 0.5)]))
    bench = Bench(recipe=NEWS, external=news.reader)
    send(bench, [(ETH, rows)])
    assert "no row has the name news; it has mood" in bench.executor.health()["last_error"]


def test_what_is_held_when_the_stream_is_lost_is_decided_before_all_orders_go() -> None:
    streams = {name: quiet(walk(WARM_UP + 3, seed)) for seed, name in enumerate((BTC, SOL))}
    bench = Bench(wants_to_buy_cheaply, recipe=NEAR)
    for i in range(WARM_UP + 2):
        send(bench, at(streams, FIRST_BEAT + i, BTC, *([SOL] if i < WARM_UP else [])))
    assert bench.executor.patience_left_s is not None
    asyncio.run(bench.executor.withdraw())
    assert bench.executor.patience_left_s is None
    assert bench.executor.last_beat == FIRST_BEAT + WARM_UP + 1
    assert bench.executor.positions()["open_orders"] == [] and bench.broker.submitted
    asyncio.run(bench.executor.release())
    assert bench.executor.positions()["open_orders"] == []


def test_orders_go_even_where_what_is_held_cannot_be_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = {name: quiet(walk(WARM_UP + 3, seed)) for seed, name in enumerate((BTC, SOL))}
    bench = Bench(wants_to_buy_cheaply, recipe=NEAR)
    for i in range(WARM_UP + 2):
        send(bench, at(streams, FIRST_BEAT + i, BTC, *([SOL] if i <= WARM_UP else [])))
    assert len(bench.executor.positions()["open_orders"]) == 1
    assert bench.executor.patience_left_s is not None

    async def broken(*given: object) -> None:
        raise RuntimeError("by a bug")

    monkeypatch.setattr(bench.executor, "_on_beat", broken)
    with pytest.raises(RuntimeError):
        asyncio.run(bench.executor.withdraw())
    assert bench.executor.positions()["open_orders"] == []


def quiet(rows: Windows) -> Windows:
    """Return windows in which nothing that rests is filled."""
    rows["ask"] = rows["low_ask"] = 60_000
    rows["trade_low"], rows["trade_high"] = 59_999, 59_999
    rows["bid"] = rows["high_bid"] = 59_000
    return rows


def test_an_invalid_beat_waits_for_nobody(streams: dict[str, Windows]) -> None:
    bench = Bench(recipe=NEAR)
    streams[ETH]["valid"][5] = False
    for i in range(6):
        send(bench, at(streams, FIRST_BEAT + i, ETH, *([SOL] if i < 5 else [])))
    assert bench.executor.patience_left_s is None and bench.executor.counts["beats"] == 6


def test_what_is_served_must_say_where_its_series_lie_and_they_must_be_there(
    tmp_path: Path,
) -> None:
    model = model_file(recipe=NEWS)
    with pytest.raises(QuaverError, match="external series news, mood; say with `external_root`"):
        build_app(model, ExecutionConfig())
    with pytest.raises(QuaverError, match=f"{tmp_path}/{PATH} is not there"):
        build_app(model, ExecutionConfig(external_root=str(tmp_path)))
