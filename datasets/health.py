"""How good a recording is: what each day of each product covers, lost and how late it was.

Coverage is told by the manifests alone; only latencies are read from the parts. A day is the UTC
day, but a product's first counts from its first row, and the newest day of the root up to the last
row that any product has in it. A product is expected from its first day to the root's newest.
"""

from collections import Counter
from collections.abc import Callable
from typing import Annotated

import msgspec
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import ArrowException

from actors.raw import (
    DAY_NS,
    Manifest,
    day_of,
    day_start_ns,
    partition_path,
    partitions,
    read_manifest,
)
from actors.store import Store
from datasets.todo import choose
from datasets.unknown import unknown
from market.errors import QuaverError
from market.events import Kind

ALL = "all"  # The product of the sum over products.
_SECOND_NS = 1_000_000_000
_SENT = (Kind.SNAPSHOT, Kind.CHANGE, Kind.TRADE)  # Rows that a frame of the venue brought.

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]


class HealthConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The floor: what a product's day must keep to; none: not checked."""

    min_coverage: Annotated[
        _Share | None, msgspec.Meta(description="share of the time with a known book")
    ] = 0.99
    max_corrupt: Annotated[
        _Count | None, msgspec.Meta(description="corrupt frames of the product's connection")
    ] = None
    max_trade_holes: Annotated[
        _Count | None, msgspec.Meta(description="trade ids that never came")
    ] = None
    max_latency_p99_ms: Annotated[
        _Positive | None, msgspec.Meta(description="received minus event time, 99th percentile")
    ] = None


class Latency(msgspec.Struct, frozen=True):
    """Time from the venue's clock to ours over frames, in milliseconds."""

    p50: float
    p99: float
    max: float


class Lost(msgspec.Struct):
    """Gaps of one reason."""

    gaps: int
    seconds: float


class DayHealth(msgspec.Struct, kw_only=True):
    """A product's day, or the days from `day` to `until_day` of which there is nothing at all."""

    product: str
    day: str
    until_day: str
    first_ns: int | None  # Of the rows; none where there are none.
    last_ns: int | None
    expected_s: float
    covered_s: float
    coverage: float  # covered_s / expected_s; 1 if nothing was expected.
    gaps: int
    lost: dict[str, Lost]  # By reason.
    duplicates: int = 0  # Frames of its connection, as `corrupt`.
    corrupt: int = 0
    trade_duplicates: int = 0
    trade_holes: int = 0
    latency_ms: Latency | None = None  # None: no frame says when it was received.
    sources: list[str] = []
    faults: list[str] = []  # In what it is worse than the floor.


def health_of(
    store: Store,
    config: HealthConfig,
    products: str | None,
    days: str | None,
    latency: bool,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[DayHealth]:
    """Return the health of every product and day under a root, in order.

    `products` and `days` pick some as `choose` reads them, days without anything included. Without
    `latency` no part is read. QuaverError if there is nothing recorded, or nothing of what was
    picked.
    """
    recorded = partitions(store)
    if not recorded:
        raise QuaverError(f"there are no raw partitions in {store.root}; record or import first")
    held: dict[str, list[str]] = {}
    for product_id, day in recorded:
        held.setdefault(product_id, []).append(day)
    newest = max(day for _, day in recorded)
    manifests = [_manifest(store, p, newest) for p, day in recorded if day == newest]
    end_ns = max(session.last_ns for m in manifests for session in m.sessions)
    expected = [(p, day) for p in held for day in _days(held[p][0], newest)]
    chosen: dict[str, list[str]] = {}
    for product_id, day in choose(expected, products, days):
        chosen.setdefault(product_id, []).append(day)
    found: list[DayHealth] = []
    for done, product_id in enumerate(chosen):
        on_progress(done, len(chosen))
        first = _manifest(store, product_id, held[product_id][0])
        start_ns = min(session.first_ns for session in first.sessions)
        for day, until_day in _stretches(chosen[product_id], set(held[product_id])):
            from_ns = max(start_ns, day_start_ns(day))
            to_ns = min(end_ns, day_start_ns(until_day) + DAY_NS)
            manifest = _manifest(store, product_id, day) if day in held[product_id] else None
            one = _health(product_id, day, until_day, manifest, from_ns, to_ns)
            if latency and manifest is not None:
                one.latency_ms = _latency(store, manifest)
            one.faults = _faults(one, config)
            found.append(one)
    on_progress(len(chosen), len(chosen))
    return found


def total(days: list[DayHealth]) -> DayHealth:
    """Return the sum over all; of latencies, the worst.

    Duplicate and corrupt frames are those of a connection, which several products share: they
    have no sum and stay 0.
    """
    lost: dict[str, Lost] = {}
    for day in days:
        for reason, more in day.lost.items():
            so_far = lost.get(reason, Lost(0, 0.0))
            lost[reason] = Lost(so_far.gaps + more.gaps, so_far.seconds + more.seconds)
    late = [day.latency_ms for day in days if day.latency_ms]
    expected_s, covered_s = sum(d.expected_s for d in days), sum(d.covered_s for d in days)
    firsts = [day.first_ns for day in days if day.first_ns is not None]
    lasts = [day.last_ns for day in days if day.last_ns is not None]
    return DayHealth(
        product=ALL,
        day=min(day.day for day in days),
        until_day=max(day.until_day for day in days),
        first_ns=min(firsts, default=None),
        last_ns=max(lasts, default=None),
        expected_s=expected_s,
        covered_s=covered_s,
        coverage=covered_s / expected_s if expected_s else 1.0,
        gaps=sum(day.gaps for day in days),
        lost=lost,
        trade_duplicates=sum(day.trade_duplicates for day in days),
        trade_holes=sum(day.trade_holes for day in days),
        latency_ms=Latency(*(max(getattr(x, f) for x in late) for f in ("p50", "p99", "max")))
        if late
        else None,
        sources=sorted({source for day in days for source in day.sources}),
        faults=[fault for day in days for fault in day.faults],
    )


def _manifest(store: Store, product_id: str, day: str) -> Manifest:
    manifest = read_manifest(store, product_id, day)
    if manifest is None:
        raise QuaverError(
            f"the manifest of {product_id} on {day} in {store.root} was there and is gone; "
            "try again when nothing removes files there"
        )
    return manifest


def _days(first: str, last: str) -> list[str]:
    """Return the days from one to another, both included."""
    return [day_of(ns) for ns in range(day_start_ns(first), day_start_ns(last) + 1, DAY_NS)]


def _stretches(days: list[str], held: set[str]) -> list[tuple[str, str]]:
    """Return (first, last) day of what is told together: a day that is held, or missing ones."""
    found: list[tuple[str, str]] = []
    for day in days:
        last = found[-1][1] if found else day
        if not held & {last, day} and day_start_ns(day) - day_start_ns(last) == DAY_NS:
            found[-1] = found[-1][0], day
        else:
            found.append((day, day))
    return found


def _health(
    product_id: str, day: str, until_day: str, manifest: Manifest | None, from_ns: int, to_ns: int
) -> DayHealth:
    gaps = unknown(manifest, from_ns, to_ns)
    lost: dict[str, Lost] = {}
    for gap in gaps:
        one = lost.setdefault(gap.reason, Lost(0, 0.0))
        one.gaps += 1
        one.seconds += (gap.until_ns - gap.ns) / _SECOND_NS
    expected_ns = max(0, to_ns - from_ns)
    covered_ns = expected_ns - sum(gap.until_ns - gap.ns for gap in gaps)
    sessions = manifest.sessions if manifest else []
    counts: Counter[str] = Counter()
    for session in sessions:
        counts.update(session.counts)
    return DayHealth(
        product=product_id,
        day=day,
        until_day=until_day,
        first_ns=min((s.first_ns for s in sessions), default=None),
        last_ns=max((s.last_ns for s in sessions), default=None),
        expected_s=expected_ns / _SECOND_NS,
        covered_s=covered_ns / _SECOND_NS,
        coverage=covered_ns / expected_ns if expected_ns else 1.0,
        gaps=len(gaps),
        lost=lost,
        duplicates=counts["duplicates"],
        corrupt=counts["corrupt"],
        trade_duplicates=counts["trade_duplicates"],
        trade_holes=counts["trade_holes"],
        sources=sorted({session.source for session in sessions}),
    )


def _latency(store: Store, manifest: Manifest) -> Latency | None:
    """Read when the frames of a day were sent and received; a frame's last row stands for it."""
    found: list[NDArray[np.int64]] = []
    for session in manifest.sessions:
        for part in session.parts:
            path = f"{partition_path(manifest.product, manifest.day)}/{part.name}"
            try:
                table = pq.read_table(
                    store.full_path(path),
                    columns=["ns", "recv_ns", "kind", "last"],
                    filesystem=store.filesystem,
                )
            except (ArrowException, OSError) as e:
                raise QuaverError(
                    f"{store.root}/{path} is listed in its manifest but cannot be read: {e}; "
                    "record or import it again, or leave latencies out with --no-latency"
                ) from None
            ns, recv_ns, kind, last = (table[name].to_numpy() for name in table.column_names)
            frames = last & np.isin(kind, _SENT) & (recv_ns > 0)
            found.append((recv_ns - ns)[frames])
    late_ns = np.concatenate(found) if found else np.zeros(0, np.int64)
    if not len(late_ns):
        return None
    p50, p99 = np.percentile(late_ns, (50, 99), method="higher")
    return Latency(float(p50) / 1e6, float(p99) / 1e6, float(late_ns.max()) / 1e6)


def _faults(day: DayHealth, floor: HealthConfig) -> list[str]:
    checks: list[tuple[str, float | None, float | None]] = [
        ("corrupt frames", day.corrupt, floor.max_corrupt),
        ("trade holes", day.trade_holes, floor.max_trade_holes),
        ("p99 ms", day.latency_ms and day.latency_ms.p99, floor.max_latency_p99_ms),
    ]
    found = []
    if floor.min_coverage is not None and day.coverage < floor.min_coverage:
        found.append(f"coverage {day.coverage:.3%} < {floor.min_coverage:.3%}")
    for name, is_, limit in checks:
        if is_ is not None and limit is not None and is_ > limit:
            found.append(f"{name} {is_:,.6g} > {limit:,.6g}")
    return found
