"""Compiled readers of bytes: a constant, a number or a time that stands at a position.

A position of -1 says that something else stands there, and once it is -1 it stays so. Every byte is
read through `byte` or a slice, which end where the data ends.
"""

import numpy as np
from numpy.typing import NDArray

from market.jit import compiled
from market.products import MAX_UNITS

MOST_DIGITS = 18  # As many as fit an int64 whatever they are.
_ZERO, _POINT, _DASH, _COLON, _T = (ord(c) for c in "0.-:T")
_AT_ONCE = 64  # Bytes that are compared together.
_SECOND_NS = 1_000_000_000
_FIRST_YEAR, _LAST_YEAR = 1970, 2115  # All their times are below MAX_NS.
_DAYS_BEFORE = np.array([0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365])  # Month.


def bytes_of(text: str) -> NDArray[np.uint8]:
    """Return a text as the constant that compiled code reads."""
    return np.frombuffer(text.encode(), np.uint8)


@compiled
def byte(data: bytes, at: int) -> int:
    """Return the byte at a position, 0 beyond both ends."""
    # Unsigned, -1 is beyond the end, and numba need not ask whether it counts from there.
    return data[np.uint64(at)] if np.uint64(at) < np.uint64(len(data)) else np.uint8(0)


@compiled
def after_text(data: bytes, at: int, text: NDArray[np.uint8]) -> int:
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
def find_pair(data: bytes, at: int, first: int, second: int) -> int:
    """Return the next position from `at` on of two bytes, one after the other; -1 if none."""
    stop = len(data) - 1
    while at + _AT_ONCE <= stop:
        part, after = data[at : at + _AT_ONCE], data[at + 1 : at + 1 + _AT_ONCE]
        found = 0
        for i in range(_AT_ONCE):  # All of them, as above.
            found |= (part[i] == first) & (after[i] == second)
        if found:
            break
        at += _AT_ONCE
    while at < stop:
        if data[at] == first and data[at + 1] == second:
            return at
        at += 1
    return -1


@compiled
def _digit(data: bytes, at: int) -> int:
    digit = byte(data, at) - _ZERO
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
    value, after = _digits(data, at, 0, MOST_DIGITS)
    leading_zero = after - at > 1 and byte(data, at) == _ZERO
    return value, -1 if after == at or leading_zero else after


@compiled
def units(data: bytes, at: int, places: int) -> tuple[int, int]:
    """Read a decimal number in units of 10 ** -places."""
    units, after = _digits(data, at, 0, MOST_DIGITS - places)
    if after == at:
        return 0, -1
    if byte(data, after) == _POINT:
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
def time_ns(data: bytes, at: int) -> tuple[int, int]:
    """Read an RFC 3339 time up to its Z, in ns."""
    if at < 0:
        return 0, -1
    century, years = _two(data, at), _two(data, at + 2)
    month, day = _two(data, at + 5), _two(data, at + 8)
    hour, minute, second = _two(data, at + 11), _two(data, at + 14), _two(data, at + 17)
    if byte(data, at + 4) != _DASH or byte(data, at + 7) != _DASH or byte(data, at + 10) != _T:
        return 0, -1
    if byte(data, at + 13) != _COLON or byte(data, at + 16) != _COLON:
        return 0, -1
    if century < 0 or years < 0 or not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
        return 0, -1
    days = _days(100 * century + years, month, day)
    if days < 0:
        return 0, -1
    ns = _SECOND_NS * (86_400 * days + 3_600 * hour + 60 * minute + second)
    at += 19
    if byte(data, at) != _POINT:
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
