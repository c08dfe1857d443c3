"""The recorder: events of each product into raw partitions, off the reading loop.

A partition is one UTC day of the event clock. At midnight the book, if it is known, is written as a
carried snapshot at the head of the next partition, so that each partition rebuilds its book alone
and no beat is lost at the border. One background thread encodes and writes.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
import numpy as np
from numpy.typing import NDArray

from actors.raw import (
    DAY_NS,
    SIMULATED,
    Manifest,
    Part,
    Session,
    day_of,
    encode_part,
    gaps_of,
    partition_path,
    read_manifest,
    write_manifest,
)
from actors.store import Store, sha256
from market.errors import QuaverError
from market.events import EVENT, Kind, mark
from market.products import Product
from market.windows import WindowBuilder

PART_ROWS = 200_000
PART_NS = 15 * 60 * 1_000_000_000  # Of event time, so that the same frames make the same parts.


class Recorder:
    """Writes raw partitions of several products under a root.

    `source` says where the frames come from, for whoever judges by them later.
    `counts_of` gives a product's counters so far, of which each partition keeps what was counted
    while it was recorded. `part_rows` bounds how much of a product is held before it is written.
    """

    def __init__(
        self,
        store: Store,
        source: str,
        counts_of: Callable[[str], dict[str, int]] = lambda product_id: {},
        part_rows: int = PART_ROWS,
    ) -> None:
        self._store = store
        self._source = source
        self._counts_of = counts_of
        self._part_rows = part_rows
        self._open: dict[str, _Partition] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._writes: list[Future[None]] = []
        self.rows = 0

    def add(self, product: Product, events: NDArray[np.void], builder: WindowBuilder) -> None:
        """Take the next events of a product; `builder` holds its book as it was before them.

        QuaverError, possibly of an earlier write, if the root does not take what is written.
        """
        self._raise_failed()
        day = int(events["ns"][0]) // DAY_NS
        partition = self._open.get(product.id)
        if partition and partition.ended:
            self._write(partition)
            partition = None
        while partition and day > partition.day:
            midnight_ns = (partition.day + 1) * DAY_NS
            border = np.array([mark(Kind.CLOCK, midnight_ns, 0)], EVENT)
            partition.add(border)
            self._write(partition)
            carried = builder.carried(midnight_ns, 0)
            partition = self._begin(product, partition.day + 1, midnight_ns)
            partition.add(carried if len(carried) else border)
        if partition is None:
            partition = self._begin(product, day, int(events["ns"][0]))
        partition.add(events)
        self.rows += len(events)
        waited_ns = int(events["ns"][-1]) - partition.pending_since_ns
        if partition.pending_rows >= self._part_rows or waited_ns >= PART_NS:
            self._write(partition)

    def close(self) -> None:
        """Write what is left and wait for it; QuaverError if the root did not take it all."""
        for partition in self._open.values():
            self._write(partition)
        self._open.clear()
        self._thread.shutdown(wait=True)
        self._raise_failed()

    def _begin(self, product: Product, day: int, session_ns: int) -> "_Partition":
        session = Session(session=f"{session_ns:020d}", source=self._source)
        partition = _Partition(product, day, session, self._counts_of(product.id))
        self._open[product.id] = partition
        return partition

    def _write(self, partition: "_Partition") -> None:
        counts = self._counts_of(partition.product.id)
        events = partition.take()
        self._writes.append(self._thread.submit(partition.write, self._store, events, counts))

    def _raise_failed(self) -> None:
        while self._writes and self._writes[0].done():
            self._writes.pop(0).result()


class _Partition:
    """The partition being written of one product; `write` runs in the recorder's thread."""

    def __init__(
        self, product: Product, day: int, session: Session, counts: dict[str, int]
    ) -> None:
        self.product = product
        self.day = day
        self.pending_rows = 0
        self.pending_since_ns = 0
        self.ended = False
        self._lost_a_part = False
        self._counted_before = counts
        self._superseded: set[str] = set()  # Parts of an earlier recording of the same session.
        self._pending: list[NDArray[np.void]] = []
        self._session = session

    def add(self, events: NDArray[np.void]) -> None:
        if not self._pending:
            self.pending_since_ns = int(events["ns"][0])
        self._pending.append(events)
        self.pending_rows += len(events)
        self.ended = bool(events["kind"][-1] == Kind.END)

    def take(self) -> NDArray[np.void]:
        events = np.concatenate(self._pending) if self._pending else np.zeros(0, EVENT)
        self._pending, self.pending_rows = [], 0
        return events

    def write(self, store: Store, events: NDArray[np.void], counts: dict[str, int]) -> None:
        """Write one part, then the manifest that lists it.

        Nothing follows a part that could not be written: without it the rest cannot be rebuilt.
        """
        if self._lost_a_part:
            return
        self._lost_a_part = True
        product, day = self.product, day_of(self.day * DAY_NS)
        folder, session = partition_path(product.id, day), self._session
        if len(events):
            data = encode_part(events, product)
            part = Part(
                name=f"part-{session.session}-{len(session.parts):04d}.parquet",
                rows=len(events),
                first_ns=int(events["ns"][0]),
                last_ns=int(events["ns"].max()),
                sha256=sha256(data),
            )
            session = msgspec.structs.replace(
                session, parts=[*session.parts, part], gaps=[*session.gaps, *gaps_of(events)]
            )
        session.counts = {k: n - self._counted_before.get(k, 0) for k, n in counts.items()}
        manifest = read_manifest(store, product.id, day) or Manifest(
            product=product.id,
            day=day,
            quote_increment=f"{product.quote_increment:f}",
            base_increment=f"{product.base_increment:f}",
            base_min_size=f"{product.base_min_size:f}",
        )
        _check_fits(manifest, session, product)
        if len(events):
            store.write(f"{folder}/{part.name}", data)
        for other in [s for s in manifest.sessions if s.session == session.session]:
            self._superseded |= {p.name for p in other.parts}
            manifest.sessions.remove(other)
        manifest.sessions = sorted([*manifest.sessions, session], key=lambda s: s.session)
        write_manifest(store, manifest)
        self._session, self._lost_a_part = session, False
        for name in self._superseded - {p.name for p in session.parts}:
            store.delete(f"{folder}/{name}")


def _check_fits(manifest: Manifest, session: Session, product: Product) -> None:
    where = f"{product.id} on {manifest.day}"
    if manifest.listed != product:
        raise QuaverError(
            f"{where} was recorded with increments {manifest.quote_increment} and "
            f"{manifest.base_increment}; use the same, or another root"
        )
    for other in manifest.sessions:
        if other.source.startswith(SIMULATED) != session.source.startswith(SIMULATED):
            raise QuaverError(
                f"{where} already holds frames of another kind ({other.source}); simulated and "
                "real ones do not mix, use another root"
            )
        apart = session.first_ns >= other.last_ns or session.last_ns <= other.first_ns
        if other.session != session.session and not apart:
            raise QuaverError(
                f"{where} already holds another recording of the same time; use another root"
            )


def keep_corrupt(store: Store, name: str, corrupt: list[tuple[int, str, bytes]]) -> None:
    """Keep a reader's corrupt frames verbatim, as JSON lines in `quarantine/`, beside the data."""
    if not corrupt:
        return
    lines = []
    for recv_ns, reason, frame in corrupt:
        row: dict[str, object] = {"recv_ns": recv_ns, "reason": reason}
        try:
            row["frame"] = frame.decode()
        except UnicodeDecodeError:
            row["frame_base64"] = frame  # msgspec writes bytes as base64.
        lines.append(msgspec.json.encode(row))
    data = b"\n".join(lines) + b"\n"
    store.write(f"quarantine/{name}-{sha256(data)[:8]}.jsonl", data)
