"""What a tick and a lot of a partition are: days that differ in them do not go together."""

from collections.abc import Callable
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from actors.raw import Manifest

Units = tuple[str, str] | None  # Quote and base increment; None: nobody said.
ReadWindows = Callable[[str, str], NDArray[np.void]]  # (product id, day) -> WINDOW[n >= 0]


def units_of(raw: Manifest) -> Units:
    """Return what a tick and a lot of a raw partition are, each written in one way."""
    return _plain(raw.quote_increment), _plain(raw.base_increment)


def in_units_of(day: str, read: ReadWindows, units: Callable[[str, str], Units]) -> ReadWindows:
    """Return a reader that gives no windows of a day whose ticks or lots are not those of `day`.

    The venue may change an increment, and recordings of a day after that are in other numbers.
    """

    def windows(product_id: str, one: str) -> NDArray[np.void]:
        found = read(product_id, one)
        same = one == day or units(product_id, one) == units(product_id, day)
        return found if same else found[:0]

    return windows


def _plain(number: str) -> str:
    return f"{Decimal(number).normalize():f}"
