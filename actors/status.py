"""What a collector says about itself: one record, for the table, the metrics and the tests."""

import msgspec
import numpy as np

from actors.connection import ConnectionStatus
from actors.spool import SpoolStatus


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of recv_ns - ns over the newest frames, milliseconds; None before any."""

    p50_ms: float | None = None
    p99_ms: float | None = None

    @classmethod
    def of(cls, newest_ms: list[float]) -> "Latency":
        """Return the percentiles of these."""
        if not newest_ms:
            return cls()
        p50, p99 = np.percentile(newest_ms, [50, 99]).tolist()
        return cls(p50_ms=p50, p99_ms=p99)


class ProductStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One product of a collector."""

    synced: bool
    recv_ns: int  # When its newest level or trade was received; 0 before any.
    updates: int  # Levels and trades.
    broken: str | None = None  # Why it is not collected any more, if a row was refused.


class CollectorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A collector at one instant; every count is since its process started."""

    name: str
    pid: int
    started_ns: int
    at_ns: int
    clock_ns: int  # The latest event time of any product.
    connections: list[ConnectionStatus]
    products: dict[str, ProductStatus]
    counts: dict[str, int]  # Of its readers, and of windows.
    gaps: dict[str, int]  # Books lost, by reason.
    frames: int
    rows: int  # Recorded.
    latency: Latency
    waiting_items: int  # For the consumer of the windows.
    quarantine_left_out: int
    spool: SpoolStatus | None  # None: it records nothing.
    overflowing: bool
    problems: list[str]  # The newest that were logged as errors.
    ended: bool

    @property
    def updates(self) -> int:
        """Levels and trades of all products."""
        return sum(product.updates for product in self.products.values())

    @property
    def synced(self) -> int:
        """How many products' books are known."""
        return sum(product.synced for product in self.products.values())
