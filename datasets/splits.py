"""Train, validation and test by time, with a purge at each border.

Neighbouring samples share most of their label and feature windows, so a random split would let the
model see its own examination. Borders are placed by share of the distinct beats, not of the clock:
a hole in the recording then cannot leave one part empty.
"""

import numpy as np
from numpy.typing import NDArray

from market.errors import QuaverError
from market.features import LOOKBACK_BEATS
from market.labels import HORIZON_BEATS

SPLITS = ("train", "validation", "test")


def split_by_time(
    beats: NDArray[np.int64],
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    before: int = HORIZON_BEATS,
    after: int = LOOKBACK_BEATS,
) -> dict[str, NDArray[np.bool_]]:
    """Return bool[n] masks under `train`, `validation` and `test` for samples at `beats` (i8[n]).

    At a border B the earlier side keeps beats k < B - before (its labels end before B), the later
    side k >= B + after (its features start at B or later). The borders are the same for every
    product. QuaverError where a part that was asked for (fraction > 0) is left empty.
    """
    if min(fractions) < 0 or not np.isclose(sum(fractions), 1.0):
        raise QuaverError(f"split: the fractions {fractions} must be positive and sum to 1")
    distinct = np.unique(beats)
    if not len(distinct):
        raise QuaverError("split: there are no samples; build samples from a recording first")
    end = int(distinct[-1]) + 1
    shares = np.cumsum(fractions)[:-1]
    inner = [
        int(distinct[position]) if position < len(distinct) else end
        for position in np.rint(shares * len(distinct)).astype(int)
    ]
    masks = {}
    for index, name in enumerate(SPLITS):
        mask = np.ones(len(beats), dtype=bool)
        if index > 0:
            mask &= beats >= inner[index - 1] + after
        if index < len(inner) and inner[index] < end:
            mask &= beats < inner[index] - before
        if fractions[index] == 0:
            mask[:] = False
        elif not mask.any():
            raise QuaverError(
                f"split: nothing is left for {name} after dropping {before + after} beats at each "
                f"border; {len(distinct)} beats are too few, use a longer recording"
            )
        masks[name] = mask
    return masks
