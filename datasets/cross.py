"""Cross-coin signals of one day from the windows under a root, those of the day before included."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from actors.raw import day_of, day_start_ns
from actors.store import Store
from datasets.tables import read_windows
from market.cross import Mids, cross, mids
from market.features import LOOKBACK_BEATS


def cross_of_day(
    store: Store, day: str, beats: NDArray[np.int64], references: Sequence[str | None]
) -> NDArray[np.float64]:
    """Return what `market.cross.cross` gives for beats (i8[n], ascending) of a day.

    It reads the windows of each reference of that day and of the one before; a reference without
    any is not known.
    """
    return cross(beats, [None if name is None else _mids(store, name, day) for name in references])


def _mids(store: Store, product_id: str, day: str) -> Mids:
    before = read_windows(store, product_id, day_of(day_start_ns(day) - 1))[-LOOKBACK_BEATS:]
    return mids(np.concatenate([before, read_windows(store, product_id, day)]))
