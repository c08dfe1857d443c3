"""Whatever has to be compiled, or loaded, before the first frame: later the frames would wait."""

import gc

import numpy as np

from actors.formats import FORMATS
from actors.reader import Reader
from market.book import new_book, roomier
from market.events import ASK, BID, EVENT, Kind
from market.windows import WindowBuilder


def warm_up(wire_format: str) -> None:
    """Make ready what reading this format takes: seconds the first time on a machine."""
    Reader(FORMATS[wire_format], {}).frame(b"{}", 0)
    wide = np.zeros(2, EVENT)  # A book that takes more room than one begins with.
    wide["kind"], wide["side"], wide["last"] = Kind.SNAPSHOT, (BID, ASK), (0, 1)
    wide["price"], wide["size"] = (1 << 30, 1 << 31), 1
    builder = WindowBuilder()
    builder.feed(wide)
    builder.feed(wide)  # The room is made before the next row.
    builder.levels()
    roomier(new_book())


def spare_from_collection() -> None:
    """Have the garbage collector never again look through what exists, most of it modules.

    That takes tens of milliseconds, in which nothing is read.
    """
    gc.collect()
    gc.freeze()
