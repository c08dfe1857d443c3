"""The one path of a product's events, live and imported: recorded, then fed to its book."""

import numpy as np
from numpy.typing import NDArray

from actors.recorder import Recorder
from market.events import EVENT, Kind, Reason, mark
from market.products import Product
from market.windows import WindowBuilder


class ProductStream:
    """One product: its book and windows, and the recorder that keeps what made them."""

    def __init__(self, recorder: Recorder | None, product: Product) -> None:
        self.builder = WindowBuilder()
        self._recorder = recorder
        self._product = product

    def apply(self, events: NDArray[np.void]) -> NDArray[np.void]:
        """Record events (EVENT[n] of one frame, or a mark); return the windows they close.

        ValueError where a row is none that a reader can have made; then none is recorded, and the
        stream is of no use any more but for `give_up`.
        """
        if self._recorder:
            self._recorder.reach(self._product, events["ns"].item(0), self.builder)
        was_synced = self.builder.synced
        windows = self.builder.feed(events)
        if self._recorder:
            self._recorder.add(self._product, events, self.builder)
        if self._recorder and not self.builder.synced and events["kind"][-1] < Kind.UNSYNC:
            lost_it = was_synced or bool((events["kind"] <= Kind.CARRIED).any())
        else:
            lost_it = False
        if lost_it and self._recorder:
            # Crossed or emptied: a replay finds that out by itself, the manifest would not.
            why = mark(Kind.UNSYNC, self.builder.clock_ns, 0, self.builder.reason)
            self._recorder.add(self._product, np.array([why], EVENT), self.builder)
        return windows

    def give_up(self, recv_ns: int) -> None:
        """Record that the book is not known from here on, and that the recording ends."""
        ns = self.builder.clock_ns
        rows = [mark(Kind.UNSYNC, ns, recv_ns, Reason.CORRUPT), mark(Kind.END, ns, recv_ns)]
        if self._recorder and ns:
            for row in rows:
                self._recorder.add(self._product, np.array([row], EVENT), self.builder)
