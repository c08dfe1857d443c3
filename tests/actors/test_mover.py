"""The mover: once under the root whatever dies, in order, and never gone for want of a root."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.mover import pieces_of
from actors.raw import Gap, Manifest, read_manifest
from actors.segments import Header, encode_block, encode_header, read_segment, segments_of
from actors.spool import Spool, SpoolConfig, spool_folder
from actors.store import Store
from datasets.unknown import unknown
from market.errors import QuaverError
from market.events import EVENT, Kind, Reason, mark
from market.products import product_of
from market.windows import WindowBuilder
from tests.actors.spooling import DAY, IDS, SESSION_NS, expected, put, rows_of
from tests.actors.test_spool import LIMIT_S, flushed, recorded, spooling, wait_for
from tests.actors.wire import (
    BEAT_NS,
    BTC,
    ETH,
    SECOND_NS,
    START_NS,
    Advanced,
    assert_same_rows,
    rebuilt_windows,
    record,
)

pytestmark = pytest.mark.slow


SMALL = SpoolConfig(flush_s=0.01, segment_rows=6)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.mover._FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr("actors.mover._MAX_BACKOFF_S", 0.02)
    monkeypatch.setattr("actors.mover._LOOK_FOR_ORPHANS_S", 0.02)


class Failing(Store):
    """A root that fails where it is told to."""

    fails: Callable[[str, str], bool] = staticmethod(lambda doing, path: False)

    def write(self, path: str, data: bytes | memoryview) -> None:
        self._fail("write", path)
        super().write(path, data)
        self._fail("written", path)

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        self._fail("update", path)
        super().update(path, change)
        self._fail("updated", path)

    def _fail(self, doing: str, path: str) -> None:
        if self.fails(doing, path):
            raise QuaverError(f"{doing} {path}: the root is away")


def manifest_of(store: Store, product_id: str = BTC, day: str = DAY) -> Manifest:
    manifest = read_manifest(store, product_id, day)
    assert manifest is not None
    return manifest


def left_behind(root: Path | str, puts: int, config: SpoolConfig = SMALL) -> Path:
    """The folder of a collector that put this much, each on disk, and died with the root away."""
    store = Failing(str(root))
    store.fails = lambda doing, path: True
    spool = Spool(store, "a test", "dead", config)
    for number in range(puts):
        put(spool, number)
        flushed(spool)
    spool.close(0.1)
    (folder,) = spool_folder(store, config).glob("dead-*")
    assert f"stay in {folder}" in (spool.status().last_error or "")
    return folder


def assert_all(store: Store, puts: int) -> None:
    """Every row of these puts is in the recording, once; nothing else lies there."""
    for product_id in IDS:
        assert_same_rows(recorded(store, product_id), expected(product_id, puts))
        listed = [p.name for s in manifest_of(store, product_id).sessions for p in s.parts]
        lies = [p for p in store.files(f"raw/product={product_id}") if p.endswith(".parquet")]
        assert sorted(Path(p).name for p in lies) == sorted(listed)
    assert not list(spool_folder(store, SMALL).iterdir())


# A root that fails.


@pytest.mark.parametrize("doing", ["write", "written", "update", "updated"])
def test_a_root_that_fails_and_comes_back_has_everything_once(root: str, doing: str) -> None:
    store, failures = Failing(root), []

    def fails(now: str, path: str) -> bool:
        failures.append(path)
        return now == doing and len(failures) % 3 == 0 and len(failures) < 60

    store.fails = fails
    with spooling(store, SMALL) as spool:
        for number in range(40):
            put(spool, number)
            flushed(spool)
    assert len(failures) >= 60
    assert_all(store, 40)


def test_while_the_root_is_away_rows_wait_on_disk_and_not_in_memory(root: str) -> None:
    store = Failing(root)
    store.fails = lambda doing, path: True
    with spooling(store, SMALL) as spool:
        for number in range(40):
            put(spool, number)
            flushed(spool)
            assert spool.status().buffered_rows == 0
        wait_for(lambda: spool.status().last_error is not None)
        wait_for(lambda: spool.status().segments == 21)  # One that is being written.
        status = spool.status()
        assert "away" in (status.last_error or "")
        assert status.moved_parts == 0
        assert status.oldest_unmoved_s >= 0 and not spool.full
        store.fails = lambda doing, path: False
        wait_for(lambda: spool.status().segments == 1)
        wait_for(lambda: spool.status().last_error is None)
        assert spool.status().moved_parts == 40
    assert_all(store, 40)


def test_patience_at_the_end_is_kept_and_the_rest_is_for_the_next_start(root: str) -> None:
    began = time.monotonic()
    folder = left_behind(root, 5)
    assert time.monotonic() - began < 5
    assert len(segments_of(folder)) == 3
    store = Store(root)
    Spool(store, "a test", "next", SMALL).close(LIMIT_S)
    assert_all(store, 5)


def test_a_mover_that_is_surprised_goes_on(tmp_path: Path) -> None:
    store, surprises = Failing(str(tmp_path)), []

    def fails(doing: str, path: str) -> bool:
        surprises.append(path)
        if len(surprises) < 4:
            raise ZeroDivisionError(path)
        return False

    store.fails = fails
    with spooling(store, SMALL) as spool:
        put(spool, 0)
    assert len(surprises) >= 4
    assert_same_rows(recorded(store, BTC), rows_of(0))


# A writer that was killed.


def test_a_session_that_broke_off_says_so(root: str) -> None:
    left_behind(root, 5)
    store = Store(root)
    Spool(store, "a test", "next", SMALL).close(LIMIT_S)
    for product_id in IDS:
        (session,) = manifest_of(store, product_id).sessions
        last_ns = int(expected(product_id, 5)["ns"][-1])
        assert session.gaps == [Gap(ns=last_ns, until_ns=None, reason="broke off")]


def test_a_session_whose_end_was_kept_did_not_break_off(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with spooling(store, SMALL) as spool:
        for number in range(2):
            put(spool, number)
        end = np.array([mark(Kind.END, SESSION_NS + SECOND_NS, 0)], EVENT)
        spool.put(product_of(BTC, "0.01", "0.00000001"), DAY, SESSION_NS, end, None)
    assert manifest_of(store, BTC).sessions[0].gaps == []
    assert [g.reason for g in manifest_of(store, ETH).sessions[0].gaps] == ["broke off"]


def test_a_product_that_was_quiet_when_its_writer_died_broke_off_too(tmp_path: Path) -> None:
    """Its last rows lie in a segment that was moved long before."""
    store = Store(str(tmp_path))
    with spooling(store, SMALL) as spool:
        for number in (0, 1, 2, 4, 6, 8, 10):
            put(spool, number)
            flushed(spool)
    (session,) = manifest_of(store, ETH).sessions
    assert len(session.parts) == 1
    assert session.gaps == [Gap(ns=SESSION_NS, until_ns=None, reason="broke off")]


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_torn_tail_loses_only_what_was_not_whole(tmp_path: Path, cut: int) -> None:
    folder = left_behind(tmp_path, 6, SpoolConfig(flush_s=0.01))
    (path,) = segments_of(folder)
    whole = read_segment(path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(read_segment(path).blocks) == len(whole.blocks) - 1
    store = Store(str(tmp_path))
    Spool(store, "a test", "next", SMALL).close(LIMIT_S)
    assert_all(store, 5)


def test_rows_lost_in_the_middle_leave_no_book_that_is_thought_known(tmp_path: Path) -> None:
    """A damaged block that others follow: whoever rebuilds the book must know of the hole."""
    folder = left_behind(tmp_path, 8)
    second = segments_of(folder)[1]
    data = bytearray(second.read_bytes())
    data[-10] ^= 1  # Its last block: the put of number 3.
    second.write_bytes(data)
    store = Store(str(tmp_path))
    Spool(store, "a test", "next", SMALL).close(LIMIT_S)
    for product_id, ns in ((BTC, SESSION_NS + 10**6), (ETH, SESSION_NS)):
        (session,) = manifest_of(store, product_id).sessions
        assert session.gaps[0] == Gap(ns=ns, until_ns=None, reason="corrupt")
        rows = recorded(store, product_id)
        assert rows["reason"][rows["kind"] == Kind.UNSYNC].tolist() == [Reason.CORRUPT]
        builder = WindowBuilder()
        builder.feed(rows)
        assert not builder.synced
    assert_same_rows(recorded(store, ETH)[3 + 1 :], expected(ETH, 8)[6:])


def test_a_file_that_is_no_segment_is_kept_and_told(tmp_path: Path) -> None:
    folder = left_behind(tmp_path, 3)
    bad = folder / "00000007.seg"
    bad.write_bytes(b"garbage")
    store = Store(str(tmp_path))
    spool = Spool(store, "a test", "next", SMALL)
    wait_for(lambda: not folder.exists())
    assert "no segment" in (spool.status().last_error or "")
    spool.close(LIMIT_S)
    for product_id in IDS:
        assert_same_rows(recorded(store, product_id), expected(product_id, 3))
    (kept,) = (tmp_path / "spool").rglob("*.bad")
    assert kept.read_bytes() == b"garbage"


def test_a_collector_that_lives_is_left_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with spooling(store) as spool:
        put(spool, 0)
        flushed(spool)
        other = Spool(store, "a test", "other", SMALL)
        other.close(LIMIT_S)
        assert read_manifest(store, BTC, DAY) is None
        assert spool.status().segments == 1
    assert_same_rows(recorded(store, BTC), rows_of(0))


def test_what_others_left_is_adopted_by_one_that_runs_already(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with spooling(store) as spool:
        left_behind(tmp_path, 5)
        wait_for(lambda: spool.status().moved_parts == 5)
    for product_id in IDS:
        assert_same_rows(recorded(store, product_id), expected(product_id, 5))


def test_what_lies_beside_the_spool_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "home" / "notes").mkdir(parents=True)
    (tmp_path / "home" / "notes" / "a.txt").write_text("mine")
    config = SpoolConfig(flush_s=0.01, folder=str(tmp_path / "home"))
    Spool(Store(str(tmp_path / "root")), "a test", "next", config).close(LIMIT_S)
    found = [p.relative_to(tmp_path / "home") for p in (tmp_path / "home").rglob("*")]
    assert sorted(map(str, found)) == ["notes", "notes/a.txt", "root"]


# Processes that are killed.


@contextmanager
def process(root: str, mode: str, point: str = "-") -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.actors.spooling", root, mode, point]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def read_until_dead(
    child: "subprocess.Popen[str]", kill_after: int | None
) -> tuple[int, int, float, list[float]]:
    """Puts that were confirmed and put, when it was killed, and the time of each put."""
    assert child.stdout is not None
    confirmed, times, killed = 0, [], float("inf")
    for line in child.stdout:
        if not line.endswith("\n"):
            break
        what, number, at = line.split()
        if what == "kept":
            confirmed = int(number) + 1
        else:
            times.append(float(at))
        if kill_after is not None and len(times) >= kill_after and killed == float("inf"):
            killed = time.monotonic()
            child.kill()
    return confirmed, len(times), min(killed, time.monotonic()), times


def assert_prefix_survived(root: str, least: int, most: int) -> None:
    """After the next start: a prefix of what was put, of every product, each row once."""
    store = Store(root)
    Spool(store, "a test", "next", SMALL).close(LIMIT_S)
    for product_id in IDS:
        rows, manifest = recorded(store, product_id), manifest_of(store, product_id)
        (session,) = manifest.sessions
        wanted = expected(product_id, most + 1)
        assert len(expected(product_id, least)) <= len(rows) <= len(wanted)
        assert_same_rows(rows, wanted[: len(rows)])
        assert session.gaps == [Gap(ns=int(rows["ns"][-1]), until_ns=None, reason="broke off")]
        assert sum(part.rows for part in session.parts) == len(rows)
        listed = [part.name for part in session.parts]
        lies = [p for p in store.files(f"raw/product={product_id}") if p.endswith(".parquet")]
        assert sorted(Path(p).name for p in lies) == sorted(listed)
    assert not list(spool_folder(store, SMALL).iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_kill_loses_at_most_a_second_and_nothing_that_was_confirmed(root: str, seed: int) -> None:
    kill_after = int(np.random.default_rng(seed).integers(1_000, 2_000))
    with process(root, "record") as child:
        confirmed, puts, killed, times = read_until_dead(child, kill_after)
    old = sum(at < killed - 1.0 for at in times)
    assert confirmed > 0 and old > 0
    assert_prefix_survived(root, max(confirmed, old), puts)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["after part", "after commit"])
def test_a_kill_while_a_segment_is_moved_repeats_and_loses_nothing(root: str, point: str) -> None:
    with process(root, "record", point) as child:
        confirmed, puts, _, _ = read_until_dead(child, None)
        assert child.wait(LIMIT_S) == -9
    assert confirmed > 0
    assert_prefix_survived(root, confirmed, puts)


@pytest.mark.slow
def test_of_two_that_would_adopt_one_does(root: str) -> None:
    left_behind(root, 60)
    with process(root, "adopt") as one, process(root, "adopt") as other:
        for child in (one, other):
            assert child.stdout and child.stdout.readline() == "ready\n"
        for child in (one, other):
            child.communicate("go\n", timeout=LIMIT_S)
            assert child.returncode == 0
    assert_all(Store(root), 60)


# What a partition does not take.


@pytest.mark.parametrize("why", ["increments", "simulated"])
def test_what_a_partition_refuses_is_set_aside_and_the_others_go_on(
    tmp_path: Path, why: str
) -> None:
    store, source = Store(str(tmp_path)), "a made-up venue"
    coarser = {BTC: product_of(BTC, "0.1", "0.00000001")}
    if why == "simulated":
        source, coarser = "simulated exchange", {BTC: product_of(BTC, "0.01", "0.00000001")}
    levels = [("bid", "100.0", "1"), ("offer", "101.0", "1")]
    frame = Advanced().book(START_NS - 600 * SECOND_NS, levels, BTC, "snapshot")
    record(store, [frame], products=coarser, source=source)
    before = store.read(f"raw/product={BTC}/day={DAY}/manifest.json")
    spool = Spool(store, "a test", "ours", SMALL)
    for number in range(10):
        put(spool, number)
        flushed(spool)
    spool.close(LIMIT_S)
    assert_same_rows(recorded(store, ETH), expected(ETH, 10))
    assert store.read(f"raw/product={BTC}/day={DAY}/manifest.json") == before
    status, refused = spool.status(), tmp_path / "spool" / "refused"
    assert status.refused == 5
    for word in (BTC, "another root", str(refused)):
        assert word in (status.last_error or "")
    # What the error says to do.
    other = Store(str(tmp_path / "other"))
    config = SpoolConfig(flush_s=0.01, folder=str(refused))
    Spool(other, "a test", "next", config).close(LIMIT_S)
    assert_same_rows(recorded(other, BTC), expected(BTC, 10))
    assert read_manifest(other, ETH, DAY) is None
    assert [path.name for path in refused.iterdir()] == ["root"]


# Sessions that overlap: a collector that was thought dead.


def book_at(ns: int, price: int) -> NDArray[np.void]:
    rows = np.zeros(2, EVENT)
    rows["ns"], rows["kind"], rows["side"] = ns, Kind.SNAPSHOT, [0, 1]
    rows["price"], rows["size"], rows["last"] = [price, price + 1], 1, [0, 1]
    return rows


def session_of(spool: Spool, start_s: int, seconds: int, price: int) -> None:
    """A book, a mark each second, its fifth an UNSYNC; a new book after two seconds; an END."""
    listed, start_ns = product_of(BTC, "0.01", "0.00000001"), START_NS + start_s * SECOND_NS
    spool.put(listed, DAY, start_ns, book_at(start_ns, price), None)
    for second in range(1, seconds):
        ns = start_ns + second * SECOND_NS
        rows = np.array([mark(Kind.CLOCK, ns, 0)], EVENT)
        if second == 5:
            rows = np.array([mark(Kind.UNSYNC, ns, 0, Reason.GAP)], EVENT)
        if second == 7:
            rows = book_at(ns, price)
        spool.put(listed, DAY, start_ns, rows, None)
    end = np.array([mark(Kind.END, start_ns + seconds * SECOND_NS, 0)], EVENT)
    spool.put(listed, DAY, start_ns, end, None)


Told = tuple[int, int, int]  # A session's first second, its seconds and its price.


def alone(root: Path, told: Told) -> NDArray[np.void]:
    """The windows of a session as they were when it alone was recorded."""
    with spooling(Store(str(root))) as spool:
        session_of(spool, *told)
    return rebuilt_windows(Store(str(root)))[BTC]


@pytest.mark.parametrize(
    "sessions",
    [
        [(0, 40, 1_000), (20, 40, 2_000)],  # One that was thought dead went on.
        [(0, 40, 1_000), (22, 40, 2_000)],
        [(0, 60, 1_000), (20, 16, 2_000)],  # A short one beside a long one.
        [(0, 60, 1_000), (0, 6, 2_000)],  # Both carried the product over midnight.
        [(0, 6, 1_000), (0, 60, 2_000)],
        [(0, 60, 1_000), (0, 60, 2_000)],
        [(0, 80, 1_000), (12, 60, 2_000), (24, 16, 3_000)],
        [(0, 20, 1_000), (18, 22, 2_000), (30, 10, 3_000)],
        [(0, 20, 1_000), (20, 20, 2_000)],
        [(20, 20, 1_000), (0, 30, 2_000)],  # A clock that was set back.
    ],
)
def test_what_any_of_overlapping_sessions_knew_is_known(
    tmp_path: Path, sessions: list[Told]
) -> None:
    each = [alone(tmp_path / f"alone-{n}", told) for n, told in enumerate(sessions)]
    store = Store(str(tmp_path / "together"))
    with ExitStack() as open_spools:
        for told in sessions:
            session_of(open_spools.enter_context(spooling(store)), *told)
    found = rebuilt_windows(store)[BTC]
    known: dict[int, list[list[int]]] = {}
    for windows in each:
        for window in windows:
            known.setdefault(int(window["beat"]), [])
            if window["valid"]:
                known[int(window["beat"])].append([int(window["bid"]), int(window["ask"])])
    assert found["beat"].tolist() == sorted(known)
    for window in found:
        books = known[int(window["beat"])]
        assert window["valid"] == bool(books)
        assert not books or [int(window["bid"]), int(window["ask"])] in books
    # Health knows the book at least where a window is valid.
    for window in found[found["valid"]]:
        start_ns = int(window["beat"]) * BEAT_NS
        assert unknown(manifest_of(store), start_ns, start_ns + BEAT_NS) == []


def test_of_two_that_know_a_beat_the_later_is_taken(tmp_path: Path) -> None:
    """What a consumer got last, where a collector was replaced."""
    store = Store(str(tmp_path))
    with spooling(store) as one, spooling(store) as other:
        session_of(one, 0, 60, 1_000)
        session_of(other, 16, 24, 2_000)
    found = rebuilt_windows(store)[BTC]
    first = START_NS // BEAT_NS
    bids = {int(w["beat"]) - first: int(w["bid"]) for w in found if w["valid"]}
    # Of both, the beat in which a session begins, in which it has a gap and what follows of it
    # until its new book are not known: the first loses beat 1, the second beats 4 and 5. The beat
    # in which a session ends is not emitted: 9 of the second.
    assert [bids.get(beat) for beat in range(2, 11)] == [1_000] * 4 + [2_000] * 3 + [1_000] * 2


def test_a_capture_of_a_time_that_was_recorded_live_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with spooling(store) as spool:
        session_of(spool, 0, 40, 1_000)
    wire = Advanced()
    frames = [wire.snapshot(START_NS + i * SECOND_NS) for i in range(30, 50)]
    with pytest.raises(QuaverError, match="another recording of the same time"):
        record(store, frames, (BTC,))


# Pieces.


def test_counts_of_a_segment_are_the_last_that_were_looked_up(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    listed = product_of(BTC, "0.01", "0.00000001")
    with spooling(store) as spool:
        for number, counts in enumerate(({"gaps": 1}, {"gaps": 2}, None)):
            spool.put(listed, DAY, SESSION_NS, rows_of(number), counts)
            flushed(spool)
    assert manifest_of(store).sessions[0].counts == {"gaps": 2}


def test_a_segment_without_rows_gives_no_part(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    header = Header(writer="w", number=0, source="a test", collector="c")
    path.write_bytes(encode_header(header) + encode_block([], []))
    assert pieces_of(read_segment(path), last=True) == []


class Forgetful(Store):
    """A root whose answer to an update is lost, so that it is tried again."""

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        super().update(path, change)
        super().update(path, change)


def test_a_commit_whose_answer_was_lost_lists_its_part_once(root: str) -> None:
    store = Forgetful(root)
    with spooling(store, SMALL) as spool:
        for number in range(5):
            put(spool, number)
            flushed(spool)
    assert_all(store, 5)
