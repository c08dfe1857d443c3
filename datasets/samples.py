"""The samples table in memory: one row per product and beat, inputs and labels side by side.

Rows of several products share one table; `product` is the index in the universe.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Samples:
    """Columns of equal length n; prices in quote currency, labels in basis points."""

    beat: NDArray[np.int64]  # [n]
    product: NDArray[np.int32]  # [n]
    medians: NDArray[np.float64]  # [n, 10]
    bids: NDArray[np.float64]  # [n, 20]
    asks: NDArray[np.float64]  # [n, 20]
    label: NDArray[np.float64]  # [n, 5], a row of NaN where there is no label
    signals: NDArray[np.float64]  # [n, s], those that the recipe names

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.beat)

    def select(self, mask: NDArray[np.bool_]) -> "Samples":
        """Return the rows where `mask` (bool[n]) is true, in the same order."""
        return Samples(**{column.name: getattr(self, column.name)[mask] for column in fields(self)})

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Return bool[n]: whether the row has labels."""
        return ~np.isnan(self.label).any(axis=1)
