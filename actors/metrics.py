"""A collector's metrics in Ray's, so that its dashboard and Prometheus show them.

They are taken from the collector's status once a second: what a frame costs does not depend on who
watches. Ray puts `ray_` before each name.
"""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

from actors.status import CollectorStatus

_LATENCIES_S = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
_OBSERVED = 100  # Latencies a second, evenly among the newest: each costs as much as a frame.
_WHO = ("collector",)


class Metrics:
    """Those of one collector."""

    def __init__(self, collector: str) -> None:
        self._who = {"collector": collector}
        self._counted: dict[tuple[str, str], float] = {}
        self._frames = Counter("quaver_frames", "frames received", _WHO)
        self._updates = Counter("quaver_updates", "levels and trades received", _WHO)
        self._gaps = Counter("quaver_gaps", "books lost, by reason", (*_WHO, "reason"))
        self._rows = Counter("quaver_rows_recorded", "rows given to the spool", _WHO)
        self._latency = Histogram(
            "quaver_latency_seconds",
            "from the venue's time of a frame to its reception; a sample of the frames",
            _LATENCIES_S,
            _WHO,
        )
        self._gauges = {
            name: Gauge(f"quaver_{name}", description, _WHO)
            for name, description in {
                "books_synced": "products whose book is known",
                "waiting_items": "beats that wait for the consumer of the windows",
                "buffered_rows": "received, and not yet in the spool's files",
                "spool_bytes": "in the spool's files, and not yet under the data root",
                "overflowing": "1 while the spool has no room",
            }.items()
        }
        self._freshness = Gauge(
            "quaver_freshness_seconds", "since a product's newest row", (*_WHO, "product")
        )

    def update(self, status: CollectorStatus, latencies_ms: list[float]) -> None:
        """Bring every metric to this status; `latencies_ms` are those since the last time."""
        self._count(self._frames, "frames", status.frames)
        self._count(self._updates, "updates", status.updates)
        self._count(self._rows, "rows", status.rows)
        for reason, gaps in status.gaps.items():
            self._count(self._gaps, "gaps", gaps, {"reason": reason})
        for latency_ms in latencies_ms[:: 1 + len(latencies_ms) // _OBSERVED]:
            self._latency.observe(max(0.0, latency_ms / 1e3), self._who)
        spool = status.spool
        values = {
            "books_synced": status.synced,
            "waiting_items": status.waiting_items,
            "buffered_rows": spool.buffered_rows if spool else 0,
            "spool_bytes": spool.spool_bytes if spool else 0,
            "overflowing": int(status.overflowing),
        }
        for name, value in values.items():
            self._gauges[name].set(value, self._who)
        for product_id, product in status.products.items():
            if product.recv_ns:
                age_s = (status.at_ns - product.recv_ns) / 1e9
                self._freshness.set(age_s, self._who | {"product": product_id})

    def _count(
        self, counter: Counter, name: str, value: float, tags: Mapping[str, str] | None = None
    ) -> None:
        key = (name, str(tags))
        grown = value - self._counted.get(key, 0)
        if grown > 0:
            counter.inc(grown, self._who | dict(tags or {}))
            self._counted[key] = value
