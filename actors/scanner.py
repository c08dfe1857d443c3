"""The quick way through Advanced Trade's book frames: one compiled pass from bytes to EVENT rows.

Nearly all that the venue sends are `l2_data` frames written in one shape, key for key. This reads
exactly that shape and nothing else; whatever differs by a single byte (another order of keys, a
space, an escape, several events, a number off its grid, a date that is none) is left to the general
parser, so that both together say of any bytes what the general parser alone would say.

    {"channel":"l2_data","timestamp":"2026-08-09T05:23:42.223540862Z","sequence_num":1,"events":[
    {"type":"update","product_id":"BTC-USD","updates":[{"side":"bid","event_time":"...Z",
    "price_level":"64699.5","new_quantity":"0.00000033"},{"side":"offer",...}]}]}

In the compiled functions a position of -1 says that the frame is not of the shape, and once it is
-1 it stays so.
"""

from collections.abc import Sequence
from decimal import Decimal
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.frames import Frame
from actors.ids import Table, find_id, id_table
from actors.text import MOST_DIGITS, after_text, byte, bytes_of, integer, time_ns, units
from market.events import ASK, BID, EVENT, Kind
from market.jit import compiled
from market.products import Product

PLACES = {Decimal((0, (1,), -n)): n for n in range(MOST_DIGITS)}  # By increment, as 0.01: 2.
_CHANNEL = bytes_of('{"channel":"l2_data","timestamp":"')
_SEQUENCE = bytes_of('Z","sequence_num":')
_EVENTS = bytes_of(',"events":[{"type":"')
_UPDATE = bytes_of('update","product_id":"')
_SNAPSHOT = bytes_of('snapshot","product_id":"')
_LEVELS = bytes_of('","updates":[')
_BID = bytes_of('{"side":"bid","event_time":"')
_OFFER = bytes_of('{"side":"offer","event_time":"')
_PRICE = bytes_of('","price_level":"')
_SIZE = bytes_of('","new_quantity":"')
_NEXT = bytes_of('"},')
_END = bytes_of('"}]}]}')
_SHORTEST_LEVEL = len(_BID) + len(_PRICE) + 1 + len(_SIZE) + 1 + len(_NEXT)

_DASH, _Z = ord("-"), ord("Z")
_LINE_FEED, _RETURN = ord("\n"), ord("\r")
_CHANGE_KIND, _SNAPSHOT_KIND = int(Kind.CHANGE), int(Kind.SNAPSHOT)


class Scanned(NamedTuple):
    """What `Scanner.lines` found, valid until it is called again."""

    ends: NDArray[np.int64]  # Where each line ends, in bytes.
    heads: NDArray[np.int64]  # [lines, 4]: rows (0 if not of the shape), product, sequence, ns.
    rows: NDArray[np.void]  # EVENT[n] of all lines of the shape, one after the other.


class Scanner:
    """Reads the book frames of these products that are of the usual shape.

    A product whose increments are no powers of ten up to 1 is left to the general parser.
    """

    def __init__(self, products: dict[str, Product]) -> None:
        self._ids = [p.id for p in products.values()]
        places = [_places(p) for p in products.values()]
        self._places = np.array([found or (0, 0) for found in places], np.int64).reshape(-1, 2)
        self._table = id_table({name: i for i, name in enumerate(products) if places[i]})
        self._scratch = bytearray()
        self._rows = np.zeros(0, EVENT)  # Those of `lines`.

    def __call__(self, batch: Sequence[bytes]) -> list[Frame | None]:
        """Return what each frame says, None for those that the general parser must read."""
        ends = np.fromiter(accumulate(map(len, batch)), np.int64, len(batch))
        data = b"".join(batch)
        room = _most_rows(data) * EVENT.itemsize
        if room > len(self._scratch):
            self._scratch = bytearray(room)
        heads, used = self._scan(data, ends, 0, np.frombuffer(self._scratch, EVENT))
        # Rows are kept for long, so a batch's get memory of just their size: a slice of a bytearray
        # is a copy, and numpy's own would go field by field.
        rows = np.frombuffer(self._scratch[: used * EVENT.itemsize], EVENT)
        found: list[Frame | None] = []
        at = 0
        for count, index, sequence, ns in heads.tolist():
            if count == 0:
                found.append(None)
                continue
            levels = rows[at : at + count]
            at += count
            found.append(Frame("l2_data", sequence, ns, ((self._ids[index], levels),)))
        return found

    def lines(self, data: bytes) -> Scanned:
        """Return what the frames of these lines say; each line ends with a line feed."""
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _LINE_FEED)
        if len(self._rows) < _most_rows(data):
            self._rows = np.zeros(_most_rows(data), EVENT)
        heads, used = self._scan(data, ends, 1, self._rows)
        return Scanned(ends, heads, self._rows[:used])

    def _scan(
        self, data: bytes, ends: NDArray[np.int64], between: int, rows: NDArray[np.void]
    ) -> tuple[NDArray[np.int64], int]:
        heads = np.empty((len(ends), 4), np.int64)
        return heads, _scan(data, ends, between, self._table, self._places, rows, heads)


def _most_rows(data: bytes) -> int:
    return len(data) // _SHORTEST_LEVEL + 1


def unscanned(data: bytes) -> Scanned:
    """Return lines of which nothing is known but where they end."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _LINE_FEED)
    return Scanned(ends, np.zeros((len(ends), 4), np.int64), np.zeros(0, EVENT))


def _places(product: Product) -> tuple[int, int] | None:
    """Return the digits after the point of prices and sizes; None where that does not say all."""
    price, size = PLACES.get(product.quote_increment), PLACES.get(product.base_increment)
    return None if price is None or size is None else (price, size)


@compiled
def _scan(
    data: bytes,
    ends: NDArray[np.int64],
    between: int,
    table: Table,
    places: NDArray[np.int64],
    rows: NDArray[np.void],
    heads: NDArray[np.int64],
) -> int:
    """Read the frames of `data`, which end at `ends`, into `rows`; return how many were used.

    Between two frames are so many bytes, and a carriage return before them is none of a frame's.
    `heads` gets per frame: its rows (0 if it is not of the shape), product, sequence, ns.
    """
    start = used = 0
    for i in range(len(ends)):
        end = ends[i]
        if between and end > start and data[end - 1] == _RETURN:
            end -= 1
        heads[i, 0] = _frame(data[start:end], table, places, rows[used:], heads[i])
        used += heads[i, 0]
        start = ends[i] + between
    return used


@compiled
def _frame(
    data: bytes,
    table: Table,
    places: NDArray[np.int64],
    rows: NDArray[np.void],
    head: NDArray[np.int64],
) -> int:
    ns, at = time_ns(data, after_text(data, 0, _CHANNEL))
    sequence, at = integer(data, after_text(data, at, _SEQUENCE))
    at = after_text(data, at, _EVENTS)
    kind, after = _CHANGE_KIND, after_text(data, at, _UPDATE)
    if after < 0:
        kind, after = _SNAPSHOT_KIND, after_text(data, at, _SNAPSHOT)
    index, at = find_id(data, after, table)
    at = after_text(data, at, _LEVELS)
    if at < 0:
        return 0
    head[1], head[2], head[3] = index, sequence, ns
    return _levels(data, at, places[index], kind, ns, rows)


@compiled
def _levels(
    data: bytes, at: int, places: NDArray[np.int64], kind: int, ns: int, rows: NDArray[np.void]
) -> int:
    """Read levels up to the frame's end; return how many, 0 if one is not of the shape."""
    time = data[0:0]
    for count in range(len(rows)):
        side, after = BID, after_text(data, at, _BID)
        if after < 0:
            side, after = ASK, after_text(data, at, _OFFER)
        at = after_text(data, after, time)  # Mostly the one before's, compared all at once.
        at = _after_plain(data, at if at >= 0 else after)
        if at >= 0:
            time = data[after:at]
        at = after_text(data, at, _PRICE)
        price, at = units(data, at, places[0])
        size, at = units(data, after_text(data, at, _SIZE), places[1])
        if at < 0 or price == 0:
            return 0
        row = rows[count]
        row.ns, row.kind, row.side, row.price, row.size = ns, kind, side, price, size
        following = after_text(data, at, _NEXT)
        row.last = following < 0
        if following < 0:
            return count + 1 if after_text(data, at, _END) == len(data) else 0
        at = following
    return 0


@compiled
def _after_plain(data: bytes, at: int) -> int:
    """Return the position after digits, capitals and "-.:", which any JSON text may hold."""
    while _DASH <= byte(data, at) <= _Z:
        at += 1
    return at
