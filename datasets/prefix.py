"""A raw partition up to a beat's end: its windows without what comes after, or with something else.

Rows are fed once, from beat to beat; what is asked at a beat goes on from a copy of the book.
"""

import copy

import numpy as np
from numpy.typing import NDArray

from actors.raw import Manifest, by_start, read_session
from actors.store import Store
from datasets.rebuild import one_per_beat
from datasets.scramble import scrambled_future
from market.events import EVENT, Kind, mark
from market.windows import BEAT_NS, WINDOW, WindowBuilder

_FUTURE_BEATS = 160  # Enough of another future for every feature and label that reaches into it.

Rows = NDArray[np.void]
Windows = NDArray[np.void]


class Prefix:
    """The rows of a partition up to a beat's end, which only moves on; QuaverError as for builds.

    All windows are WINDOW[n], merged over the partition's sessions as a build does it.
    """

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._sessions = [
            _Session(read_session(store, manifest, session)) for session in by_start(manifest)
        ]
        self._end_ns = 0

    def feed(self, beat: int) -> None:
        """Go on to the end of a beat: to the last row whose time lies before it."""
        self._end_ns = (beat + 1) * BEAT_NS
        for session in self._sessions:
            session.feed(self._end_ns)

    def cut_off(self) -> Windows:
        """Return the windows of what was fed, as if time went on and nothing happened any more."""
        return self._merged([session.cut_off(self._end_ns) for session in self._sessions])

    def scrambled(self, rng: np.random.Generator) -> Windows:
        """Return the windows of what was fed and of another future after it."""
        return self._merged([session.scrambled(self._end_ns, rng) for session in self._sessions])

    def _merged(self, after: list[Windows]) -> Windows:
        found = [np.zeros(0, WINDOW)]
        for session, windows in zip(self._sessions, after, strict=True):
            found.append(np.concatenate([*session.closed, windows]))
        return one_per_beat(found)


class _Session:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._clock = np.maximum.accumulate(rows["ns"])
        self._at = 0
        self._builder = WindowBuilder()
        self.closed: list[Windows] = []

    def feed(self, end_ns: int) -> None:
        at = int(np.searchsorted(self._clock, end_ns))
        self.closed.append(self._builder.feed(self._rows[self._at : at]))
        self._at = at

    def cut_off(self, end_ns: int) -> Windows:
        # A beat that is the recording's last is never closed, whatever the clock says.
        goes_on = len(self._next(end_ns)) > 0
        return self._fork(np.array([mark(Kind.CLOCK, end_ns, 0)] if goes_on else [], EVENT))

    def scrambled(self, end_ns: int, rng: np.random.Generator) -> Windows:
        return self._fork(scrambled_future(self._next(end_ns), self._builder, end_ns, rng))

    def _next(self, end_ns: int) -> Rows:
        """Return some of the rows that come after, at least one, up to an END."""
        last = int(np.searchsorted(self._clock, end_ns + _FUTURE_BEATS * BEAT_NS))
        rows = self._rows[self._at : max(last, self._at + 1)]
        ends = np.flatnonzero(rows["kind"] == Kind.END)
        return rows[: ends[0]] if len(ends) else rows

    def _fork(self, rows: Rows) -> Windows:
        return copy.deepcopy(self._builder).feed(rows)
