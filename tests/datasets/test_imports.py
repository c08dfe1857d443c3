"""Imports: a capture of others becomes raw partitions, and what is wrong with it is said."""

import base64
import gzip
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from actors.formats import FORMATS
from actors.raw import partitions, read_manifest
from actors.store import Store
from datasets import captures
from datasets.imports import Imported, import_capture, parse_increments
from market.errors import QuaverError
from market.products import Product, product_of
from tests.actors.wire import (
    BEAT_NS,
    BTC,
    DAYS,
    DISCONNECT,
    ETH,
    MIDNIGHT_NS,
    SECOND_NS,
    START_NS,
    Advanced,
    Walk,
    assert_same_windows,
    live_windows,
    rebuilt_windows,
    rfc3339,
)

ADVANCED, EXCHANGE = "coinbase-advanced", "coinbase-exchange"


def capture(path: Path, lines: Iterable[bytes]) -> Path:
    """Write a capture, packed if its name says so."""
    data = b"".join(line + b"\n" for line in lines)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def stretch(
    seed: int, start_ns: int = START_NS, seconds: int = 30, ids: tuple[str, ...] = (BTC, ETH)
) -> list[bytes]:
    walk = Walk(seed, ids)
    snapshots = walk.snapshots(start_ns)
    return [*snapshots, *walk.frames(start_ns + SECOND_NS, start_ns + seconds * SECOND_NS)]


def load(
    root: Path, path: Path, wire_format: str = ADVANCED, **increments: Product
) -> tuple[Store, Imported]:
    store = Store(str(root))
    return store, import_capture(store, path, wire_format, increments)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def reasons(store: Store, product_id: str = BTC, day: str = DAYS[0]) -> list[str]:
    manifest = read_manifest(store, product_id, day)
    assert manifest is not None
    return [gap.reason for session in manifest.sessions for gap in session.gaps]


# What is read.


def test_a_capture_gives_the_windows_of_its_frames(tmp_path: Path) -> None:
    frames = stretch(1)
    store, done = load(tmp_path / "root", capture(tmp_path / "a.jsonl", frames))
    assert_same_windows(rebuilt_windows(store), live_windows(frames))
    assert done.path == str(tmp_path / "a.jsonl")
    assert (done.frames, set(done.products), done.skipped) == (len(frames), {BTC, ETH}, ())
    assert done.counts["heartbeats"] == sum(b'"heartbeats"' in frame for frame in frames)
    manifest = read_manifest(store, BTC, DAYS[0])
    assert manifest is not None and 0 < manifest.sessions[0].parts[0].rows < done.rows


def test_gzip_and_plain_are_the_same_whatever_the_name(tmp_path: Path) -> None:
    frames = stretch(2)
    plain = capture(tmp_path / "a.jsonl", frames)
    packed = capture(tmp_path / "a.jsonl.gz", frames)
    misnamed = tmp_path / "b.txt"
    misnamed.write_bytes(packed.read_bytes())
    roots = []
    for i, path in enumerate((plain, packed, misnamed)):
        load(tmp_path / str(i), path)
        roots.append(files(tmp_path / str(i)))
    assert roots[0] == roots[1] == roots[2]


def test_blank_lines_and_carriage_returns_say_nothing(tmp_path: Path) -> None:
    frames = stretch(3)
    spaced = [part for frame in frames for part in (b"", frame + b"\r", b"  ")]
    load(tmp_path / "a", capture(tmp_path / "a.jsonl", frames))
    load(tmp_path / "b", capture(tmp_path / "b.jsonl", spaced))
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(stretch(3)))
    store, _ = load(tmp_path / "root", path)
    assert_same_windows(rebuilt_windows(store), live_windows(stretch(3)))


@pytest.mark.parametrize("line", [DISCONNECT, b'{ "type" : "disconnect" }'])
def test_a_disconnect_line_unsyncs_every_book_and_starts_a_new_sequence(
    tmp_path: Path, line: bytes
) -> None:
    before, after = stretch(4), stretch(5, START_NS + 40 * SECOND_NS)
    store, done = load(tmp_path / "root", capture(tmp_path / "a.jsonl", [*before, line, *after]))
    assert_same_windows(rebuilt_windows(store), live_windows([*before, DISCONNECT, *after]))
    assert done.counts["disconnects"] == 1
    assert done.counts.get("gaps", 0) == done.counts.get("duplicates", 0) == 0
    for windows in rebuilt_windows(store).values():
        # Lost in beat 7 (second 29), known again from the beat after second 40.
        valid = windows["beat"][windows["valid"]] - START_NS // BEAT_NS
        assert valid.tolist() == [*range(1, 7), *range(11, 17)]
    assert reasons(store) == ["disconnect"]
    assert reasons(store, ETH) == ["start", "disconnect"]  # Its book came a frame later.


def test_a_capture_over_midnight_fills_two_days(tmp_path: Path) -> None:
    frames = stretch(6, MIDNIGHT_NS - 20 * SECOND_NS, 40)
    store, _ = load(tmp_path / "root", capture(tmp_path / "a.jsonl", frames))
    assert partitions(store) == [(p, day) for p in (BTC, ETH) for day in DAYS]
    assert_same_windows(rebuilt_windows(store), live_windows(frames))


def test_importing_again_changes_no_byte(tmp_path: Path) -> None:
    frames = [*stretch(7, MIDNIGHT_NS - 20 * SECOND_NS, 40), b"not JSON"]
    path = capture(tmp_path / "a.jsonl", frames)
    load(tmp_path / "root", path)
    once = files(tmp_path / "root")
    load(tmp_path / "root", path)
    assert files(tmp_path / "root") == once


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_two_captures_of_a_product_and_day_stand_side_by_side(tmp_path: Path, names: str) -> None:
    stretches = {"a": stretch(1), "b": stretch(2, START_NS + 60 * SECOND_NS)}
    for name in names:
        store, _ = load(tmp_path / "root", capture(tmp_path / f"{name}.jsonl", stretches[name]))
    first, second = live_windows(stretches["a"]), live_windows(stretches["b"])
    both = {p: np.concatenate([first[p], second[p]]) for p in (BTC, ETH)}
    assert_same_windows(rebuilt_windows(store), both)


def test_another_capture_of_the_same_time_is_refused(tmp_path: Path) -> None:
    load(tmp_path / "root", capture(tmp_path / "a.jsonl", stretch(1)))
    with pytest.raises(QuaverError, match="another root"):
        load(tmp_path / "root", capture(tmp_path / "b.jsonl", stretch(2, START_NS + SECOND_NS)))


def test_progress_is_told_with_the_number_of_frames(tmp_path: Path) -> None:
    frames = stretch(1, seconds=4_000)
    told: list[int] = []
    store = Store(str(tmp_path / "root"))
    import_capture(store, capture(tmp_path / "a.jsonl", frames), ADVANCED, {}, told.append)
    assert told == sorted(told) and told[-1] == len(frames)
    assert len(told) > 1


def exchange_frames() -> list[bytes]:
    """The Exchange feed: a snapshot without a time, updates, matches, heartbeats."""
    frames: list[dict[str, object]] = [{"type": "subscriptions", "channels": []}]
    bids, asks = [["99.00", "1"], ["98.00", "1"]], [["101.00", "2"]]
    frames += [{"type": "snapshot", "product_id": BTC, "bids": bids, "asks": asks}]
    trade = {"product_id": BTC, "trade_id": 5, "side": "sell", "price": "100.50", "size": "0.5"}
    frames += [{"type": "last_match", "time": rfc3339(START_NS)} | trade]
    for i in range(1, 17):
        time = {"product_id": BTC, "time": rfc3339(START_NS + i * SECOND_NS)}
        changes = [["buy", "99.50", "0.00000000" if i % 2 else "3"]]
        frames += [{"type": "l2update", "changes": changes} | time, {"type": "heartbeat"} | time]
    match = trade | {"type": "match", "trade_id": 6, "time": rfc3339(START_NS + 17 * SECOND_NS)}
    frames += [match, {"type": "heartbeat", "time": rfc3339(START_NS + 20 * SECOND_NS)}]
    return [json.dumps(frame).encode() for frame in frames]


def test_the_exchange_format_is_read(tmp_path: Path) -> None:
    store, _ = load(tmp_path / "root", capture(tmp_path / "a.jsonl", exchange_frames()), EXCHANGE)
    windows = rebuilt_windows(store)[BTC]
    assert windows["valid"].tolist() == [False, True, True, True, True]
    assert windows["bid"].tolist() == [9900, 9900, 9900, 9900, 9950]
    assert windows["high_bid"].tolist() == [9950] * 5
    assert windows["trades"].tolist() == [0, 0, 0, 0, 1]
    assert windows["buy_lots"].tolist() == [0, 0, 0, 0, 5 * 10**7]  # The maker sold.


# What is not known.


def test_products_without_a_grid_are_skipped_and_reported(tmp_path: Path) -> None:
    ids = (BTC, "AAA-EUR", "BBB-GBP")
    path = capture(tmp_path / "a.jsonl", stretch(8, ids=ids))
    store, done = load(tmp_path / "root", path)
    assert (done.products, set(done.skipped)) == ((BTC,), {"AAA-EUR", "BBB-GBP"})
    assert {product_id for product_id, _ in partitions(store)} == {BTC}
    assert_same_windows(rebuilt_windows(store), live_windows(stretch(8, ids=ids), (BTC,)))
    again = Store(str(tmp_path / "again"))
    done = import_capture(again, path, ADVANCED, {"AAA-EUR": product_of("AAA-EUR", "0.01", "1e-8")})
    assert (set(done.products), done.skipped) == ({BTC, "AAA-EUR"}, ("BBB-GBP",))


def test_a_capture_of_unknown_products_alone_asks_for_their_grid(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.jsonl", stretch(8, ids=("AAA-EUR", "BBB-GBP")))
    with pytest.raises(QuaverError, match=r"AAA-EUR, BBB-GBP.*--increments AAA-EUR="):
        load(tmp_path / "root", path)
    assert files(tmp_path / "root") == {}


def test_a_grid_that_is_given_goes_before_the_known_one(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.jsonl", stretch(8))
    store = Store(str(tmp_path / "root"))
    import_capture(store, path, ADVANCED, {BTC: product_of(BTC, "0.0001", "0.00000001")})
    plain = live_windows(stretch(8))
    assert rebuilt_windows(store)[BTC]["bid"].tolist() == (plain[BTC]["bid"] * 100).tolist()
    assert rebuilt_windows(store)[ETH]["bid"].tolist() == plain[ETH]["bid"].tolist()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("BTC-USD=0.01,0.00000001", product_of(BTC, "0.01", "0.00000001")),
        ("A-B=1,5", product_of("A-B", "1", "5")),
    ],
)
def test_increments_are_read(text: str, wanted: Product) -> None:
    assert parse_increments(text) == (wanted.id, wanted)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "BTC-USD",
        "BTC-USD=",
        "BTC-USD=,",
        "BTC-USD=0.01",
        "BTC-USD=0.01,0.01,0.01",
        "BTC-USD=x,0.01",
        "BTC-USD=0,0.01",
        "BTC-USD=-1,0.01",
        "BTC-USD=NaN,1",
        "A-B=1,Infinity",
        "=0.01,0.01",
    ],
)
def test_increments_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(QuaverError, match=r"\S"):
        parse_increments(text)


# What is wrong with a capture.


@pytest.mark.parametrize("wire_format", [ADVANCED, EXCHANGE])
def test_the_wrong_format_names_the_formats(tmp_path: Path, wire_format: str) -> None:
    frames = stretch(1) if wire_format == EXCHANGE else exchange_frames()
    with pytest.raises(QuaverError) as caught:
        load(tmp_path / "root", capture(tmp_path / "a.jsonl", frames), wire_format)
    text = str(caught.value)
    assert "a.jsonl" in text
    assert all(name in text for name in FORMATS)
    assert partitions(Store(str(tmp_path / "root"))) == []


@pytest.mark.parametrize("data", [b"", b"\n\n", b"hello\n", b"{}\n", b"[]\n", b"\x00" * 100])
def test_what_is_no_capture_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(QuaverError, match=r"a\.jsonl"):
        load(tmp_path / "root", path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(QuaverError) as caught:
            load(tmp_path / "root", path)
        assert str(path) in str(caught.value)


def test_a_broken_gzip_is_named_and_what_was_good_stays(tmp_path: Path) -> None:
    frames = stretch(9, seconds=300)
    path = capture(tmp_path / "a.jsonl.gz", frames)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(QuaverError) as caught:
        load(tmp_path / "root", path)
    assert str(path) in str(caught.value)
    line = int(str(caught.value).split("line ")[1].split(":")[0].split(" ")[0])
    assert 100 < line < len(frames)
    store = Store(str(tmp_path / "root"))
    good = {p: w for p, w in live_windows(frames[:line]).items()}
    assert_same_windows(rebuilt_windows(store), good)


def test_a_damaged_gzip_is_named(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.jsonl.gz", stretch(9))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    data[-6] ^= 255  # The checksum, should the damage unpack.
    path.write_bytes(data)
    with pytest.raises(QuaverError, match=r"a\.jsonl\.gz"):
        load(tmp_path / "root", path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_line_without_an_end_is_named_and_not_held(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captures, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(captures, "LONGEST_LINE_BYTES", 1 << 20)
    frames = stretch(9)
    path = capture(tmp_path / name, [*frames, b"x" * (1 << 20), b"y" * (3 << 20), *frames])
    with pytest.raises(QuaverError, match=rf"{name}: line {len(frames) + 2} is longer than 1 MiB"):
        load(tmp_path / "root", path)
    assert_same_windows(
        rebuilt_windows(Store(str(tmp_path / "root"))), live_windows([*frames, b"x"])
    )


_IMPORT = """
import sys
from pathlib import Path
from actors.store import Store
from datasets.imports import import_capture
from market.errors import QuaverError
try:
    import_capture(Store(sys.argv[1]), Path(sys.argv[2]), "coinbase-advanced", {})
except QuaverError as e:
    print(e)
peak = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
print(peak[0].split()[1])
"""


def peak_mib(root: Path, path: Path) -> tuple[float, str]:
    """The most memory that an import in a process of its own had, and what it said before."""
    command = [sys.executable, "-c", _IMPORT, str(root), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    *said, peak = done.stdout.splitlines()
    return int(peak) / 1024, " ".join(said)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    walk = Walk(1)
    start = walk.snapshots(START_NS)
    frames = list(walk.frames(START_NS + SECOND_NS, START_NS + 12 * 3_600 * SECOND_NS))
    short = capture(tmp_path / "short.jsonl", [*start, *frames[: len(frames) // 4]])
    long = capture(tmp_path / "long.jsonl", [*start, *frames])
    peaks = [peak_mib(tmp_path / path.stem, path)[0] for path in (short, long)]
    assert peaks[1] < peaks[0] + 60


@pytest.mark.slow
def test_a_gzip_bomb_is_refused_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(1_000):
            file.write(b"0" * (1 << 20))
    peak, said = peak_mib(tmp_path / "root", path)
    assert "line 1 is longer than 64 MiB" in said
    assert peak < 600


def test_corrupt_frames_are_kept_aside_verbatim_with_their_reason(tmp_path: Path) -> None:
    wire = Advanced()
    corrupt = [wire.book(START_NS, [("bid", "99.001", "1")]), b'{"channel": "l2_\xff \\x5c "}']
    frames = [wire.snapshot(START_NS), *corrupt]
    frames += [wire.heartbeat(START_NS + i * BEAT_NS) for i in range(3)]
    store, done = load(tmp_path / "root", capture(tmp_path / "a.jsonl", frames))
    assert done.counts["corrupt"] == 2
    (kept,) = store.files("quarantine")
    lines = [json.loads(line) for line in store.read(kept).splitlines()]
    assert lines[0]["frame"] == corrupt[0].decode()
    assert base64.b64decode(lines[1]["frame_base64"]) == corrupt[1]
    assert "99.001" in lines[0]["reason"] and lines[1]["reason"]
    # Those of a clean capture are no file at all.
    clean, _ = load(tmp_path / "clean", capture(tmp_path / "b.jsonl", stretch(1)))
    assert clean.files("quarantine") == []


def test_captures_of_one_name_keep_their_corrupt_frames_apart(tmp_path: Path) -> None:
    for i, folder in enumerate(("monday", "tuesday")):
        (tmp_path / folder).mkdir()
        lines = [*stretch(i, START_NS + i * 60 * SECOND_NS), f"corrupt {i}".encode()]
        load(tmp_path / "root", capture(tmp_path / folder / "capture.jsonl", lines))
    store = Store(str(tmp_path / "root"))
    kept = b"".join(store.read(path) for path in store.files("quarantine"))
    assert b"corrupt 0" in kept and b"corrupt 1" in kept


def test_a_capture_that_pauses_for_days_goes_on(tmp_path: Path) -> None:
    later_ns = START_NS + 3 * 86_400 * SECOND_NS
    frames = [*stretch(1), DISCONNECT, *stretch(2, later_ns)]
    store, done = load(tmp_path / "root", capture(tmp_path / "a.jsonl", frames))
    assert "corrupt" not in done.counts
    windows = rebuilt_windows(store)[BTC]
    assert windows["valid"][-5:].all()
    assert windows["beat"][-1] >= later_ns // BEAT_NS + 5
