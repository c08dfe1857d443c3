"""The folder of one sweep, runs/<sweep>, and what the sweep was started with.

Tune keeps its own files there; sweep.json lies beside them. A sweep may only go on with what it was
started with, otherwise its table would compare trials of different data.
"""

import dataclasses
import hashlib
import re
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from actors.store import Store
from datasets.batches import Part
from datasets.recipe import Recipe
from datasets.samples import Samples
from market.errors import QuaverError
from tune.config import SweepConfig

RUNS = "runs"
FEATURE_ROWS = 1024  # Each costs a page of every column on disk.

# Settings of how a sweep runs, not of what comes out: one that goes on may have others.
_FREE = {f"config.{key}" for key in ("trial_resources", "wait_for_node_s", "max_failures", "spot")}
_IN_WORDS = {
    "products": "the universe",
    "trained": "the products in train",
    "data_sha256": "the samples of train and validation",
}
_NAME = r"(?!.*\.json$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}"  # Files of all sweeps are JSON: the looks.

Splits = dict[str, NDArray[np.bool_]]  # Masks of the samples, by name of the part.


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep was started with: a resumed one must be the same, but for how it runs."""

    config: SweepConfig
    products: tuple[str, ...]
    trained: tuple[str, ...]  # Those of which train holds samples.
    recipe: Recipe
    data_sha256: str


def folder(name: str) -> str:
    """Return the folder of a sweep, relative to the root."""
    return f"{RUNS}/{name}"


def _path(name: str) -> str:
    return f"{folder(name)}/sweep.json"


def check_name(
    store: Store, name: str, resume: bool, config: SweepConfig | None = None
) -> bytes | None:
    """Return what a sweep that goes on was started with, None for one that begins.

    QuaverError where its name is taken, unknown or none, it was started with another `config`, or
    there is no such root.
    """
    if not re.fullmatch(_NAME, name):
        raise QuaverError(
            f"sweep: the name {name!r} may hold letters, digits, '.', '_' and '-', at most 100; it "
            "begins with a letter or a digit and does not end in .json"
        )
    store.check()  # Of a bucket that is not there, nothing exists, and no other call says why.
    path = _path(name)
    known = store.read(path) if store.exists(path) else None
    if resume and known is None:
        raise QuaverError(f"sweep: there is no sweep {name} under {store.root} to resume")
    if not resume and known is not None:
        raise QuaverError(
            f"sweep: {folder(name)} under {store.root} exists; go on with it (--resume), or give "
            "this sweep another name"
        )
    if known is not None and config is not None:
        _check_same(store, name, known, {"config": config})
    return known


def begin(store: Store, name: str, identity: Identity, resume: bool) -> None:
    """Check that the sweep may start or go on, and write down what it is."""
    known = check_name(store, name, resume)
    if known is None:
        store.write(_path(name), msgspec.json.format(msgspec.json.encode(identity)))
    else:
        _check_same(store, name, known, msgspec.structs.asdict(identity))


def _check_same(store: Store, name: str, content: bytes, given: dict[str, Any]) -> None:
    """Check that a sweep was started with these fields of its identity."""
    try:
        known = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError as e:
        raise QuaverError(
            f"sweep: {_path(name)} under {store.root} cannot be read ({e}); start a sweep of "
            "another name"
        ) from None
    now = msgspec.json.decode(msgspec.json.encode(given))
    if others := _others({key: known.get(key) for key in now}, now):
        raise QuaverError(
            f"sweep: {name} was started with another value of {', '.join(others)} (see "
            f"{_path(name)} under {store.root}); go on with what it was started with, or start a "
            "sweep of another name"
        )


def _others(known: Any, now: Any, path: str = "") -> list[str]:
    """Return what differs, by dotted path as a configuration has it."""
    # Encoded, because the order of keys counts in a space.
    if msgspec.json.encode(known) == msgspec.json.encode(now) or path in _FREE:
        return []
    if not isinstance(known, dict) or not isinstance(now, dict) or path == "config.space":
        section, _, key = path.partition(".")
        named = {"config": f"sweep.{key}", "recipe": key}.get(section, section)
        return [_IN_WORDS.get(named, named)]
    found = []
    for key in known | now:
        found += _others(known.get(key), now.get(key), f"{path}.{key}" if path else key)
    return found


def check_unseen(
    store: Store, name: str, recipe: Recipe, samples: Samples, splits: Splits
) -> Identity:
    """Return what the sweep was started with; QuaverError unless these samples, split and recipe.

    With others, its test split may hold what its models were trained on.
    """
    path = _path(name)
    try:
        known = msgspec.json.decode(store.read(path), type=Identity)
    except (FileNotFoundError, msgspec.DecodeError) as e:
        raise QuaverError(f"{path} under {store.root} cannot be read ({e}); sweep again") from None
    now = (recipe, digest(*trained_on(samples, splits)))
    if (known.recipe, known.data_sha256) != now:
        raise QuaverError(
            f"sweep {name} was trained on other samples, another split, other fees or other "
            "signals than these: its test split would not be unseen. Sweep again, under another "
            "name"
        )
    return known


def trained_on(samples: Samples, splits: Splits) -> tuple[Part, Part]:
    """Return the labelled samples of train and of validation."""
    return Part.of(samples, splits["train"]), Part.of(samples, splits["validation"])


def digest(*parts: Part) -> str:
    """Return the SHA-256 of whose beats these are and of their labels, the parts in order.

    Of the other columns it takes some rows from everywhere: other features differ in most rows.
    """
    found = hashlib.sha256()
    for part in parts:
        for name in ("beat", "product", "label"):
            for values in part.column(name):
                found.update(values)
        some = part.take(slice(None, None, len(part) // FEATURE_ROWS + 1))
        for column in dataclasses.fields(some):
            found.update(getattr(some, column.name))
    return found.hexdigest()
