"""The windows of a raw partition, rebuilt from it alone; its books are what they were live."""

import numpy as np
from numpy.typing import NDArray

from actors.raw import Manifest, Session, book_sha256, by_start, read_parts
from actors.store import Store
from market.errors import QuaverError
from market.windows import WINDOW, WindowBuilder


def windows_of(store: Store, manifest: Manifest) -> NDArray[np.void]:
    """Return the windows (WINDOW[n]) of a partition, one of each beat, in order.

    Each session is rebuilt alone. Of two that tell of the same beat the one that knows it counts,
    else the later. QuaverError if a session's book is not in the end what the running book was.
    """
    found = [np.zeros(0, WINDOW)]
    for session in by_start(manifest):
        builder = WindowBuilder()
        parts = read_parts(store, manifest, session)
        for part, events in zip(session.parts, parts, strict=True):
            try:
                found.append(builder.feed(events))
            except ValueError as e:
                raise QuaverError(f"{_of(store, manifest)}, {part.name}: {e}") from None
        _check_book(store, manifest, session, builder)
    return one_per_beat(found)


def one_per_beat(sessions: list[NDArray[np.void]]) -> NDArray[np.void]:
    """Return the windows of several sessions (each WINDOW[n], at least one) as `windows_of` has it.

    `sessions` are in order of their start.
    """
    windows = np.concatenate(sessions)
    windows = windows[np.lexsort((windows["valid"], windows["beat"]))]  # Else in the same order.
    newest = np.append(windows["beat"][1:] != windows["beat"][:-1], True)[: len(windows)]
    return windows[newest]


def _check_book(store: Store, manifest: Manifest, session: Session, builder: WindowBuilder) -> None:
    """Compare the book at a session's end with the running one, where it was known."""
    known = not session.gaps or session.gaps[-1].until_ns is not None
    if session.book_sha256 and known and book_sha256(builder) != session.book_sha256:
        raise QuaverError(
            f"{_of(store, manifest)}: the rows of session {session.session} do not give the book "
            "that was known when it ended, so some are missing or wrong; import the captures "
            "again, or remove this partition"
        )


def _of(store: Store, manifest: Manifest) -> str:
    return f"raw partition of {manifest.product} on {manifest.day} in {store.root}"
