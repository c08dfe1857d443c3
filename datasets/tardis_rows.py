"""Rows of Tardis CSV files: one compiled pass from bytes to EVENT rows, exact.

    exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount
    exchange,symbol,timestamp,local_timestamp,id,side,price,amount

Times are microseconds since 1970. A line that the compiled pass does not read (a number with an
exponent, a grid that is no power of ten, a symbol not met yet) is read by `Lines.general`, which
says of any line what the format says of it.
"""

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.scanner import PLACES, integer, units
from datasets.captures import blocks
from market.errors import QuaverError
from market.events import ASK, BID, BUY, EVENT, SELL, Kind
from market.jit import compiled
from market.products import Product, product, product_index
from market.windows import MAX_NS

HEADERS = {
    b"exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount": False,
    b"exchange,symbol,timestamp,local_timestamp,id,side,price,amount": True,
}
_TABLE = np.dtype(
    [
        ("key", "u1", (96,)),  # As b"coinbase,BTC-USD,".
        ("length", "i8"),
        ("product", "i8"),  # -1 if its rows are skipped.
        ("price_places", "i8"),
        ("size_places", "i8"),
    ],
    align=True,
)
_PLAIN_SYMBOL = re.compile("[A-Za-z0-9._-]{1,40}")
_SHORTEST_ROW = len("a,b,1,1,1,buy,1,1\n")
_KEPT_CORRUPT = 1_000
_MAX_US = MAX_NS // 1_000
_COMMA, _FEED, _RETURN = ord(","), ord("\n"), ord("\r")
_TRUE, _FALSE, _BID, _ASK, _BUY, _SELL = (
    np.frombuffer(f"{word},".encode(), np.uint8)
    for word in ("true", "false", "bid", "ask", "buy", "sell")
)
_SNAPSHOT, _CHANGE, _TRADE = int(Kind.SNAPSHOT), int(Kind.CHANGE), int(Kind.TRADE)
CORRUPT = 1  # In `reason` of a row that is off its grid, until its frame is dropped.


class Symbols:
    """The symbols met, and the products that they are; those without a grid are skipped."""

    def __init__(self, increments: dict[str, Product]) -> None:
        self._increments = increments
        self._exchanges: dict[str, str] = {}
        self.products: list[Product] = []
        self.skipped: dict[str, None] = {}
        self.table = np.zeros(0, _TABLE)
        self.counts: Counter[str] = Counter()
        self.corrupt: list[tuple[int, str, bytes]] = []  # (recv_ns, reason, line), the first 1000.

    def index(self, exchange: str, symbol: str) -> int:
        """Return the place of a symbol's product in `products`, -1 if it is skipped."""
        key = f"{exchange},{symbol},".encode()
        for entry in self.table:
            if entry["key"].tobytes()[: entry["length"]] == key:
                return int(entry["product"])
        found = self._increments.get(symbol)
        if found is None and exchange == "coinbase" and product_index(symbol) is not None:
            found = product(symbol)
        if found is None or not _PLAIN_SYMBOL.fullmatch(symbol):
            self.skipped[symbol] = None
            return self._enter(key, -1, 0, 0)
        if self._exchanges.setdefault(symbol, exchange) != exchange:
            raise QuaverError(
                f"{symbol} is of {exchange} here and of {self._exchanges[symbol]} before; import "
                "each exchange into a root of its own"
            )
        self.products.append(found)
        places = (PLACES.get(i, -1) for i in (found.quote_increment, found.base_increment))
        return self._enter(key, len(self.products) - 1, *places)

    def _enter(self, key: bytes, index: int, *places: int) -> int:
        if len(key) <= _TABLE["key"].shape[0]:
            padded = list(key.ljust(_TABLE["key"].shape[0], b"\0"))
            entry = np.array([(padded, len(key), index, *places)], _TABLE)
            self.table = np.concatenate([self.table, entry])
        return index

    def keep(self, recv_ns: int, reason: str, line: bytes) -> None:
        """Keep a corrupt line aside."""
        if len(self.corrupt) < _KEPT_CORRUPT:
            self.corrupt.append((recv_ns, reason, line))


class Rows(NamedTuple):
    """Rows of a file in its order: EVENT[n], `last` not set yet, and each one's product."""

    events: NDArray[np.void]
    products: NDArray[np.int64]


class Lines:
    """One file, read a block at a time; `trades` says which of the two it is."""

    def __init__(self, path: Path, symbols: Symbols) -> None:
        self._path = path
        self._symbols = symbols
        self._blocks = blocks(path)
        self._number = 1  # Lines read.
        self._recv_ns = 0
        first = next(self._blocks, b"")
        header, _, self._rest = first.partition(b"\n")
        trades = HEADERS.get(header.rstrip(b"\r").strip(b"\xef\xbb\xbf"))
        if trades is None:
            shown = header[:100].decode(errors="replace")
            wanted = " or ".join(text.decode() for text in HEADERS)
            raise QuaverError(f"{path}: line 1 is {shown!r}, not the header {wanted}")
        self.trades = trades

    def __iter__(self) -> Iterator[Rows]:
        """Yield the rows of block after block; QuaverError, after what is good, if one is bad."""
        yield from self._read(self._rest)
        for block in self._blocks:
            yield from self._read(block)

    def _read(self, data: bytes) -> Iterator[Rows]:
        room = len(data) // _SHORTEST_ROW + 1
        events, products = np.zeros(room, EVENT), np.zeros(room, np.int64)
        at = used = 0
        broken: QuaverError | None = None
        while at < len(data) and not broken:
            at, used, lines = _scan(
                data, at, self.trades, self._symbols.table, events, products, used, self._recv_ns
            )
            self._recv_ns = int(events["recv_ns"][used - 1]) if used else self._recv_ns
            self._number += lines
            if at < len(data):
                end = data.index(b"\n", at)
                self._number += 1
                try:
                    used += self._general(data[at:end], events[used:], products[used:])
                except (QuaverError, ValueError) as e:
                    broken = QuaverError(f"{self._path}: line {self._number}: {e}")
                at = end + 1
        found = Rows(events[:used], products[:used])
        if len(found.events):
            yield found
        if broken:
            raise broken

    def _general(self, line: bytes, events: NDArray[np.void], products: NDArray[np.int64]) -> int:
        """Read any line into the first row; return how many rows it gave, 0 or 1."""
        if not line.strip():
            return 0
        fields = line.decode().rstrip("\r").split(",")
        if len(fields) != 8:
            raise ValueError(f"{len(fields)} columns, not 8")
        exchange, symbol, timestamp, local, fifth, side, price, amount = fields
        index = self._symbols.index(exchange, symbol)
        if index < 0:
            return 0
        ns = _microseconds("timestamp", timestamp)
        recv_ns = _microseconds("local_timestamp", local)
        if recv_ns < self._recv_ns:
            raise ValueError(f"local_timestamp goes back to {local}; rows must be as they arrived")
        if self.trades:
            kind, trade_id = _TRADE, _trade_id(fifth)
            if side == "unknown":
                self._symbols.counts["trades of unknown side"] += 1
                return 0
            sides = {"buy": BUY, "sell": SELL}
        else:
            kinds = {"true": _SNAPSHOT, "false": _CHANGE}
            if fifth not in kinds:
                raise ValueError(f"is_snapshot is {fifth!r}, not true or false")
            kind, trade_id, sides = kinds[fifth], 0, {"bid": BID, "ask": ASK}
        if side not in sides:
            raise ValueError(f"side is {side!r}, not one of {', '.join(sides)}")
        listed, reason = self._symbols.products[index], 0
        ticks = lots = 0
        try:
            ticks, lots = listed.ticks(_plain(price)), listed.lots(_plain(amount))
            if ticks == 0:
                raise ValueError("a price of zero")
        except ValueError as e:
            reason = CORRUPT
            self._symbols.keep(recv_ns, f"{self._path.name} line {self._number}: {e}", line)
        events[0] = (ns, recv_ns, kind, sides[side], 0, reason, ticks, lots, trade_id)
        products[0] = index
        return 1


def _microseconds(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) > _MAX_US:
        raise ValueError(f"{name} is {text[:40]!r}, not a time in microseconds since 1970")
    return int(text) * 1_000


def _trade_id(text: str) -> int:
    """Return an id that is a number; 0 for all others, which nothing can be told by."""
    plain = text.isascii() and text.isdecimal() and len(text) <= 18
    return int(text) if plain else 0


def _plain(text: str) -> str:
    """Return a number as plain text: JavaScript writes 1e-7."""
    if "e" not in text and "E" not in text:
        return text
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text[:40]!r} is not a number") from None
    if not number.is_finite() or not -30 < number.adjusted() < 30 or len(text) > 40:
        raise ValueError(f"{text[:40]!r} is no number that a market writes")
    return f"{number:f}"


@compiled
def _scan(
    data: bytes,
    at: int,
    trades: bool,
    table: NDArray[np.void],
    events: NDArray[np.void],
    products: NDArray[np.int64],
    used: int,
    recv_ns: int,
) -> tuple[int, int, int]:
    """Read lines from `at` on into rows from `used` on, up to one that is left to `_general`.

    Return where it stopped, how many rows are used then and how many lines were read.
    """
    lines = 0
    while at < len(data):
        entry, after = _entry(data, at, table)
        if after < 0:
            break
        if table[entry].product < 0:
            while data[at] != _FEED:
                at += 1
            at += 1
            lines += 1
            continue
        after = _row(data, after, trades, table[entry], events[used])
        if after < 0 or events[used].recv_ns < recv_ns:
            break
        recv_ns = events[used].recv_ns
        products[used] = table[entry].product
        used += 1
        lines += 1
        at = after
    return at, used, lines


@compiled
def _row(data: bytes, at: int, trades: bool, entry: np.void, row: np.void) -> int:
    """Read a line from its third column on; return where the next begins, -1 if it cannot."""
    us, at = integer(data, at)
    at = _past(data, at, _COMMA)
    local_us, at = integer(data, at) if at >= 0 else (0, -1)
    at = _past(data, at, _COMMA)
    if at < 0 or us > _MAX_US or local_us > _MAX_US or entry.price_places < 0:
        return -1
    if entry.size_places < 0:
        return -1
    row.ns, row.recv_ns = us * 1_000, local_us * 1_000
    row.last = row.reason = 0
    if trades:
        row.kind = _TRADE
        row.trade_id, at = integer(data, at)
        at = _past(data, at, _COMMA)
        first, second = _BUY, _SELL
    else:
        row.trade_id = 0
        after = _after(data, at, _FALSE)
        row.kind = _CHANGE if after >= 0 else _SNAPSHOT
        at = after if after >= 0 else _after(data, at, _TRUE)
        first, second = _BID, _ASK
    after = _after(data, at, first)
    row.side = after < 0
    at = after if after >= 0 else _after(data, at, second)
    if at < 0:
        return -1
    price, at = units(data, at, entry.price_places)
    at = _past(data, at, _COMMA)
    if at < 0 or price == 0:
        return -1
    size, at = units(data, at, entry.size_places)
    if at >= 0 and at < len(data) and data[at] == _RETURN:
        at += 1
    row.price, row.size = price, size
    return _past(data, at, _FEED)


@compiled
def _past(data: bytes, at: int, byte: int) -> int:
    return at + 1 if 0 <= at < len(data) and data[at] == byte else -1


@compiled
def _after(data: bytes, at: int, text: NDArray[np.uint8]) -> int:
    if at < 0 or at + len(text) > len(data):
        return -1
    for i in range(len(text)):
        if data[at + i] != text[i]:
            return -1
    return at + len(text)


@compiled
def _entry(data: bytes, at: int, table: NDArray[np.void]) -> tuple[int, int]:
    """Find the entry of the exchange and symbol that stand at `at`, and where they end."""
    for index in range(len(table)):
        length = table[index].length
        same = 0
        while same < length and at + same < len(data) and data[at + same] == table[index].key[same]:
            same += 1
        if same == length:
            return index, at + length
    return 0, -1
