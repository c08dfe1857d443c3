"""The one path of a product's events, live and imported: recorded, then fed to its book."""

import numpy as np
from numpy.typing import NDArray

from actors.raw import DAY_NS
from actors.recorder import Recorder
from market.events import EVENT, Kind, Reason, mark
from market.products import Product
from market.windows import Lost, WindowBuilder


class ProductStream:
    """One product: its book and windows, and the recorder that keeps what made them.

    Where the book loses itself (crossed, emptied, overfull), an UNSYNC mark is recorded right after
    the frame: a replay finds that out by itself, whoever reads only marks would not.
    """

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
        windows = self.builder.feed(events)
        if self._recorder:
            self._recorder.add(self._product, events, self.builder)
            if self.builder.lost and not self.builder.synced:
                self._mark(self.builder.lost[-1])
        return windows

    def apply_many(self, events: NDArray[np.void]) -> None:
        """Record and feed the events of many frames, in order of time (EVENT[n], whole frames).

        What is recorded is what `apply` would have recorded of one frame after the other.
        """
        days = events["ns"] // DAY_NS
        while len(events):
            same = len(events) if days[-1] == days[0] else int(np.searchsorted(days, days[0] + 1))
            self._apply_day(events[:same])
            events, days = events[same:], days[same:]

    def give_up(self, recv_ns: int) -> None:
        """Record that the book is not known from here on, and that the recording ends."""
        ns = self.builder.clock_ns
        rows = [mark(Kind.UNSYNC, ns, recv_ns, Reason.CORRUPT), mark(Kind.END, ns, recv_ns)]
        if self._recorder and ns:
            for row in rows:
                self._recorder.add(self._product, np.array([row], EVENT), self.builder)

    def _apply_day(self, events: NDArray[np.void]) -> None:
        if not self._recorder:
            self.builder.feed(events)
            return
        self._recorder.reach(self._product, events["ns"].item(0), self.builder)
        self.builder.feed(events)
        at, ended = 0, 0
        for lost in self.builder.lost:
            if lost.rows <= ended:  # Lost again within the frame.
                continue
            ended = lost.rows + int(events["last"][lost.rows - 1 :].argmax())
            self._recorder.add(self._product, events[at:ended], self.builder)
            self._mark(lost)
            at = ended
        if at < len(events):
            self._recorder.add(self._product, events[at:], self.builder)

    def _mark(self, lost: Lost) -> None:
        assert self._recorder
        why = np.array([mark(Kind.UNSYNC, lost.ns, 0, lost.reason)], EVENT)
        self._recorder.add(self._product, why, self.builder)
