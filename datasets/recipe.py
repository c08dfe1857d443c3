"""What samples are made by, besides windows: tables keep it, and whoever reads them checks it."""

from typing import Annotated, Any

import msgspec

from market.actions import Fees
from market.cross import CrossConfig, references_of
from market.cross import names as cross_names
from market.external import ExternalConfig
from market.external import names as external_names
from market.labels import HORIZON_BEATS
from market.signals import SignalsConfig
from market.signals import names as own_names


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What labels assume, and which signals stand beside the features."""

    fees: Fees = Fees()
    horizon_beats: Annotated[int, msgspec.Meta(gt=0)] = HORIZON_BEATS
    signals: SignalsConfig = SignalsConfig()
    cross: CrossConfig = CrossConfig()
    external: ExternalConfig = ExternalConfig()
    nearest: dict[str, tuple[str, ...]] = {}  # Of each product, nearest first, where looked at.

    @property
    def signal_names(self) -> tuple[str, ...]:
        """The columns of signals in samples, in order; a model takes as many."""
        others = cross_names(self.cross) + external_names(self.external)
        return own_names(self.signals) + others

    def references_of(self, product_id: str) -> tuple[str | None, ...]:
        """Return the other products whose returns are signals of this one; None: there is none."""
        return references_of(product_id, self.cross, self.nearest.get(product_id, ()))


def differences(found: Recipe, wanted: Recipe) -> str:
    """Name the settings that differ, as in `fees.taker_bps is 40.0 instead of 60.0`."""
    one, other = _flat(found), _flat(wanted)
    return ", ".join(
        f"{name} is {one.get(name)!r} instead of {other.get(name)!r}"
        for name in one | other
        if one.get(name) != other.get(name)
    )


def _flat(recipe: Recipe) -> dict[str, Any]:
    return {
        f"{name}.{key}" if key else name: inner
        for name, value in msgspec.to_builtins(recipe).items()
        for key, inner in (value if isinstance(value, dict) else {"": value}).items()
    }
