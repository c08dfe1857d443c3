"""What a model is asked with, live: features and signals of products, from windows as they come.

They are those of samples, bit for bit, as long as the windows of other products that a product
looks at come before it is asked for, and rows of external series before the beat is handled.
"""

import asyncio
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from actors.store import Store
from datasets.external import ExternalReader
from datasets.recipe import Recipe
from market.cross import CrossBuilder
from market.errors import QuaverError
from market.features import FeatureBuilder
from market.products import product
from market.signals import signals

Inputs = tuple[NDArray[np.float64], ...]  # Medians, bids, asks and signals; n = 1.


def external_reader(recipe: Recipe, root: str | None) -> ExternalReader | None:
    """Return what reads the external series of a recipe, None if it has none."""
    if not recipe.external.series:
        return None
    if root is None:
        raise QuaverError(
            f"serve: the model takes the external series {', '.join(recipe.external.series)}; "
            "say with `external_root` where their file lies"
        )
    return ExternalReader(Store(root), recipe.external)


class LiveInputs:
    """The inputs of the products that are traded."""

    def __init__(
        self, recipe: Recipe, product_ids: Iterable[str], external: ExternalReader | None
    ) -> None:
        """Take what samples were made by; `external` is needed where that has external series."""
        self._recipe, self._external = recipe, external
        self._listed = {name: product(name) for name in product_ids}
        self._features = {name: FeatureBuilder(p.tick) for name, p in self._listed.items()}
        self._cross = CrossBuilder({name: recipe.references_of(name) for name in self._listed})
        self._reading: asyncio.Future[bool] | None = None
        self._refreshed = -1

    @property
    def needed(self) -> frozenset[str]:
        """The products whose windows are needed, traded or not."""
        return self._cross.watched | self._listed.keys()

    def push(self, windows: Mapping[str, NDArray[np.void]]) -> None:
        """Take note of windows that other products look at; ValueError as from `CrossBuilder`."""
        self._cross.push(windows)

    def waits(self, product_id: str, beat: int) -> bool:
        """Whether a product that it looks at should send its window of `beat` any moment."""
        return bool(self._cross.waits_for(product_id, beat))

    def lacks(self, product_id: str, beat: int) -> bool:
        """Whether the window of `beat` of a product that it looks at has not come."""
        return bool(self._cross.absent(product_id, beat))

    async def refresh(self, beat: int, timeout_s: float) -> None:
        """Read external series if they have changed since the beat before.

        QuaverError where they cannot be read, TimeoutError where that takes too long, at once if it
        goes on from before: what was read last stays in use.
        """
        if self._external is None or beat <= self._refreshed:
            return
        self._refreshed = beat
        if self._reading is not None and not self._reading.done():
            raise TimeoutError("they are still being read")
        self._reading = asyncio.ensure_future(asyncio.to_thread(self._external.refresh))
        # One that came too late may fail when nobody waits for it any more.
        self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait_for(asyncio.shield(self._reading), timeout_s)

    def of(self, product_id: str, window: NDArray[np.void]) -> Inputs | None:
        """Return the inputs at the end of a product's next window (WINDOW[1]), None without any."""
        builder = self._features[product_id]
        beats, *features = builder.push(window)
        if not len(beats):
            return None
        own = signals(builder.recent, self._listed[product_id], self._recipe.signals)[0]
        beat = int(beats[0])
        parts = [own, self._cross.row(product_id, beat)]
        if self._external is not None:
            parts.append(self._external.row(beat))
        return *features, np.concatenate(parts)[None]
