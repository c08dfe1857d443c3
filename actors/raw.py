"""Raw partitions: a product's events of one UTC day, and the manifest that says what they hold.

    raw/product=BTC-USD/day=2026-08-09/part-<session>-<number>.parquet
    raw/product=BTC-USD/day=2026-08-09/manifest.json

A session is one unbroken recording into a partition, named by the event time of its first row, so
that importing the same frames again replaces the same parts; a live one also by its writer. The
manifest is the commit point: a part that it does not list does not exist.
"""

from datetime import UTC, datetime

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actors.store import Store, sha256
from market.errors import QuaverError
from market.events import EVENT, Kind, mark
from market.products import Product, product_of

DAY_NS = 86_400 * 1_000_000_000
FORMAT = "quaver.raw.3"
SIMULATED = "simulated"
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

    @property
    def first_ns(self) -> int:
        """Event time of the first row."""
        return self.parts[0].first_ns

    @property
    def last_ns(self) -> int:
        """Event time of the last row."""
        return self.parts[-1].last_ns


class Stretch(msgspec.Struct, frozen=True):
    """What a session says of its partition: all of it, or what comes before the next begins."""

    session: Session
    end_ns: int
    cut: bool  # Rows from `end_ns` on are not used.
    gaps: list[Gap]  # Each with its end, none beyond `end_ns`.


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


def partition_path(product_id: str, day: str) -> str:
    """Return the folder of a raw partition under its root."""
    return f"raw/product={product_id}/day={day}"


def read_manifest(store: Store, product_id: str, day: str) -> Manifest | None:
    """Return a partition's manifest, None if there is none; QuaverError if it cannot be used."""
    path = f"{partition_path(product_id, day)}/manifest.json"
    if not store.exists(path):
        return None
    return decode_manifest(store.read(path), f"{store.root}/{path}")


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
    found = []
    for path in store.files("raw"):
        folders = path.split("/")
        if len(folders) == 4 and folders[3] == "manifest.json":
            found.append((folders[1].removeprefix("product="), folders[2].removeprefix("day=")))
    return sorted(found)


def encode_part(events: NDArray[np.void], product: Product) -> bytes:
    """Return events (EVENT[n]) as the bytes of a Parquet file; the same events, the same bytes."""
    columns = [pa.array(np.ascontiguousarray(events[f.name]).astype(f.type.to_pandas_dtype()))
               for f in RAW_SCHEMA]  # fmt: skip
    schema = RAW_SCHEMA.with_metadata(
        {
            "format": FORMAT,
            "product": product.id,
            "quote_increment": f"{product.quote_increment:f}",
            "base_increment": f"{product.base_increment:f}",
        }
    )
    sink = pa.BufferOutputStream()
    packed = {
        name: "DELTA_BINARY_PACKED" for name in ("ns", "recv_ns", "price", "size", "trade_id")
    }
    pq.write_table(
        pa.Table.from_arrays(columns, schema=schema),
        sink,
        compression="zstd",
        use_dictionary=["kind", "side", "reason"],
        column_encoding=packed,
    )
    return sink.getvalue().to_pybytes()


def read_session(store: Store, manifest: Manifest, session: Session) -> NDArray[np.void]:
    """Return a session's events (EVENT[n]); QuaverError if a part is missing or not as listed."""
    folder = partition_path(manifest.product, manifest.day)
    parts = [_read_part(store, f"{folder}/{part.name}", part) for part in session.parts]
    return np.concatenate(parts)


def read_partition(store: Store, manifest: Manifest) -> NDArray[np.void]:
    """Return all events of a partition (EVENT[n]), its sessions one after the other in time.

    An END stands between two: a session that broke off without one is not continued by the next.
    """
    found: list[NDArray[np.void]] = []
    for stretch in stretches(manifest):
        events = read_session(store, manifest, stretch.session)
        if stretch.cut:
            events = events[: int(np.searchsorted(events["ns"], stretch.end_ns))]
        if found:
            found.append(np.array([mark(Kind.END, int(found[-1]["ns"][-1]), 0)], EVENT))
        found.append(events)
    return np.concatenate(found)


def stretches(manifest: Manifest) -> list[Stretch]:
    """Return what of each session is used, in time; where two overlap the later one is."""
    sessions = sorted(manifest.sessions, key=lambda session: session.session)
    found = []
    for session, after in zip(sessions, [*sessions[1:], None], strict=True):
        cut = after is not None and session.last_ns > after.first_ns
        end_ns = after.first_ns if after and cut else session.last_ns
        if cut and end_ns <= session.first_ns:
            continue
        ends = [end_ns if gap.until_ns is None else gap.until_ns for gap in session.gaps]
        gaps = [
            Gap(ns=gap.ns, until_ns=min(until_ns, end_ns), reason=gap.reason)
            for gap, until_ns in zip(session.gaps, ends, strict=True)
            if gap.ns < end_ns or not cut
        ]
        found.append(Stretch(session, end_ns, cut, gaps))
    return found


def _read_part(store: Store, path: str, part: Part) -> NDArray[np.void]:
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
    table = pq.read_table(pa.BufferReader(data))
    events = np.empty(table.num_rows, EVENT)
    for name in EVENT.names or ():
        events[name] = table[name].to_numpy()
    return events
