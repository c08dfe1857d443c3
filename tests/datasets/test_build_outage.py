"""A server that is away, in trouble or full in the middle of a build: waited for, or said."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actors import patience
from actors.store import Away, Store
from datasets import build as build_module
from datasets.build import Failure, Outcome, build, find_todo
from datasets.tables import table_path
from market.errors import QuaverError
from tests.actors.wire import BTC, ETH
from tests.datasets.building import (
    DAYS,
    RECIPE,
    SPLIT,
    Told,
    all_steps,
    in_process,
    record_day,
    record_days,
    run,
    steps,
    tables,
)
from tests.s3 import ROOMY, SMALL, S3Server

__all__ = ["in_process"]
pytestmark = pytest.mark.usefixtures("in_process")
MINUTE_S = 60.0
LIMIT_S = 200.0
ALL = all_steps("samples", DAYS[:2]) + all_steps("windows", DAYS[:2])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_POLL_MIN_S", 0.05)
    monkeypatch.setattr(patience, "_POLL_MAX_S", 0.2)


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    """The tables of two days, built in a folder that nothing happens to."""
    store = Store(str(tmp_path / "undisturbed"))
    record_days(store, 2)
    run(store)
    return tables(store)


class Outage(Told):
    """Kills the server once the first partition is done.

    Starts it once it is waited for, and has been away for so long.
    """

    def __init__(self, server: S3Server, away_s: float = 0.0) -> None:
        super().__init__()
        self.killed = threading.Event()
        self.lasted_s = 0.0
        self._server, self._away_s = server, away_s
        self._restart = threading.Thread(target=self._back)

    def kill(self) -> None:
        """Kill the server."""
        self._server.kill9()
        self._since_s = time.monotonic()
        self.killed.set()

    def done(self, one: object, total: int) -> None:
        if not self.told:
            self.kill()
        super().done(one, total)  # type: ignore[arg-type]

    def waiting(self, why: str) -> None:
        super().waiting(why)
        if not self._restart.ident:
            self._restart.start()

    def over(self) -> None:
        """Wait until the server is back, and have it back whatever happened."""
        if self._restart.ident:
            self._restart.join()
        if not self._server.running:
            self._server.restart()

    def _back(self) -> None:
        time.sleep(max(0.0, self._since_s + self._away_s - time.monotonic()))
        self.lasted_s = time.monotonic() - self._since_s
        self._server.restart()


# A server that is away.


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_server_killed_in_the_middle_is_waited_for(s3_server: S3Server, s3_root: str) -> None:
    store = Store(s3_root)
    record_days(store, 2)
    outage = Outage(s3_server)
    try:
        outcome = build(store, find_todo(store, RECIPE), SPLIT, outage)
    finally:
        outage.over()
    assert outcome.failures == [] and len(outage.waited) > 1
    assert "partitions wait" in outage.waited[0]
    assert steps(outcome) == ALL
    assert find_todo(store, RECIPE).is_empty()


@pytest.mark.slow
def test_a_server_that_is_away_for_a_minute_costs_a_build_nothing(
    s3_server: S3Server, s3_root: str, undisturbed: dict[str, bytes]
) -> None:
    """One build is in the middle, one is looking for what is to be done; with all real limits."""
    store, other = Store(s3_root), Store(f"{s3_root}-other")
    record_days(store, 2)
    record_days(other, 2)
    outage, looking, todo = Outage(s3_server, MINUTE_S), Told(), find_todo(store, RECIPE)
    with ThreadPoolExecutor(1) as thread:
        building = thread.submit(build, store, todo, SPLIT, outage)
        try:
            assert outage.killed.wait(LIMIT_S)
            found = find_todo(other, RECIPE, watcher=looking)
            outcome = building.result(LIMIT_S)
        finally:
            outage.over()
    assert outage.lasted_s >= MINUTE_S
    assert outcome.failures == [] and steps(outcome) == ALL
    assert "3 partitions wait" in outage.waited[2]
    for told, root in ((outage, store.root), (looking, other.root)):
        assert any(f"{root} does not answer: Could not connect" in why for why in told.waited)
    assert steps(build(other, found, SPLIT)) == ALL
    assert tables(store) == tables(other) == undisturbed


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_server_that_is_away_at_the_start_is_waited_for(
    s3_server: S3Server, s3_root: str
) -> None:
    store = Store(s3_root)
    record_days(store, 1)
    outage = Outage(s3_server)
    outage.kill()
    try:
        todo = find_todo(store, RECIPE, watcher=outage)
    finally:
        outage.over()
    assert todo.windows == [(p, DAYS[0]) for p in (BTC, ETH)]
    assert s3_root in outage.waited[0]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_server_that_stays_away_is_an_error_in_the_end(
    s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_PATIENCE_S", 0.5)
    s3_server.kill9()
    try:
        with pytest.raises(QuaverError, match="does not answer"):
            find_todo(Store(s3_root), RECIPE)
    finally:
        s3_server.restart()


# A server that answers, and does not take what is built.


class Refusing(Store):
    """A folder whose server answers, but takes no file of these products until some time."""

    def __init__(self, root: str, products: tuple[str, ...], until_s: float) -> None:
        super().__init__(root)
        self.now_s, self.tried = 0.0, 0
        self._products, self._until_s = products, until_s

    def write(self, path: str, data: bytes | memoryview) -> None:
        if any(product_id in path for product_id in self._products) and self.now_s < self._until_s:
            self.tried += 1
            raise Away("503 Slow Down")
        super().write(path, data)

    def sleep(self, pause_s: float) -> None:
        """Take this for the time that a build waits."""
        self.now_s += pause_s


def refusing(
    root: Path, monkeypatch: pytest.MonkeyPatch, products: tuple[str, ...], until_s: float
) -> Refusing:
    """A store that takes nothing more, with two days recorded in it; the clock is the build's."""
    record_days(Store(str(root)), 2)
    store = Refusing(str(root), products, until_s)
    monkeypatch.setattr(build_module.time, "sleep", store.sleep)
    return store


def test_a_server_that_takes_no_file_for_a_minute_costs_a_build_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    store, told = refusing(tmp_path / "root", monkeypatch, (BTC, ETH), MINUTE_S), Told()
    outcome = build(store, find_todo(store, RECIPE), SPLIT, told)
    assert outcome.failures == [] and steps(outcome) == ALL
    assert tables(store) == undisturbed
    # Not all is built again and again to see whether it works: only one partition.
    assert MINUTE_S <= store.now_s < 2 * MINUTE_S and store.tried <= 4 + 5
    assert told.waited[:5] == [f"{n} partitions wait: 503 Slow Down" for n in (1, 2, 3, 4, 4)]


def test_a_server_that_takes_nothing_is_given_up_in_two_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = refusing(tmp_path, monkeypatch, (BTC, ETH), 1e9)
    outcome = run(store)
    assert outcome.built == []
    partitions = {(product_id, day) for product_id in (BTC, ETH) for day in DAYS[:2]}
    assert {(f.product, f.day) for f in outcome.failures} == partitions
    assert {(f.stage, f.why) for f in outcome.failures} == {("windows", "503 Slow Down")}
    assert len(outcome.failures) == 4 and MINUTE_S < store.now_s < 2 * MINUTE_S


def test_what_a_server_never_takes_stops_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    store = refusing(tmp_path / "root", monkeypatch, (BTC,), 1e9)
    outcome = run(store)
    assert outcome.failures == [Failure(BTC, day, "windows", "503 Slow Down") for day in DAYS[:2]]
    built = tables(store)
    assert built == {path: data for path, data in undisturbed.items() if ETH in path}


class Moody(Refusing):
    """Takes one partition, and then for a minute none."""

    def write(self, path: str, data: bytes | memoryview) -> None:
        super().write(path, data)
        if path.endswith("manifest.json"):
            self._until_s = self.now_s + MINUTE_S


def test_each_partition_that_a_server_takes_gives_it_another_two_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_days(Store(str(tmp_path)), 2)
    store = Moody(str(tmp_path), (f"{BTC}/", f"{ETH}/"), MINUTE_S)
    monkeypatch.setattr(build_module.time, "sleep", store.sleep)
    outcome = run(store)
    assert outcome.failures == [] and steps(outcome) == ALL
    assert store.now_s > 8 * MINUTE_S


# A server that is full.


class Fill(Told):
    """Fills the server once the first partition is done, until it takes nothing more."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def done(self, one: object, total: int) -> None:
        if not self.told:
            with pytest.raises(Away, match="whether its disk is full"):
                for i in range(100):
                    self._store.write(f"junk/{i}", os.urandom(100_000))
        super().done(one, total)  # type: ignore[arg-type]


@pytest.fixture
def small_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server with room for a megabyte; it says so in its log, and answers 500 InternalError."""
    server = S3Server(tmp_path / "s3", SMALL)
    try:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
    finally:
        server.kill9()


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_server_that_is_full_is_said_and_what_was_built_goes_on_from_there(
    small_server: S3Server, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small_server.bucket("small")
    store = Store(root)
    record_day(store, 0)
    assert run(store).failures == []
    before = tables(store)
    record_day(store, 1)
    fill = Fill(store)
    with monkeypatch.context() as hurried:
        hurried.setattr(build_module, "_PAUSES_S", (0.01, 0.02))
        outcome = build(store, find_todo(store, RECIPE), SPLIT, fill)
        again = run(store)
    assert steps(outcome) == [("windows", BTC, DAYS[1])]
    assert_said(outcome, root)
    assert any("partitions wait" in why and "disk is full" in why for why in fill.waited)
    after = tables(store)
    lost = {path for path, data in before.items() if after.get(path) != data}
    assert lost <= {f"samples/product={p}/day={DAYS[0]}/manifest.json" for p in (BTC, ETH)}
    assert again.built == []
    assert_said(again, root)
    small_server.kill9()
    small_server.restart(ROOMY)
    assert run(store).failures == [] and find_todo(store, RECIPE).is_empty()
    assert tables(store) == undisturbed


def assert_said(outcome: Outcome, root: str) -> None:
    """Every failure says what could not be written, where, and what to look at."""
    assert outcome.failures
    for f in outcome.failures:
        path = table_path(f.stage, f.product, f.day)
        assert f.why.startswith(f"cannot write {path} under {root}: ")
        assert "InternalError" in f.why and "see whether its disk is full" in f.why
