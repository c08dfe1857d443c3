"""The quick way through Advanced Trade's book frames: one compiled pass from bytes to EVENT rows.

Nearly all that the venue sends are `l2_data` frames written in one shape, key for key. This reads
exactly that shape and nothing else; whatever differs by a single byte (another order of keys, a
space, an escape, several events, a number off its grid, a date that is none) is left to the general
parser, so that both together say of any bytes what the general parser alone would say.

    {"channel":"l2_data","timestamp":"2026-08-09T05:23:42.223540862Z","sequence_num":1,"events":[
    {"type":"update","product_id":"BTC-USD","updates":[{"side":"bid","event_time":"...Z",
    "price_level":"64699.5","new_quantity":"0.00000033"},{"side":"offer",...}]}]}

In the compiled functions a position of -1 says that the frame is not of the shape, and once it is
-1 it stays so. Every byte is read through `_byte` or a slice, which end where the frame ends.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.frames import Frame
from market.events import ASK, BID, EVENT, Kind
from market.jit import compiled
from market.products import MAX_UNITS, Product

_MOST_DIGITS = 18  # As many as fit an int64 whatever they are.
PLACES = {Decimal((0, (1,), -n)): n for n in range(_MOST_DIGITS)}  # By increment, as 0.01: 2.
_PLAIN_ID = re.compile("[A-Za-z0-9._-]{1,32}")
_TABLE = np.dtype(
    [("id", "u1", (32,)), ("length", "i8"), ("price_places", "i8"), ("size_places", "i8")],
    align=True,
)


def _bytes_of(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


_CHANNEL = _bytes_of('{"channel":"l2_data","timestamp":"')
_SEQUENCE = _bytes_of('Z","sequence_num":')
_EVENTS = _bytes_of(',"events":[{"type":"')
_UPDATE = _bytes_of('update","product_id":"')
_SNAPSHOT = _bytes_of('snapshot","product_id":"')
_LEVELS = _bytes_of('","updates":[')
_BID = _bytes_of('{"side":"bid","event_time":"')
_OFFER = _bytes_of('{"side":"offer","event_time":"')
_PRICE = _bytes_of('","price_level":"')
_SIZE = _bytes_of('","new_quantity":"')
_NEXT = _bytes_of('"},')
_END = _bytes_of('"}]}]}')
_SHORTEST_LEVEL = len(_BID) + len(_PRICE) + 1 + len(_SIZE) + 1 + len(_NEXT)

_ZERO, _POINT, _DASH, _COLON, _T, _Z, _QUOTE = (ord(c) for c in '0.-:TZ"')
_LINE_FEED, _RETURN = ord("\n"), ord("\r")
_CHANGE_KIND, _SNAPSHOT_KIND = int(Kind.CHANGE), int(Kind.SNAPSHOT)
_SECOND_NS = 1_000_000_000
_FIRST_YEAR, _LAST_YEAR = 1970, 2115  # All their times are below MAX_NS.
_DAYS_BEFORE = np.array([0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365])  # Month.


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
        self._table = np.array([_entry(name, p) for name, p in products.items()], _TABLE)
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
        return heads, _scan(data, ends, between, self._table, rows, heads)


def _most_rows(data: bytes) -> int:
    return len(data) // _SHORTEST_LEVEL + 1


def unscanned(data: bytes) -> Scanned:
    """Return lines of which nothing is known but where they end."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _LINE_FEED)
    return Scanned(ends, np.zeros((len(ends), 4), np.int64), np.zeros(0, EVENT))


def _is_plain(name: str, product: Product) -> bool:
    increments = (product.quote_increment, product.base_increment)
    return bool(_PLAIN_ID.fullmatch(name)) and all(i in PLACES for i in increments)


def _entry(name: str, product: Product) -> tuple[list[int], int, int, int]:
    if not _is_plain(name, product):
        return [0] * 32, -1, 0, 0  # No id has this length.
    places = PLACES[product.quote_increment], PLACES[product.base_increment]
    return (list(name.encode().ljust(32, b"\0")), len(name), *places)


@compiled
def _scan(
    data: bytes,
    ends: NDArray[np.int64],
    between: int,
    table: NDArray[np.void],
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
        heads[i, 0] = _frame(data[start:end], table, rows[used:], heads[i])
        used += heads[i, 0]
        start = ends[i] + between
    return used


@compiled
def _frame(
    data: bytes, table: NDArray[np.void], rows: NDArray[np.void], head: NDArray[np.int64]
) -> int:
    ns, at = _time(data, _after(data, 0, _CHANNEL))
    sequence, at = integer(data, _after(data, at, _SEQUENCE))
    at = _after(data, at, _EVENTS)
    kind, after = _CHANGE_KIND, _after(data, at, _UPDATE)
    if after < 0:
        kind, after = _SNAPSHOT_KIND, _after(data, at, _SNAPSHOT)
    index, at = _product(data, after, table)
    at = _after(data, at, _LEVELS)
    if at < 0:
        return 0
    head[1], head[2], head[3] = index, sequence, ns
    return _levels(data, at, table[index], kind, ns, rows)


@compiled
def _levels(
    data: bytes, at: int, product: np.void, kind: int, ns: int, rows: NDArray[np.void]
) -> int:
    """Read levels up to the frame's end; return how many, 0 if one is not of the shape."""
    for count in range(len(rows)):
        side, after = BID, _after(data, at, _BID)
        if after < 0:
            side, after = ASK, _after(data, at, _OFFER)
        at = _after(data, _after_plain(data, after), _PRICE)
        price, at = units(data, at, product.price_places)
        size, at = units(data, _after(data, at, _SIZE), product.size_places)
        if at < 0 or price == 0:
            return 0
        row = rows[count]
        row.ns, row.kind, row.side, row.price, row.size = ns, kind, side, price, size
        following = _after(data, at, _NEXT)
        row.last = following < 0
        if following < 0:
            return count + 1 if _after(data, at, _END) == len(data) else 0
        at = following
    return 0


@compiled
def _byte(data: bytes, at: int) -> int:
    """Return the byte at a position, 0 beyond both ends."""
    # Unsigned, -1 is beyond the end, and numba need not ask whether it counts from there.
    return data[np.uint64(at)] if np.uint64(at) < np.uint64(len(data)) else np.uint8(0)


@compiled
def _after(data: bytes, at: int, text: NDArray[np.uint8]) -> int:
    """Return the position after `text` if it stands at `at`."""
    if at < 0:
        return -1
    part = data[at : at + len(text)]
    if len(part) != len(text):
        return -1
    differing = 0
    for i in range(len(text)):  # All of them: comparing many at once is quicker than stopping.
        differing |= part[i] ^ text[i]
    return -1 if differing else at + len(text)


@compiled
def _after_plain(data: bytes, at: int) -> int:
    """Return the position after digits, capitals and "-.:", which any JSON text may hold."""
    while _DASH <= _byte(data, at) <= _Z:
        at += 1
    return at


@compiled
def _digit(data: bytes, at: int) -> int:
    digit = _byte(data, at) - _ZERO
    return digit if digit <= 9 else -1


@compiled
def _digits(data: bytes, at: int, value: int, most: int) -> tuple[int, int]:
    """Append up to `most` digits to a value; return it and the position after them."""
    stop = at + most
    while at < stop:
        digit = _digit(data, at)
        if digit < 0:
            break
        value = 10 * value + digit
        at += 1
    return value, at


@compiled
def integer(data: bytes, at: int) -> tuple[int, int]:
    """Read a JSON integer that is not negative."""
    value, after = _digits(data, at, 0, _MOST_DIGITS)
    leading_zero = after - at > 1 and _byte(data, at) == _ZERO
    return value, -1 if after == at or leading_zero else after


@compiled
def units(data: bytes, at: int, places: int) -> tuple[int, int]:
    """Read a decimal number in units of 10 ** -places."""
    units, after = _digits(data, at, 0, _MOST_DIGITS - places)
    if after == at:
        return 0, -1
    if _byte(data, after) == _POINT:
        point = after
        units, after = _digits(data, point + 1, units, places)
        places -= after - point - 1
    for _ in range(places):
        units *= 10
    return units, after if units <= MAX_UNITS else -1


@compiled
def _two(data: bytes, at: int) -> int:
    tens, ones = _digit(data, at), _digit(data, at + 1)
    return 10 * tens + ones if tens >= 0 and ones >= 0 else -1


@compiled
def _time(data: bytes, at: int) -> tuple[int, int]:
    """Read an RFC 3339 time up to its Z, in ns."""
    if at < 0:
        return 0, -1
    century, years = _two(data, at), _two(data, at + 2)
    month, day = _two(data, at + 5), _two(data, at + 8)
    hour, minute, second = _two(data, at + 11), _two(data, at + 14), _two(data, at + 17)
    if _byte(data, at + 4) != _DASH or _byte(data, at + 7) != _DASH or _byte(data, at + 10) != _T:
        return 0, -1
    if _byte(data, at + 13) != _COLON or _byte(data, at + 16) != _COLON:
        return 0, -1
    if century < 0 or years < 0 or not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
        return 0, -1
    days = _days(100 * century + years, month, day)
    if days < 0:
        return 0, -1
    ns = _SECOND_NS * (86_400 * days + 3_600 * hour + 60 * minute + second)
    at += 19
    if _byte(data, at) != _POINT:
        return ns, at
    fraction, after = _digits(data, at + 1, 0, 9)
    places = after - at - 1
    if places == 0:
        return 0, -1
    for _ in range(9 - places):
        fraction *= 10
    return ns + fraction, after


@compiled
def _days(year: int, month: int, day: int) -> int:
    """Return the days of a date since 1970-01-01, -1 if there is no such date."""
    if not (_FIRST_YEAR <= year <= _LAST_YEAR and 1 <= month <= 12):
        return -1
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= day <= _DAYS_BEFORE[month + 1] - _DAYS_BEFORE[month] + (leap and month == 2):
        return -1
    leap_days = (year - 1969) // 4 - (year - 1901) // 100 + (year - 1601) // 400
    leap_days += leap and month > 2
    return 365 * (year - 1970) + leap_days + _DAYS_BEFORE[month] + day - 1


@compiled
def _product(data: bytes, at: int, table: NDArray[np.void]) -> tuple[int, int]:
    """Find the product whose id stands at `at` up to a quote; return its index."""
    for index in range(len(table)):
        length = table[index].length
        same = 0
        while same < length and _byte(data, at + same) == table[index].id[same]:
            same += 1
        if same == length and _byte(data, at + length) == _QUOTE:
            return index, at + length
    return 0, -1
