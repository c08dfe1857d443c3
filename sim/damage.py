"""How a frame is spoiled: bytes in, bytes out, all choices drawn from the generator given."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from sim.faults import FaultKind
from sim.wire import SECOND_NS, Frame, timestamp_text

Document = dict[str, Any]


def truncated(data: bytes, random: Random) -> bytes:
    """Cut a frame short."""
    return data[: random.randrange(1, len(data))]


def bad_bytes(data: bytes, random: Random) -> bytes:
    """Put bytes in that are no UTF-8."""
    spoiled = bytearray(data)
    for _ in range(3):
        spoiled[random.randrange(len(spoiled))] = random.choice((0xFF, 0xFE, 0xC0))
    return bytes(spoiled)


def missing_field(data: bytes, random: Random) -> bytes:
    """Leave out one field that the frame cannot be read without."""
    document = json.loads(data)
    where, name = random.choice(_fields(document))
    del where[name]
    return _encoded(document)


def wrong_type(data: bytes, random: Random) -> bytes:
    """Give one field a value of a type that it never has."""
    document = json.loads(data)
    where, name = random.choice(_fields(document))
    where[name] = random.choice(({}, [None], True))
    return _encoded(document)


def off_grid(data: bytes, random: Random) -> bytes:
    """Add a digit beyond the grid to the price of one level."""
    document = json.loads(data)
    update = random.choice(document["events"][0]["updates"])
    whole, _, fraction = update["price_level"].partition(".")
    update["price_level"] = f"{whole}.{fraction}5"
    return _encoded(document)


def crossed(data: bytes, price: str, size: str) -> bytes:
    """Add a bid that nobody made, at a price above the best offer."""
    document = json.loads(data)
    updates = document["events"][0]["updates"]
    # After all others, so that the event as a whole leaves the book crossed.
    updates.append(
        {
            "side": "bid",
            "event_time": updates[0]["event_time"],
            "price_level": price,
            "new_quantity": size,
        }
    )
    return _encoded(document)


def clock_jump(data: bytes, frame: Frame, seconds: float) -> bytes:
    """Shift the time that the venue puts on a frame."""
    said = timestamp_text(frame.ns).encode()
    return data.replace(said, timestamp_text(frame.ns + round(seconds * SECOND_NS)).encode(), 1)


SPOILERS: dict[FaultKind, Callable[[bytes, Random], bytes]] = {
    FaultKind.TRUNCATED: truncated,
    FaultKind.BAD_BYTES: bad_bytes,
    FaultKind.MISSING_FIELD: missing_field,
    FaultKind.WRONG_TYPE: wrong_type,
    FaultKind.OFF_GRID: off_grid,
}


def _fields(document: Document) -> list[tuple[Document, str]]:
    found = [(document, name) for name in ("channel", "timestamp", "sequence_num", "events")]
    event = document["events"][0]
    if document["channel"] == "l2_data":
        found += [(event, name) for name in ("type", "product_id", "updates")]
        update = event["updates"][-1]
        found += [(update, name) for name in ("side", "price_level", "new_quantity")]
    elif document["channel"] == "market_trades":
        trade = event["trades"][-1]
        found += [(trade, name) for name in ("trade_id", "product_id", "price", "size", "side")]
    return found


def _encoded(document: Document) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
