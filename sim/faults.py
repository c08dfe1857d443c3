"""What can go wrong at the venue, on command or by a seeded schedule.

A fault acts on one connection: on its next frames that fit, or on the socket itself. The REST kinds
act on the next requests. What was done is logged; the frames as they should be are on the tape.
"""

from enum import StrEnum
from random import Random
from typing import Annotated

import msgspec

from market.errors import QuaverError


class FaultKind(StrEnum):
    """Every fault that the exchange knows."""

    DROP = "drop"
    DUPLICATE = "duplicate"
    REORDER = "reorder"
    TRUNCATED = "truncated"
    BAD_BYTES = "bad_bytes"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OFF_GRID = "off_grid"
    CROSSED = "crossed"
    LATE_TRADES = "late_trades"
    MISSING_TRADES = "missing_trades"
    CLOCK_JUMP = "clock_jump"
    STALL = "stall"
    HALF_OPEN = "half_open"
    CLOSE = "close"
    REFUSE = "refuse"
    SNAPSHOT = "snapshot"
    REST_SLOW = "rest_slow"
    REST_LIMITED = "rest_429"
    REST_FAILED = "rest_500"
    REST_TEXT = "rest_text"
    REST_LOST = "rest_lost"


REST_KINDS = frozenset(kind for kind in FaultKind if kind.startswith("rest_"))
CLOSE_CODES = (1000, 1001, 1006, 1008, 1009, 1011, 1012, 1013)  # 1006: no closing frame at all.

MOST = 10_000  # Times that one fault strikes.


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One fault to inject."""

    kind: FaultKind
    connection: Annotated[
        int | None, msgspec.Meta(description="its number, none: one of those that have books")
    ] = None
    product_id: Annotated[
        str | None, msgspec.Meta(description="whose frames, none: those of any product")
    ] = None
    count: Annotated[
        int, msgspec.Meta(ge=1, le=MOST, description="frames or requests that it hits")
    ] = 1
    seconds: Annotated[
        float,
        msgspec.Meta(
            ge=-86_400,
            le=86_400,
            description="event time that a stall or late trades last, and by which a clock jumps "
            "(backward if negative); wall time by which a REST answer is late",
        ),
    ] = 5.0
    code: Annotated[int, msgspec.Meta(description="with which to close, 1006: abruptly")] = 1006

    def __post_init__(self) -> None:
        if self.code not in CLOSE_CODES:
            raise ValueError(f"code must be one of {', '.join(map(str, CLOSE_CODES))}")
        if self.seconds < 0 and self.kind is not FaultKind.CLOCK_JUMP:
            raise ValueError("seconds can be negative for clock_jump only")


class FaultConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A schedule of faults: same seed, same faults at the same event times."""

    seed: Annotated[int, msgspec.Meta(ge=0)] = 1
    rate_per_minute: Annotated[
        float, msgspec.Meta(gt=0, description="of event time, over all connections together")
    ] = 6.0
    kinds: Annotated[
        tuple[FaultKind, ...], msgspec.Meta(min_length=1, description="each as often as another")
    ] = tuple(FaultKind)


class Schedule:
    """Draws faults: kinds in shuffled rounds, so that each comes as often as another."""

    def __init__(self, config: FaultConfig, start_ns: int) -> None:
        self._config = config
        self._random = Random(f"{config.seed}:faults")
        self._round: list[FaultKind] = []
        self._codes: list[int] = []
        self._next_ns = start_ns + self._pause_ns()
        self._next = self._draw()

    def due(self, ns: int) -> Fault | None:
        """Return the fault whose time has come, None if it has not; `taken` goes on to the next."""
        return self._next if ns >= self._next_ns else None

    def taken(self) -> None:
        """Go on to the next fault; one that is not taken waits for a connection to act on."""
        self._next_ns += self._pause_ns()
        self._next = self._draw()

    def _pause_ns(self) -> int:
        return round(self._random.expovariate(self._config.rate_per_minute / 60e9))

    def _draw(self) -> Fault:
        random = self._random
        if not self._round:
            self._round = list(self._config.kinds)
            random.shuffle(self._round)
        if not self._codes:
            self._codes = list(CLOSE_CODES)
            random.shuffle(self._codes)
        kind = self._round.pop()
        code = self._codes.pop() if kind is FaultKind.CLOSE else 1006
        seconds = random.uniform(1.0, 12.0)
        if kind is FaultKind.CLOCK_JUMP:
            seconds = random.choice((-1.0, 1.0)) * random.uniform(1.0, 60.0)
        elif kind is FaultKind.REST_SLOW:
            seconds = random.uniform(0.1, 2.0)
        return Fault(kind=kind, count=random.choice((1, 1, 1, 2, 5)), seconds=seconds, code=code)


def parse_schedule(text: str) -> FaultConfig:
    """Return the schedule written as SEED:RATE; QuaverError if it is none."""
    seed, _, rate = text.partition(":")
    try:
        return msgspec.convert({"seed": int(seed), "rate_per_minute": float(rate)}, FaultConfig)
    except ValueError:  # Also msgspec's.
        raise QuaverError(
            f"{text!r} is no schedule of faults; write SEED:RATE with the rate in faults per "
            "minute, for example 7:12"
        ) from None
