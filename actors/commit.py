"""Commits: how a recording adds parts to the partitions under a root, and what it may not.

A part is written first and listed in its partition's manifest second. Its name follows from what
it holds, so that a commit that was cut short is done again without a trace.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from actors.raw import (
    SIMULATED,
    Gap,
    Manifest,
    Part,
    Session,
    Unfit,
    decode_manifest,
    encode_part,
    partition_path,
    read_manifest,
)
from actors.store import Store, sha256
from market.events import Kind, Reason
from market.products import Product

START, BROKE_OFF = "start", "broke off"  # Reasons of gaps that no mark names.


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """What a recording adds to a session: rows (EVENT[n], whole frames), or what is known of it."""

    product: Product
    day: str
    session: str
    source: str
    number: int
    rows: NDArray[np.void]
    counts: dict[str, int] | None = None  # Of the session so far, where they have changed.
    live: bool = False
    broke_off: bool = False  # Nothing follows, and no END was recorded.

    @property
    def name(self) -> str:
        """The file name of its part."""
        return f"part-{self.session}-{self.number:04d}.parquet"


def commit(store: Store, piece: Piece) -> int:
    """Write a piece as a part and list it; return the bytes written, 0 if it was listed before.

    The first piece of an import replaces the session of the same name; a live piece that is listed
    changes nothing. Unfit if the partition does not take it, QuaverError if the root does not.
    """
    folder = partition_path(piece.product.id, piece.day)
    path = f"{folder}/manifest.json"
    manifest = read_manifest(store, piece.product.id, piece.day) or _empty(piece)
    before = _session_of(manifest, piece)
    replaced = _replaced(piece, before)
    if not len(piece.rows) and (before is None or replaced):
        return 0
    _check_fits(manifest, piece)
    part, data = None, b""
    if len(piece.rows) and (replaced or not _listed(before, piece)):
        data = encode_part(piece.rows, piece.product)
        part = Part(
            name=piece.name,
            rows=len(piece.rows),
            first_ns=int(piece.rows["ns"][0]),
            last_ns=int(piece.rows["ns"].max()),
            sha256=sha256(data),
        )
        store.write(f"{folder}/{part.name}", data)

    def change(old: bytes | None) -> bytes:
        manifest = decode_manifest(old, f"{store.root}/{path}") if old else _empty(piece)
        _check_fits(manifest, piece)
        return _encoded(_added(manifest, piece, part))

    store.update(path, change)
    if before and replaced:
        for name in {p.name for p in before.parts} - {piece.name}:
            store.delete(f"{folder}/{name}")
    return len(data)


def carry_gaps(gaps: list[Gap], events: NDArray[np.void], begins: bool) -> list[Gap]:
    """Return a session's gaps after its next events (EVENT[n], whole frames).

    A book is not known from the session's first row, or from an UNSYNC mark on, until the last row
    of the next whole book. What comes after a break continues the session: it was none.
    """
    found = [gap for gap in gaps if gap.reason != BROKE_OFF]
    if begins:
        found = [Gap(ns=int(events["ns"][0]), reason=START)]
    level = events["kind"] <= Kind.CARRIED
    book_ends = level & ((events["last"] == 1) | np.append(~level[1:], True))
    for at in np.flatnonzero(book_ends | (events["kind"] == Kind.UNSYNC)):
        ns, is_open = int(events["ns"][at]), bool(found) and found[-1].until_ns is None
        if book_ends[at] and is_open:
            gap = found.pop()
            if gap.reason != START or ns > gap.ns:
                found.append(Gap(ns=gap.ns, until_ns=ns, reason=gap.reason))
        elif not book_ends[at] and not is_open:
            found.append(Gap(ns=ns, reason=Reason(int(events["reason"][at])).name.lower()))
    return found


def _empty(piece: Piece) -> Manifest:
    return Manifest(
        product=piece.product.id,
        day=piece.day,
        quote_increment=f"{piece.product.quote_increment:f}",
        base_increment=f"{piece.product.base_increment:f}",
        base_min_size=f"{piece.product.base_min_size:f}",
    )


def _encoded(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def _session_of(manifest: Manifest, piece: Piece) -> Session | None:
    return next((s for s in manifest.sessions if s.session == piece.session), None)


def _listed(session: Session | None, piece: Piece) -> bool:
    return session is not None and any(part.name == piece.name for part in session.parts)


def _replaced(piece: Piece, before: Session | None) -> bool:
    return before is not None and piece.number == 0 and not piece.live


def _added(manifest: Manifest, piece: Piece, part: Part | None) -> Manifest:
    """The manifest with the piece, whose part is None if there is none to list."""
    before = _session_of(manifest, piece)
    session = before
    if session is None or _replaced(piece, before):
        session = Session(session=piece.session, source=piece.source, live=piece.live)
    if part and not _listed(session, piece):
        session = msgspec.structs.replace(
            session,
            parts=[*session.parts, part],
            gaps=carry_gaps(session.gaps, piece.rows, begins=not session.parts),
            counts=session.counts if piece.counts is None else piece.counts,
        )
    if piece.broke_off and not any(gap.reason == BROKE_OFF for gap in session.gaps):
        gap = Gap(ns=session.last_ns, reason=BROKE_OFF)
        session = msgspec.structs.replace(session, gaps=[*session.gaps, gap])
    others = [s for s in manifest.sessions if s.session != piece.session]
    sessions = sorted([*others, session], key=lambda s: s.session)
    return msgspec.structs.replace(manifest, sessions=sessions)


def _check_fits(manifest: Manifest, piece: Piece) -> None:
    where = f"{piece.product.id} on {manifest.day}"
    if manifest.listed != piece.product:
        raise Unfit(
            f"{where} was recorded with increments {manifest.quote_increment} and "
            f"{manifest.base_increment}; use the same, or another root"
        )
    before = _session_of(manifest, piece)
    if before is None or _replaced(piece, before):
        first_ns = int(piece.rows["ns"][0]) if len(piece.rows) else 0
    else:
        first_ns = before.first_ns
    last_ns = int(piece.rows["ns"][-1]) if len(piece.rows) else first_ns
    for other in manifest.sessions:
        if other.source.startswith(SIMULATED) != piece.source.startswith(SIMULATED):
            raise Unfit(
                f"{where} already holds frames of another kind ({other.source}); simulated and "
                "real ones do not mix, use another root"
            )
        apart = first_ns >= other.last_ns or last_ns <= other.first_ns
        # Live, a collector that was thought dead may have gone on beside the one after it.
        if not piece.live and other.session != piece.session and not apart:
            raise Unfit(
                f"{where} already holds another recording of the same time; use another root"
            )
