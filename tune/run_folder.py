"""The folder of one sweep, runs/<sweep>, and what the sweep was started with.

Tune keeps its own files there; sweep.json lies beside them. A sweep may only go on with what it was
started with, otherwise its table would compare trials of different data.
"""

import hashlib

import msgspec
import numpy as np

from actors.store import Store
from datasets.samples import Samples
from market.actions import Fees
from market.errors import QuaverError
from tune.config import SweepConfig

RUNS = "runs"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep was started with: a resumed one must be the same."""

    config: SweepConfig
    products: tuple[str, ...]
    fees: Fees
    horizon: int
    data_sha256: str


def folder(name: str) -> str:
    """Return the folder of a sweep, relative to the root."""
    return f"{RUNS}/{name}"


def begin(store: Store, name: str, identity: Identity, resume: bool) -> None:
    """Check that the sweep may start or go on, and write down what it is."""
    path = f"{folder(name)}/sweep.json"
    known = store.read(path) if store.exists(path) else None
    if resume and known is None:
        raise QuaverError(f"sweep: there is no sweep {name} under {store.root} to resume")
    if not resume and known is not None:
        raise QuaverError(
            f"sweep: {folder(name)} under {store.root} exists; resume it, or give this sweep "
            "another name"
        )
    content = msgspec.json.format(msgspec.json.encode(identity))
    if known is None:
        store.write(path, content)
    elif known != content:
        raise QuaverError(
            f"sweep: {name} was started with another configuration, universe, fees, horizon or "
            f"samples (see {path} under {store.root}); start a sweep of another name"
        )


def digest(*parts: Samples) -> str:
    """Return the SHA-256 of whose beats these are and of their labels, the parts in order."""
    found = hashlib.sha256()
    for part in parts:
        for column in (part.beat, part.product, part.label):
            found.update(np.ascontiguousarray(column).tobytes())
    return found.hexdigest()
