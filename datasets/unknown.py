"""When a recorded book was not known, and why, as the sessions of a manifest tell it.

A day may have several sessions, one after the other or beside each other where a collector that was
thought dead went on. The book is unknown only where none of them knew it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from actors.raw import Manifest, Session, by_start

NOT_RECORDED = "not recorded"  # Outside of every session.


class Unknown(NamedTuple):
    """A stretch of time in which the book was not known."""

    ns: int
    until_ns: int
    reason: str


def unknown(manifest: Manifest | None, from_ns: int, to_ns: int) -> list[Unknown]:
    """Return the stretches of [from, to) in which no session knew the book, in order.

    None overlap; one may have no length. Each has the reason of the latest session that was there,
    else that of the last before it. A gap without an end lasts until another session knows more.
    """
    found = [_Lost(from_ns, to_ns, (0, 0), NOT_RECORDED)]
    for session in by_start(manifest) if manifest else []:
        found = list(_both(found, _lost_in(session, from_ns, to_ns)))
    told: list[Unknown] = []
    for ns, until_ns, _, reason in found:
        if told and told[-1][:2] == (ns, until_ns):
            continue  # A moment at the border of two stretches.
        if told and told[-1].until_ns == ns and told[-1].reason == reason:
            ns = told.pop().ns
        told.append(Unknown(ns, until_ns, reason))
    return told


class _Lost(NamedTuple):
    """What one session, or several together, do not know of [ns, until_ns)."""

    ns: int
    until_ns: int
    rank: tuple[int, int]  # Of the reason; the highest is told.
    reason: str


def _lost_in(session: Session, from_ns: int, to_ns: int) -> list[_Lost]:
    """What a session does not know, in order; before and after it there is nothing that it does."""
    first_ns, last_ns = session.first_ns, session.last_ns
    found = [_Lost(from_ns, first_ns, (0, 0), NOT_RECORDED)] if from_ns < first_ns else []
    at = max(from_ns, first_ns)
    for gap in session.gaps:
        until_ns = last_ns if gap.until_ns is None else min(gap.until_ns, last_ns)
        # What an earlier gap holds already is not told again.
        if max(gap.ns, at) < until_ns or gap.ns == max(gap.ns, at) == until_ns:
            found.append(_Lost(max(gap.ns, at), until_ns, (2, first_ns), gap.reason))
            at = until_ns
    endless = [gap.reason for gap in session.gaps if gap.until_ns is None]
    why = endless[-1] if endless else NOT_RECORDED
    if last_ns < to_ns:
        found.append(_Lost(max(from_ns, last_ns), to_ns, (1, last_ns), why))
    return [
        lost._replace(until_ns=min(lost.until_ns, to_ns))
        for lost in found
        if lost.ns < min(lost.until_ns, to_ns) or lost.ns == lost.until_ns <= to_ns
    ]


def _both(some: list[_Lost], others: list[_Lost]) -> Iterator[_Lost]:
    """Yield what is in both, with the reason that ranks higher."""
    i = j = 0
    while i < len(some) and j < len(others):
        one, other = some[i], others[j]
        ns, until_ns = max(one.ns, other.ns), min(one.until_ns, other.until_ns)
        moment = one.ns == one.until_ns or other.ns == other.until_ns
        if ns < until_ns or (ns == until_ns and moment):
            why = max(one, other, key=lambda lost: lost.rank)
            yield _Lost(ns, until_ns, why.rank, why.reason)
        if one.until_ns <= other.until_ns:
            i += 1
        else:
            j += 1
