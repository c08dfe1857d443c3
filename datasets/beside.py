"""What a sample knows besides its own product's windows: other coins' medians, external series."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.raw import day_of, day_start_ns
from datasets.recipe import Recipe
from datasets.units import ReadWindows
from market.cross import Mids, cross, mids
from market.external import Series, external
from market.features import LOOKBACK_BEATS


class Beside(NamedTuple):
    """Of one product and day."""

    references: tuple[Mids | None, ...]  # As the recipe names them, from a look-back before the day
    series: Mapping[str, Series]

    def columns(self, beats: NDArray[np.int64], recipe: Recipe) -> NDArray[np.float64]:
        """Return the signals of beats (i8[n], ascending), f8[n, s], in the order of their names."""
        others = cross(beats, self.references)
        return np.hstack([others, external(beats, self.series, recipe.external)])


def reference_days(day: str) -> tuple[str, str]:
    """Return the days whose windows the samples of a day take from another product."""
    return day_of(day_start_ns(day) - 1), day


def beside(
    product_id: str, day: str, recipe: Recipe, windows: ReadWindows, series: Mapping[str, Series]
) -> Beside:
    """Return what the samples of a product and day may know; ValueError as from `mids`."""

    def medians(name: str | None) -> Mids | None:
        if name is None:
            return None
        before, within = (windows(name, one) for one in reference_days(day))
        return mids(np.concatenate([before[-LOOKBACK_BEATS:], within]))

    return Beside(tuple(map(medians, recipe.references_of(product_id))), series)
