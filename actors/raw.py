"""Raw partitions: a product's events of one UTC day, and the manifest that says what they hold.

    raw/product=BTC-USD/day=2026-08-09/part-<session>-<number>.parquet
    raw/product=BTC-USD/day=2026-08-09/manifest.json

A session is one unbroken recording into a partition, named by the event time of its first row, so
that importing the same frames again replaces the same parts; a live one also by its writer. The
manifest is the commit point: a part that it does not list does not exist.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actors.runs import joined, words
from actors.store import Store, sha256
from market.errors import QuaverError
from market.events import EVENT, Kind, mark
from market.jit import compiled
from market.products import Product, product_of
from market.windows import WindowBuilder

DAY_NS = 86_400 * 1_000_000_000
FORMAT = "quaver.raw.3"
SIMULATED = "simulated"
_FOLDER = re.compile(r"raw/product=([^/]+)/day=(\d{4}-\d\d-\d\d)")
_AT_ONCE = 4  # Parts asked of S3, which takes tens of milliseconds to answer.
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

RAW_SCHEMA = pa.schema(
    [
        pa.field("ns", pa.int64(), nullable=False),
        pa.field("recv_ns", pa.int64(), nullable=False),
        pa.field("kind", pa.int8(), nullable=False),
        pa.field("side", pa.int8(), nullable=False),
        pa.field("last", pa.bool_(), nullable=False),
        pa.field("reason", pa.int8(), nullable=False),
        pa.field("price", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("trade_id", pa.int64(), nullable=False),
    ]
)
_LONGS = ("ns", "recv_ns", "price", "size", "trade_id")
_SHORTS = ("kind", "side", "last", "reason")
# The least work of those that are as small: times grow in like steps; prices and sizes jump, but
# their upper bytes seldom do; of the rest zstd leaves next to nothing.
_ENCODINGS = {
    "ns": "DELTA_BINARY_PACKED",
    "recv_ns": "DELTA_BINARY_PACKED",
    "price": "BYTE_STREAM_SPLIT",
    "size": "BYTE_STREAM_SPLIT",
    "trade_id": "BYTE_STREAM_SPLIT",
    "side": "DELTA_BINARY_PACKED",
}


class Unfit(QuaverError):
    """A partition does not take a recording, however often it is tried."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file of a session."""

    name: str
    rows: int
    first_ns: int
    last_ns: int
    sha256: str


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """From `ns` to `until_ns`, or to the session's end, the book was not known."""

    ns: int
    until_ns: int | None = None
    reason: str  # Of the UNSYNC mark, or "start" or "broke off".


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One unbroken recording into the partition."""

    session: str
    source: str  # Where the frames came from; begins with SIMULATED if no venue sent them.
    live: bool = False
    parts: list[Part] = []
    gaps: list[Gap] = []
    counts: dict[str, int] = {}  # Duplicates, corrupt frames and more, of its connection.
    book_sha256: str | None = None  # Of the running book at its end; None where it broke off.

    @property
    def first_ns(self) -> int:
        """Event time of the first row."""
        return self.parts[0].first_ns

    @property
    def last_ns(self) -> int:
        """Event time of the last row."""
        return self.parts[-1].last_ns


class Manifest(msgspec.Struct, kw_only=True):
    """What a raw partition holds."""

    format: str = FORMAT
    product: str
    day: str
    quote_increment: str
    base_increment: str
    base_min_size: str
    sessions: list[Session] = []

    @property
    def listed(self) -> Product:
        """The product with the grid that the partition's ticks and lots count in."""
        return product_of(
            self.product, self.quote_increment, self.base_increment, self.base_min_size
        )


def day_of(ns: int) -> str:
    """Return the UTC day of a time, as 2026-08-09."""
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%d")


def day_start_ns(day: str) -> int:
    """Return the midnight that starts a day; QuaverError if it is no date."""
    try:
        start = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise QuaverError(f"{day!r} is not a day; write it like 2026-08-09") from None
    return (start - _EPOCH).days * DAY_NS


def _is_day(text: str) -> bool:
    try:
        day_start_ns(text)
    except QuaverError:
        return False
    return True


def partition_path(product_id: str, day: str) -> str:
    """Return the folder of a raw partition under its root."""
    return f"raw/product={product_id}/day={day}"


def read_manifest(store: Store, product_id: str, day: str) -> Manifest | None:
    """Return a partition's manifest, None if there is none; QuaverError if it cannot be used."""
    path = f"{partition_path(product_id, day)}/manifest.json"
    try:
        data = store.read(path)
    except FileNotFoundError:
        return None
    return decode_manifest(data, f"{store.root}/{path}")


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Return a manifest from the bytes of `where`; Unfit if they are none of this version."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, ValueError) as e:
        raise Unfit(f"{where} is not a manifest: {e}; restore or remove it") from e
    if manifest.format != FORMAT:
        raise Unfit(
            f"{where} has format {manifest.format}, this version reads {FORMAT}; "
            "import the captures again"
        )
    return manifest


def partitions(store: Store) -> list[tuple[str, str]]:
    """Return (product id, day) of every raw partition that has a manifest, sorted."""
    return known_partitions(store)[0]


def known_partitions(store: Store) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the raw partitions as `partitions` does, and the folders under raw/ that are none."""
    found, foreign = [], set()
    for path in store.files("raw"):
        folder, _, name = path.rpartition("/")
        named = _FOLDER.fullmatch(folder)
        if named and _is_day(named[2]):
            if name == "manifest.json":
                found.append((named[1], named[2]))
        elif folder != "raw":
            foreign.add(folder)
    return sorted(found), sorted(foreign)


def encode_part(events: NDArray[np.void], product: Product) -> bytes:
    """Return events (EVENT[n]) as the bytes of a Parquet file; the same events, the same bytes."""
    if not (events.flags.c_contiguous and events.flags.writeable):
        events = events.copy()  # Compiled for such alone.
    longs = np.empty((len(_LONGS), len(events)), np.int64)
    shorts = np.empty((len(_SHORTS), len(events)), np.int8)
    _split(events, longs, shorts)
    columns = dict(zip((*_LONGS, *_SHORTS), (*longs, *shorts), strict=True))
    columns["last"] = columns["last"].view(np.bool_)
    schema = RAW_SCHEMA.with_metadata(
        {
            "format": FORMAT,
            "product": product.id,
            "quote_increment": f"{product.quote_increment:f}",
            "base_increment": f"{product.base_increment:f}",
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays([pa.array(columns[f.name]) for f in schema], schema=schema),
        sink,
        compression="zstd",
        use_dictionary=False,
        column_encoding=_ENCODINGS,
        write_statistics=False,  # A manifest says what a part holds; nobody reads these.
    )
    return sink.getvalue().to_pybytes()


@compiled
def _split(events: NDArray[np.void], longs: NDArray[np.int64], shorts: NDArray[np.int8]) -> None:
    """Copy each field of rows to its column, all in one pass."""
    for i in range(len(events)):
        event = events[i]
        longs[0, i], longs[1, i], longs[2, i] = event.ns, event.recv_ns, event.price
        longs[3, i], longs[4, i] = event.size, event.trade_id
        shorts[0, i], shorts[1, i] = event.kind, event.side
        shorts[2, i], shorts[3, i] = event.last, event.reason


def read_session(store: Store, manifest: Manifest, session: Session) -> NDArray[np.void]:
    """Return a session's events (EVENT[n]); QuaverError as in `read_parts`."""
    return joined([words(events) for events in read_parts(store, manifest, session)])


def read_parts(store: Store, manifest: Manifest, session: Session) -> Iterator[NDArray[np.void]]:
    """Yield the events (EVENT[n]) of each part of a session, of which a day may not fit in memory.

    QuaverError at a part that is missing or not as listed.
    """
    folder = partition_path(manifest.product, manifest.day)
    for data in _in_order(store, partial(_read_listed, store, folder), session.parts):
        yield _decoded(data)


def read_partition(store: Store, manifest: Manifest) -> NDArray[np.void]:
    """Return all events of a partition (EVENT[n]), its sessions one after the other by their start.

    An END stands between two: a session that broke off without one is not continued by the next.
    Sessions may overlap: a collector that was thought dead went on, a clock was set back.
    """
    found: list[NDArray[np.void]] = []
    for session in by_start(manifest):
        if found:
            found.append(np.array([mark(Kind.END, int(found[-1]["ns"][-1]), 0)], EVENT))
        found.append(read_session(store, manifest, session))
    return joined([words(events) for events in found])


def by_start(manifest: Manifest) -> list[Session]:
    """Return a partition's sessions in order of their first row, the shorter of two first."""
    return sorted(manifest.sessions, key=lambda s: (s.first_ns, s.last_ns, s.session))


def book_sha256(builder: WindowBuilder) -> str:
    """Return the hash of a book: bids, then asks, best first, each as int64 (ticks, lots)."""
    return sha256(b"|".join(np.ascontiguousarray(side).data for side in builder.levels()))


def _in_order(store: Store, read: Callable[[Part], bytes], parts: list[Part]) -> Iterator[bytes]:
    """Yield what `read` returns of each part; several at once are asked for where that is slow."""
    if store.is_local:
        yield from map(read, parts)
        return
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="parts") as pool:
        try:
            for part in parts:
                waiting.append(pool.submit(read, part))
                if len(waiting) > _AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _read_listed(store: Store, folder: str, part: Part) -> bytes:
    path = f"{folder}/{part.name}"
    try:
        data = store.read(path)
    except FileNotFoundError:
        raise QuaverError(
            f"{store.root}/{path} is listed in its manifest but missing; import it again"
        ) from None
    if sha256(data) != part.sha256:
        raise QuaverError(
            f"{store.root}/{path} is not what its manifest says (SHA-256 differs); import it again"
        )
    return data


def _decoded(data: bytes) -> NDArray[np.void]:
    # One thread: columns are small, and who builds tables runs a task on every core. Not by
    # `pq.read_table`, which for parts of this size takes twice the time.
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    events = np.empty(table.num_rows, EVENT)
    for name in EVENT.names or ():
        events[name] = table[name].to_numpy()
    return events
