"""Advanced Trade frames: bytes to whole ticks and lots, and on to the events of the reader.

The yardsticks parse the same frames with msgspec into structs or with json, and get ticks and lots
by rounding floats, which is right for these numbers though not for all. Before the clock starts,
all sides, prices and sizes are compared: integers, so equal or not. Ours also reads and checks the
frame's time and number, and makes the arrays that the book takes.
"""

import gzip
import json
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from actors.advanced_trade import decode, decoder
from actors.frames import CorruptFrame, Decoder, WireFormat, attempt
from actors.reader import Reader
from benchmarks.harness import Result, compare, report
from market.events import ASK, BID
from market.products import Product, product

SEED = 7
BTC = {"BTC-USD": product("BTC-USD")}
TICKS, LOTS = 100, 100_000_000  # In one unit of price and size.
BATCH_BYTES = 1 << 17  # As an import reads them.
RECORDING = Path(__file__).parents[2] / "shared" / "data" / "advanced-btc-usd-180s.jsonl.gz"

Columns = tuple[list[int], list[int], list[int]]  # Side, ticks, lots of every level change.


class _Level(msgspec.Struct):
    side: str
    price_level: str
    new_quantity: str


class _Book(msgspec.Struct):
    product_id: str
    updates: list[_Level]


class _Frame(msgspec.Struct):
    timestamp: str
    sequence_num: int
    events: list[_Book]


_struct = msgspec.json.Decoder(_Frame)


def measure() -> list[Result]:
    """Measure frames of five changes, of fifty, whole books, and a real recording's."""
    made = {
        "5 changes a frame": frames_of(5, 20_000),
        "50 changes a frame": frames_of(50, 2_000),
        "books of 40,000 levels": frames_of(40_000, 3),
    }
    results = []
    for name, frames in (made | recorded_frames()).items():
        results += _measure_decoding(f"frame decode, Advanced Trade: {name}", frames)
    return results + _measure_one_by_one(made["5 changes a frame"])


def _measure_decoding(name: str, frames: list[bytes]) -> list[Result]:
    batches, ours = batched(frames), decoder(BTC)
    wanted = _columns(frames, ours)
    changes = len(wanted[0])
    against = {
        "msgspec struct + float + round": by_struct,
        "the same, rounded by numpy in batches": _by_numpy,
        "json.loads + float + round": _by_json,
    }
    for yardstick, read in against.items():
        if read(frames) != wanted:
            raise SystemExit(f"{name}: {yardstick} does not find our ticks and lots")
    runs = {each: (partial(_in_turn, read, batches), changes) for each, read in against.items()}
    return compare(name, "updates/s", partial(_in_turn, ours, batches), runs, changes, runs=9)


def _in_turn(read: Callable[[list[bytes]], object], batches: list[list[bytes]]) -> None:
    """Read batches, each forgotten before the next, as whoever takes them does."""
    for batch in batches:
        read(batch)


def _measure_one_by_one(frames: list[bytes]) -> list[Result]:
    """Measure the reader as captures are imported, and as frames come live: one at a time."""
    batches, single = batched(frames), [[frame] for frame in frames]
    amount = len(frames)

    def events(wire_format: WireFormat, batches: list[list[bytes]]) -> None:
        reader = Reader(wire_format, BTC)
        for batch in batches:
            for _ in reader.frames(batch, 0):
                pass

    name, unit = "frames of 5 changes to events", "frames/s"
    against: dict[str, tuple[Callable[[], object], int]] = {
        "the general parser alone": (partial(events, general, single), amount)
    }
    results = compare(
        f"{name}, in batches", unit, partial(events, decoder, batches), against, amount
    )
    results += compare(
        f"{name}, one by one", unit, partial(events, decoder, single), against, amount
    )
    against = {"msgspec struct + float + round": (partial(_in_turn, by_struct, single), amount)}
    name = "frames of 5 changes decoded one by one"
    return results + compare(name, unit, partial(_in_turn, decoder(BTC), single), against, amount)


def frames_of(changes: int, count: int) -> list[bytes]:
    """Return frames of so many level changes, as the venue writes them; five are 708 bytes."""
    rng = np.random.default_rng(SEED)
    kind = "update" if changes < 1_000 else "snapshot"
    frames = []
    for number in range(count):
        cents = rng.integers(6_000_000, 6_500_000, changes)
        lots = rng.integers(0, 10**8, changes)
        levels = [
            f'{{"side":"{"bid" if c % 2 else "offer"}","event_time":"2026-08-09T05:23:41.877755Z",'
            f'"price_level":"{c // 100}.{c % 100:02d}","new_quantity":"0.{q:08d}"}}'
            for c, q in zip(cents.tolist(), lots.tolist(), strict=True)
        ]
        time = f"2026-08-09T05:{number // 600 % 60:02d}:{number // 10 % 60:02d}.{number % 10}23456Z"
        frames.append(
            f'{{"channel":"l2_data","timestamp":"{time}","sequence_num":{number},"events":['
            f'{{"type":"{kind}","product_id":"BTC-USD","updates":[{",".join(levels)}]}}]}}'.encode()
        )
    return frames


def recorded_frames() -> dict[str, list[bytes]]:
    """Return the update frames of a real recording, if it is here."""
    if not RECORDING.exists():
        print("frame decode: no recording in ../shared/data, its row is left out")  # noqa: T201
        return {}
    with gzip.open(RECORDING) as file:
        lines = file.read().splitlines()
    return {"a recording's updates": [x for x in lines if b'"l2_data"' in x and len(x) < 100_000]}


def batched(frames: list[bytes]) -> list[list[bytes]]:
    """Return frames in batches of about the size that an import decodes at once."""
    size = max(1, BATCH_BYTES * len(frames) // sum(map(len, frames)))
    rest = iter(frames)
    return list(iter(lambda: list(islice(rest, size)), []))


def general(products: dict[str, Product]) -> Decoder:
    """Return the decoder that has no scanner."""
    return lambda batch: [attempt(decode, frame, products) for frame in batch]


def _columns(frames: list[bytes], ours: Decoder) -> Columns:
    rows: list[NDArray[np.void]] = []
    for frame in ours(frames):
        if isinstance(frame, CorruptFrame):
            raise SystemExit(f"a frame of the benchmark is corrupt: {frame.reason}")
        rows += [found for _, found in frame.rows]
    levels = np.concatenate(rows)
    return levels["side"].tolist(), levels["price"].tolist(), levels["size"].tolist()


def by_struct(frames: list[bytes]) -> Columns:
    sides, ticks, lots = [], [], []
    for frame in frames:
        for book in _struct.decode(frame).events:
            for level in book.updates:
                sides.append(BID if level.side == "bid" else ASK)
                ticks.append(round(float(level.price_level) * TICKS))
                lots.append(round(float(level.new_quantity) * LOTS))
    return sides, ticks, lots


def _by_numpy(frames: list[bytes]) -> Columns:
    books = [book for frame in frames for book in _struct.decode(frame).events]
    levels = [level for book in books for level in book.updates]
    sides = [BID if level.side == "bid" else ASK for level in levels]
    ticks = np.rint(np.array([float(level.price_level) for level in levels]) * TICKS)
    lots = np.rint(np.array([float(level.new_quantity) for level in levels]) * LOTS)
    return sides, ticks.astype(np.int64).tolist(), lots.astype(np.int64).tolist()


def _by_json(frames: list[bytes]) -> Columns:
    sides, ticks, lots = [], [], []
    for frame in frames:
        for book in json.loads(frame)["events"]:
            for level in book["updates"]:
                sides.append(BID if level["side"] == "bid" else ASK)
                ticks.append(round(float(level["price_level"]) * TICKS))
                lots.append(round(float(level["new_quantity"]) * LOTS))
    return sides, ticks, lots


if __name__ == "__main__":
    report(measure())
