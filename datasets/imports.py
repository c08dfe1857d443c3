"""Import of captures that others recorded: one JSON frame a line, plain or gzip.

A capture is read by the same reader as a live connection and goes through the same recorder, so
what follows cannot tell the two apart. A line {"type":"disconnect"} marks a lost connection.
"""

import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from actors.formats import FORMATS
from actors.quarantine import keep_corrupt
from actors.reader import Reader
from actors.recorder import Parts, Recorder
from actors.store import Store
from actors.stream import ProductStream
from datasets.captures import blocks
from market.errors import QuaverError
from market.products import Product, product, product_index, product_of

_UNKNOWN_RECV_NS = 0  # A capture does not say when a frame was received.
_PRODUCT_ID = re.compile(rb'"product_id" ?: ?"([A-Z0-9]{1,20}-[A-Z0-9]{1,20})"')


class Imported(msgspec.Struct):
    """What one capture held."""

    path: str
    frames: int
    rows: int
    products: tuple[str, ...]
    skipped: tuple[str, ...]  # Products whose grid is not known.
    counts: dict[str, int]


def import_capture(
    store: Store,
    path: Path,
    wire_format: str,
    increments: dict[str, Product],
    on_progress: Callable[[int], None] = lambda frames: None,
) -> Imported:
    """Read one capture into raw partitions and return what it held.

    `increments` gives products that are not in the universe; those in neither are skipped. Reading
    the same capture again replaces what it wrote. QuaverError names file, line and reason if it
    cannot be read; what was good before that line stays.
    """
    products, skipped = _products(path, increments)
    reader = Reader(FORMATS[wire_format], products)
    parts = Parts(store, f"{wire_format} capture")
    recorder = Recorder(parts, reader.counts_of)
    streams = {p.id: ProductStream(recorder, p) for p in products.values()}
    try:
        for block in blocks(path):
            for events in reader.lines(block, _UNKNOWN_RECV_NS):
                for product_id, rows in events:
                    streams[product_id].apply_many(rows)
            on_progress(reader.read)
    finally:
        for product_id, rows in reader.ended(_UNKNOWN_RECV_NS):
            streams[product_id].apply(rows)
        parts.close()
        keep_corrupt(store, path.name, reader.corrupt)
    if not recorder.rows:
        raise QuaverError(
            f"{path}: {reader.read} lines, but no {wire_format} market data; is --format right? "
            f"(formats: {', '.join(FORMATS)}, tardis)"
        )
    return Imported(
        str(path), reader.read, recorder.rows, tuple(products), skipped, dict(reader.counts)
    )


def parse_increments(text: str) -> tuple[str, Product]:
    """Return (product id, product) of `BTC-USD=0.01,0.00000001`; QuaverError if it is not that."""
    product_id, _, grid = text.partition("=")
    parts = grid.split(",")
    if not product_id or len(parts) != 2:
        raise QuaverError(
            f"--increments {text!r} is not PRODUCT=QUOTE_INCREMENT,BASE_INCREMENT; "
            "write it like BTC-USD=0.01,0.00000001"
        )
    return product_id, product_of(product_id, *parts)


def _products(
    path: Path, increments: dict[str, Product]
) -> tuple[dict[str, Product], tuple[str, ...]]:
    """Every product that the capture names, in order of appearance, and those to be skipped."""
    named: dict[str, None] = {}
    try:
        for block in blocks(path):
            found = dict.fromkeys(_PRODUCT_ID.findall(block))
            named.update(dict.fromkeys(product_id.decode() for product_id in found))
    except QuaverError:
        if not named:
            raise
        # What comes before the break is good; importing it says where it breaks.
    unknown = tuple(p for p in named if p not in increments and product_index(p) is None)
    if unknown and len(unknown) == len(named):
        raise QuaverError(
            f"{path}: the price and size grid of {', '.join(unknown)} is not known; "
            f"give it for each, for example --increments {unknown[0]}=0.01,0.00000001"
        )
    return {p: increments.get(p) or product(p) for p in named if p not in unknown}, unknown
