"""What a perfect collector would have: windows from what the exchange says it sent.

Each connection of the tape is rebuilt alone, by the plain reference. A jump of the venue's clock is
what the venue said, so there the frame counts as it was sent; all other faults are harm on the way.
"""

import json
from collections import defaultdict
from typing import Any

from market.products import product
from sim.faults import FaultKind
from sim.tape import FaultDone, Tape
from tests.reference.book import Rebuild

Known = dict[tuple[str, int], list[dict[str, Any]]]  # (product, beat): its valid windows.


def windows(tape: Tape, product_ids: tuple[str, ...]) -> Known:
    """Return every valid window that some connection of the tape could have known."""
    increments = {
        name: (f"{product(name).quote_increment:f}", f"{product(name).base_increment:f}")
        for name in product_ids
    }
    known: Known = defaultdict(list)
    for connection, frames in tape.frames.items():
        rebuild = Rebuild(increments, set(subscribed(frames)))
        said = {
            done.sequence_num: done.sent[0]
            for done in tape.faults
            if done.kind == FaultKind.CLOCK_JUMP and done.connection == connection
        }
        for frame in frames:
            sequence = json.loads(frame)["sequence_num"]
            rebuild.frame(said.get(sequence, frame).decode())
        for name, book in rebuild.products.items():
            for record in book.records:
                if record["valid"]:
                    known[name, record["beat"]].append(record)
    return known


def subscribed(frames: list[bytes]) -> list[str]:
    """Return the products whose books a connection ever had."""
    found: dict[str, None] = {}
    for frame in frames:
        if b'"subscriptions"' in frame[:40]:
            for event in json.loads(frame)["events"]:
                found.update(dict.fromkeys(event["subscriptions"].get("level2", [])))
    return list(found)


def faults_of(tape: Tape, product_id: str) -> list[FaultDone]:
    """Return the faults of every connection that had this product's book, in order of time."""
    ours = {c for c, frames in tape.frames.items() if product_id in subscribed(frames)}
    return sorted((f for f in tape.faults if f.connection in ours), key=lambda f: f.ns)
