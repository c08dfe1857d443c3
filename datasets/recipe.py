"""What samples are made by, besides windows: tables keep it, and whoever reads them checks it."""

from typing import Annotated

import msgspec

from market.actions import Fees
from market.labels import HORIZON_BEATS
from market.signals import SignalsConfig, names


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What labels assume, and which signals stand beside the features."""

    fees: Fees = Fees()
    horizon_beats: Annotated[int, msgspec.Meta(gt=0)] = HORIZON_BEATS
    signals: SignalsConfig = SignalsConfig()

    @property
    def signal_names(self) -> tuple[str, ...]:
        """The columns of signals in samples, in order; a model takes as many."""
        return names(self.signals)
