"""Hostile streams of events: everything an order book can be made to swallow, from one seed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st

from market.events import EVENT, Kind
from market.windows import WINDOW, WindowBuilder
from tests.market.acts import BEAT_NS, Acts, Row, Scenario

# What may happen to the book, with weights: what leaves it sound, and what need not.
CALM = {
    "near": 20,
    "drift": 6,
    "leap": 0.5,
    "lonely": 1,
    "refill": 3,
    "powers": 3,
    "borders": 3,
    "crowd": 0.5,
    "uncrowd": 0.7,
    "flood": 0.1,
    "clear_touch": 1,
    "absent": 2,
    "mended": 1,
    "again": 1,
    "trade": 5,
    "clock": 3,
    "carried": 0.5,
}
TROUBLE = {
    "snapshot": 1,
    "snapshot_and_changes": 0.5,
    "crossed": 0.5,
    "emptied": 0.3,
    "unsync": 0.7,
    "end": 0.2,
}
HEAVY = {"flood": 1, "crowd": 3}  # A weight is enough that fills the book within the stream.


class Stream(Acts):
    """The frames of a scenario; the reference has been fed each frame that was yielded."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.trade_id = 1000

    def frames(self) -> Iterator[np.ndarray]:
        """Yield frame after frame."""
        weights = CALM if self.scenario.calm else CALM | TROUBLE
        weights = weights | {self.scenario.stress: HEAVY.get(self.scenario.stress, 40)}
        acts, odds = list(weights), list(weights.values())
        for i in range(self.scenario.frames):
            self.advance()
            known = self.reference.synced
            if i == 0 or (not known and self.random.random() < 0.4):
                act = self.random.choice(["snapshot", "carried"])
            else:
                act = self.random.choices(acts, odds)[0]
            frame = self.frame(getattr(self, act)())
            self.reference.feed(frame)
            if known:
                self.reached[act if self.reference.synced else f"{act} unsyncs"] += 1
            yield frame

    def frame(self, rows: list[Row]) -> np.ndarray:
        """Rows as one frame of events at the time it is, or, at times, at an earlier one."""
        kind = rows[0][0]
        mark = kind in (Kind.UNSYNC, Kind.CLOCK, Kind.END)
        ns = self.ns
        runs = self.reference.beat is not None and kind not in (Kind.END, Kind.CARRIED)
        if runs and self.random.random() < 0.03:
            ns -= self.random.randrange(2 * BEAT_NS)
        events = np.zeros(len(rows), EVENT)
        events["ns"], events["recv_ns"] = ns, ns + self.random.randrange(10**7)
        for name, column in zip(
            ("kind", "side", "price", "size"), zip(*rows, strict=True), strict=True
        ):
            events[name] = column
        if mark:
            events["reason"], events["size"] = rows[0][3], 0
        if kind == Kind.TRADE:
            events["trade_id"] = self.trade_id + np.arange(len(rows))
            self.trade_id += len(rows)
        events["last"][-1] = 1
        self.recent = [] if mark else rows
        return events

    def advance(self) -> None:
        """Let time pass: mostly little, at times to a border or over several beats."""
        draw = self.random.random()
        following = (self.ns // BEAT_NS + 1) * BEAT_NS
        if draw < 0.04:
            self.ns += self.random.randrange(5 * BEAT_NS)
        elif draw < 0.08:
            self.ns = following - self.random.randrange(2)
        elif draw < 0.9:
            self.ns += self.random.randrange(2 * self.scenario.pace_ns)


@st.composite
def scenarios(draw: st.DrawFn, frames: int, paces_s: tuple[float, ...] = (0.1, 1, 4)) -> Scenario:
    """Scenarios of this many frames, one at each of these paces on average."""
    middle = draw(
        st.sampled_from([3, 40, 1000, 65_536, 6_470_000, 10**9, 10**12, 2**50 + 1, 2**55])
    )
    spread = draw(st.sampled_from([1, 1, 2, 9, 1000, 1000 * min(middle, 10**12)]))
    calm = draw(st.booleans())
    return Scenario(
        seed=draw(st.integers(0, 2**32 - 1)),
        middle=middle,
        spread=spread,
        reach=draw(st.sampled_from([3, 30, 30, 3000, 10**6])),
        size=draw(st.sampled_from([10, 10**9, 10**13, 10**15])),
        stress=draw(st.sampled_from(sorted(CALM if calm else CALM | TROUBLE))),
        calm=calm,
        pace_ns=int(draw(st.sampled_from(paces_s)) * 1e9),
        frames=frames,
    )


def as_dicts(windows: np.ndarray) -> list[dict[str, Any]]:
    """Window rows as plain dicts; null trade extremes where there was no trade."""
    columns = {name: windows[name].tolist() for name in WINDOW.names or ()}
    found = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for record in found:
        if record["trades"] == 0:
            assert (record["trade_low"], record["trade_high"]) == (0, 0)
            record["trade_low"] = record["trade_high"] = None
    return found


def fed(parts: list[np.ndarray]) -> np.ndarray:
    """The windows that one builder makes of these parts."""
    builder = WindowBuilder()
    found = [builder.feed(part) for part in parts]
    return np.concatenate([windows for windows in found if len(windows)] or found[:1])
