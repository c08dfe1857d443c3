"""Frames as Coinbase sends them, written by hand, and the plain ways from frames to windows."""

import json
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from actors.advanced_trade import decoder
from actors.raw import partitions, read_manifest, read_partition
from actors.reader import Events, Reader
from actors.recorder import Parts, Recorder
from actors.store import Store
from actors.stream import ProductStream
from market.events import Kind
from market.products import Product, product
from market.windows import WINDOW, WindowBuilder

SECOND_NS = 10**9
BEAT_NS = 4 * SECOND_NS
DAY_NS = 86_400 * SECOND_NS
MIDNIGHT_NS = 1_786_320_000 * SECOND_NS
DAYS = ("2026-08-09", "2026-08-10")  # What MIDNIGHT_NS lies between.
START_NS = MIDNIGHT_NS - DAY_NS // 2  # Noon, at the start of a beat.
BTC, ETH = "BTC-USD", "ETH-USD"  # Both count in 0.01 and 0.00000001.
DISCONNECT = b'{"type":"disconnect"}'

Levels = list[tuple[str, str, str]]  # (side, price, size)
Trades = list[tuple[int, str, str, str]]  # (trade_id, maker side, price, size)
Windows = dict[str, NDArray[np.void]]


def listed(*product_ids: str) -> dict[str, Product]:
    """Products of the universe by id."""
    return {product_id: product(product_id) for product_id in product_ids}


def rfc3339(ns: int) -> str:
    """A time as the venue writes it, with nine digits of fraction."""
    seconds, fraction = divmod(ns, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


class Advanced:
    """The frames of one Advanced Trade connection, numbered as they are made."""

    def __init__(self, first: int = 0) -> None:
        self.sequence = first

    def frame(self, channel: str, ns: int, events: object) -> bytes:
        """The next frame, whatever it holds."""
        frame = {
            "channel": channel,
            "timestamp": rfc3339(ns),
            "sequence_num": self.sequence,
            "events": events,
        }
        self.sequence += 1
        return json.dumps(frame, separators=(",", ":")).encode()

    def book(self, ns: int, levels: Levels, product_id: str = BTC, kind: str = "update") -> bytes:
        """A frame of `l2_data`."""
        updates = [
            {"side": side, "event_time": rfc3339(0), "price_level": price, "new_quantity": size}
            for side, price, size in levels
        ]
        event = {"type": kind, "product_id": product_id, "updates": updates}
        return self.frame("l2_data", ns, [event])

    def snapshot(self, ns: int, product_id: str = BTC, bid: int = 100, ask: int = 102) -> bytes:
        """A whole book of three levels a side around these prices, one unit apart."""
        levels = [("bid", f"{bid - i}.00", "1.5") for i in range(3)]
        levels += [("offer", f"{ask + i}.00", "2.5") for i in range(3)]
        return self.book(ns, levels, product_id, "snapshot")

    def trades(self, ns: int, trades: Trades, product_id: str = BTC, kind: str = "update") -> bytes:
        """A frame of `market_trades`, its trades in the order given."""
        rows = [
            {
                "product_id": product_id,
                "trade_id": str(trade_id),
                "price": price,
                "size": size,
                "time": rfc3339(ns),
                "side": side,
            }
            for trade_id, side, price, size in trades
        ]
        return self.frame("market_trades", ns, [{"type": kind, "trades": rows}])

    def heartbeat(self, ns: int) -> bytes:
        """A frame of `heartbeats`."""
        event = {"current_time": "2026-08-09 12:00:00 +0000 UTC", "heartbeat_counter": 1}
        return self.frame("heartbeats", ns, [event])

    def ack(self, ns: int, has: dict[str, list[str]]) -> bytes:
        """A frame of `subscriptions`: the whole set of each channel."""
        return self.frame("subscriptions", ns, [{"subscriptions": has}])


class Walk:
    """A venue whose books move at random, never crossed; `frames` is what it sends.

    Every half second comes one frame: a heartbeat on whole seconds, else a book or trades.
    """

    def __init__(self, seed: int, product_ids: tuple[str, ...] = (BTC, ETH)) -> None:
        self.wire = Advanced()
        self._random = random.Random(seed)
        self._products = product_ids
        self._books: dict[str, tuple[int, dict[int, str], dict[int, str]]] = {}
        self._trade_id = 1_000
        for product_id in product_ids:
            middle = self._random.randrange(9_000, 11_000)
            bids = {middle - i: self._size() for i in range(1, 40)}
            asks = {middle + i: self._size() for i in range(1, 40)}
            self._books[product_id] = (middle, bids, asks)

    def snapshots(self, ns: int) -> list[bytes]:
        """The whole book of every product."""
        return [
            self.wire.book(ns + i, self._levels(*self._books[name][1:]), name, "snapshot")
            for i, name in enumerate(self._products)
        ]

    def frames(self, start_ns: int, end_ns: int) -> Iterator[bytes]:
        """What is sent in [start, end), snapshots not included."""
        for ns in range(start_ns, end_ns, SECOND_NS // 2):
            if ns % SECOND_NS == 0:
                yield self.wire.heartbeat(ns)
            elif self._random.random() < 0.2:
                yield self._trade(ns + self._random.randrange(SECOND_NS // 4))
            else:
                yield self._change(ns + self._random.randrange(SECOND_NS // 4))

    def _change(self, ns: int) -> bytes:
        product_id = self._random.choice(self._products)
        middle, bids, asks = self._books[product_id]
        changes: tuple[dict[int, str], dict[int, str]] = ({}, {})
        for _ in range(self._random.randrange(1, 6)):
            side = self._random.randrange(2)
            price = middle + (1 if side else -1) * self._random.randrange(1, 60)
            changes[side][price] = self._random.choice(["0", "0.00000000", self._size()])
        for book, changed in zip((bids, asks), changes, strict=True):
            book |= changed
            for price in [p for p, size in book.items() if float(size) == 0]:
                del book[price]
            if not book:  # Never a side without a level.
                price = middle + (1 if book is asks else -1)
                book[price] = changed[price] = self._size()
        return self.wire.book(ns, self._levels(*changes), product_id)

    def _trade(self, ns: int) -> bytes:
        product_id = self._random.choice(self._products)
        trades = []
        for _ in range(self._random.randrange(1, 4)):
            self._trade_id += 1
            side = self._random.choice(["BUY", "SELL"])
            price = self._books[product_id][0] + self._random.randrange(-5, 6)
            trades.insert(0, (self._trade_id, side, f"{price / 100:.2f}", self._size()))
        return self.wire.trades(ns, trades, product_id)

    def _size(self) -> str:
        return f"{self._random.randrange(1, 10**9) / 1e8:.8f}"

    @staticmethod
    def _levels(bids: dict[int, str], asks: dict[int, str]) -> Levels:
        levels = [("bid", f"{price / 100:.2f}", size) for price, size in bids.items()]
        return levels + [("offer", f"{price / 100:.2f}", size) for price, size in asks.items()]


def read(reader: Reader, data: bytes) -> Events:
    """One line of a capture into a reader."""
    return reader.disconnected(0) if data == DISCONNECT else reader.frame(data, 0)


def live_windows(frames: Iterable[bytes], product_ids: tuple[str, ...] = (BTC, ETH)) -> Windows:
    """Windows from one builder per product over the whole stream, nothing recorded."""
    reader = Reader(decoder, listed(*product_ids))
    builders = {name: WindowBuilder() for name in product_ids}
    found = {name: [np.zeros(0, WINDOW)] for name in product_ids}
    for frame in frames:
        for name, rows in read(reader, frame):
            found[name].append(builders[name].feed(rows))
    return {name: np.concatenate(windows) for name, windows in found.items()}


def record(
    store: Store,
    frames: Iterable[bytes],
    product_ids: tuple[str, ...] = (BTC, ETH),
    part_rows: int = 200_000,
    end: bool = True,
    products: dict[str, Product] | None = None,
    source: str = "a made-up venue",
) -> Reader:
    """Frames into raw partitions; with `end` false the recording breaks off without an END."""
    listing = products or listed(*product_ids)
    reader = Reader(decoder, listing)
    parts = Parts(store, source, part_rows)
    recorder = Recorder(parts, reader.counts_of)
    streams = {name: ProductStream(recorder, listing[name]) for name in listing}
    try:
        for frame in frames:
            for name, rows in read(reader, frame):
                streams[name].apply(rows)
        for name, rows in reader.ended(0) if end else []:
            streams[name].apply(rows)
    finally:
        parts.close()
    return reader


def rebuilt_days(store: Store) -> dict[tuple[str, str], NDArray[np.void]]:
    """Windows of every partition, each rebuilt alone by a builder that knows nothing else."""
    found = {}
    for product_id, day in partitions(store):
        manifest = read_manifest(store, product_id, day)
        assert manifest is not None
        found[product_id, day] = WindowBuilder().feed(read_partition(store, manifest))
    return found


def rebuilt_windows(store: Store) -> Windows:
    """Windows of every product, its partitions rebuilt alone and put one after the other."""
    days: dict[str, list[NDArray[np.void]]] = {}
    for (product_id, _), windows in rebuilt_days(store).items():
        days.setdefault(product_id, []).append(windows)
    return {product_id: np.concatenate(found) for product_id, found in days.items()}


def assert_same_windows(found: Windows, wanted: Windows) -> None:
    """The same products, and the same bits in every field."""
    assert set(found) == set(wanted)
    for product_id in wanted:
        assert_same_rows(found[product_id], wanted[product_id])


def assert_same_rows(found: NDArray[np.void], wanted: NDArray[np.void]) -> None:
    """The same bits in every field (padding means nothing)."""
    assert found.dtype == wanted.dtype
    for name in wanted.dtype.names or ():
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def kinds(events: Events, product_id: str = BTC) -> list[Kind]:
    """The kind of every row that a product got, in order."""
    return [Kind(int(row["kind"])) for name, rows in events if name == product_id for row in rows]
