"""The product's book over real recordings: the reference's, and the one fetched over REST.

The path is the live one: frames through the reader and the decoder into the window builder. That
the windows are right as well is in `test_recordings.py`.
"""

import gzip
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors import advanced_trade, exchange_feed
from actors.reader import Reader
from market.products import product_of
from market.windows import WindowBuilder
from tests.helpers import recording
from tests.reference.book import Rebuild, grid, lines_of, products_of

BTC = ("0.01", "0.00000001")
THIN = ("0.00000001", "0.00000001")
THIN_PRODUCTS = "BAND-GBP BAND-BTC YFI-BTC NU-GBP CRV-EUR SKL-GBP SKL-USD SKL-BTC NMR-EUR DASH-BTC"
INCREMENTS = {"BTC-USD": BTC, **dict.fromkeys(THIN_PRODUCTS.split(), THIN)}
SECOND_NS = 10**9


def followed(path: Path, reference: Rebuild) -> Iterator[tuple[str, dict[str, WindowBuilder]]]:
    """Each line of a recording, and the books after it; the reference has read it as well."""
    wire = advanced_trade if path.name.startswith("advanced") else exchange_feed
    products = {name: product_of(name, *INCREMENTS[name]) for name in reference.products}
    reader = Reader(wire.decoder, products)
    builders = {name: WindowBuilder() for name in products}
    for recv_ns, line in enumerate(lines_of(path)):
        reference.frame(line)
        for name, rows in reader.frame(line.strip().encode(), recv_ns):
            builders[name].feed(rows)
        yield line, builders


@pytest.mark.parametrize(
    ("name", "every", "compared"),
    [
        pytest.param("exchange-10-products-31s", 40, 100),
        pytest.param("advanced-btc-usd-60s", 100, 8, marks=pytest.mark.slow),
        pytest.param("advanced-btc-usd-180s", 150, 15, marks=pytest.mark.slow),
        pytest.param("exchange-btc-usd-2018-1min-trades", 300, 10, marks=pytest.mark.slow),
        pytest.param("exchange-btc-usd-2018-2min-trades", 600, 10, marks=pytest.mark.slow),
        pytest.param("exchange-btc-usd-2018-45min", 5000, 20, marks=pytest.mark.slow),
    ],
)
def test_the_whole_book_equals_the_reference_throughout_a_real_recording(
    name: str, every: int, compared: int
) -> None:
    path = recording(f"{name}.jsonl.gz")
    reference, equal = Rebuild(INCREMENTS, products_of(path)), 0
    for i, (_, builders) in enumerate(followed(path, reference), start=1):
        if i % every:
            continue
        for product_id, builder in builders.items():
            wanted = reference.products[product_id]
            assert builder.synced == wanted.synced
            if wanted.synced:
                bids, asks = builder.levels()
                assert (np.diff(bids[:, 0]) < 0).all() and (np.diff(asks[:, 0]) > 0).all()
                assert dict(bids.tolist()) == wanted.bids
                assert dict(asks.tolist()) == wanted.asks
                equal += 1
    assert equal > compared


def nanoseconds(text: str) -> int:
    """A time of microseconds in ns."""
    return round(datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp() * 1e6) * 1000


@pytest.mark.slow
def test_the_book_equals_each_book_fetched_over_rest_within_a_second() -> None:
    path = recording("advanced-btc-usd-180s.jsonl.gz")
    with gzip.open(recording("advanced-btc-usd-180s.books.jsonl.gz"), "rt") as file:
        fetched = [json.loads(line)["pricebook"] for line in file]
    assert len(fetched) == 2
    agreed = [0] * len(fetched)
    for line, builders in followed(path, Rebuild(INCREMENTS, {"BTC-USD"})):
        sent_ns = nanoseconds(json.loads(line)["timestamp"])
        for i, book in enumerate(fetched):
            if abs(sent_ns - nanoseconds(book["time"])) <= SECOND_NS:
                agreed[i] += builders["BTC-USD"].synced and top(builders["BTC-USD"]) == rest(book)
    assert all(agreed), agreed


def top(builder: WindowBuilder) -> list[list[list[int]]]:
    """The best 50 levels of both sides."""
    return [side[:50].tolist() for side in builder.levels()]


def rest(book: dict[str, Any]) -> list[list[list[int]]]:
    """The best 50 levels of both sides of a book fetched over REST."""
    levels = [
        [[grid(x["price"], BTC[0]), grid(x["size"], BTC[1])] for x in book[side][:50]]
        for side in ("bids", "asks")
    ]
    assert [len(side) for side in levels] == [50, 50]
    return levels
