"""A compiled table of product ids: which of them stands at a position of a text, and which do not.

Open addressing: an id lies at the place that its hash says, or at the next free one after it.
"""

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from actors.text import after_text, byte, bytes_of, find_pair
from market.jit import compiled

Table = NDArray[np.void]  # _ENTRY[2 ** n], at least half of them free.

_LONGEST = 32
_PLAIN_ID = re.compile(f"[A-Za-z0-9._-]{{1,{_LONGEST}}}")
_ENTRY = np.dtype([("id", "u1", (_LONGEST,)), ("length", "i8"), ("number", "i8")], align=True)
_KEY = bytes_of('"product_id"')
_SPACE, _COLON, _QUOTE = (ord(c) for c in ' :"')
_PAIR = 8  # Where in the key stands what in a feed stands nearly nowhere else: "_i".


def id_table(numbers: Mapping[str, int]) -> Table:
    """Return the table of these ids, without those that a JSON text may write in several ways."""
    plain = {name: n for name, n in numbers.items() if _PLAIN_ID.fullmatch(name)}
    table = np.zeros(1 << (2 * len(plain)).bit_length(), _ENTRY)
    for name, number in plain.items():
        place = _hash(name.encode(), 0, len(name)) % len(table)
        while table["length"][place]:
            place = (place + 1) % len(table)
        padded = list(name.encode().ljust(_LONGEST, b"\0"))
        table[place] = (padded, len(name), number)
    return table


@compiled
def find_id(data: bytes, at: int, table: Table) -> tuple[int, int]:
    """Find the id that stands at `at` up to a quote; return its number and where the quote is."""
    end = at
    while end - at < _LONGEST and byte(data, end) != _QUOTE:
        end += 1
    if at < 0 or byte(data, end) != _QUOTE:
        return 0, -1
    place = _hash(data, at, end) & (len(table) - 1)
    while table[place].length:
        same = 0
        while same < end - at and byte(data, at + same) == table[place].id[same]:
            same += 1
        if same == end - at and table[place].length == same:
            return table[place].number, end
        place = (place + 1) & (len(table) - 1)
    return 0, -1


@compiled
def next_other(data: bytes, at: int, table: Table) -> int:
    """Return the next position from `at` on of a key "product_id" whose id is not in the table.

    -1 if there is none. Whether what follows is an id at all is left to the caller.
    """
    while True:
        pair = find_pair(data, at + _PAIR, _KEY[_PAIR], _KEY[_PAIR + 1])
        if pair < 0:
            return -1
        at = pair - _PAIR
        after = after_text(data, at, _KEY)
        if after >= 0 and find_id(data, _after_colon(data, after), table)[1] < 0:
            return at
        at += 1


@compiled
def _after_colon(data: bytes, at: int) -> int:
    """Return the position after a colon, which may have a space on each side, and a quote."""
    if at < 0:
        return -1
    at += byte(data, at) == _SPACE
    if byte(data, at) != _COLON:
        return -1
    at += 1
    at += byte(data, at) == _SPACE
    return at + 1 if byte(data, at) == _QUOTE else -1


@compiled
def _hash(data: bytes, at: int, end: int) -> int:
    found = 0
    for i in range(at, end):
        found = (31 * found + byte(data, i)) & 0xFFFFFF
    return found
