"""How often a test split was looked at, kept under the root beside the sweeps.

A test says what a model is worth once. Who looks at it with several models and keeps the best has
made it a second validation split, so every report counts and says the looks.
"""

import msgspec

from actors.store import Store, sha256
from datasets.batches import Part
from market.errors import QuaverError
from tune.run_folder import RUNS, digest

LOOKS_PATH = f"{RUNS}/test-looks.json"


class Look(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model that was judged on a test split; judging it again shows nothing new."""

    test_sha256: str  # Of the labelled samples of the split.
    model_sha256: str  # Of the model's file.
    sweep: str
    created: str  # When it first looked.


class Looks(msgspec.Struct, frozen=True, kw_only=True):
    """The looks at one test split."""

    models: int  # How many have looked at it by now, this one included.
    of_this_sweep: int
    number: int  # Which of them this one was, from 1.


def look(store: Store, test: Part, model: bytes, sweep: str, now: str) -> Looks:
    """Note that a model looks at a test split, before it does; return the looks so far.

    QuaverError where the record cannot be read: what nobody knows cannot be counted.
    """
    mine = Look(
        test_sha256=digest(test),
        model_sha256=sha256(model),
        sweep=sweep,
        created=now,
    )
    found: list[Look] = []

    def noted(before: bytes | None) -> bytes:
        found[:] = _decoded(store, before)
        if not any(_same(mine, each) for each in found):
            found.append(mine)
        return msgspec.json.format(msgspec.json.encode(found), indent=2)

    store.update(LOOKS_PATH, noted)
    here = [each for each in found if each.test_sha256 == mine.test_sha256]
    number = next(at for at, each in enumerate(here, 1) if _same(mine, each))
    return Looks(
        models=len(here), of_this_sweep=sum(each.sweep == sweep for each in here), number=number
    )


def _same(one: Look, other: Look) -> bool:
    return (one.test_sha256, one.model_sha256) == (other.test_sha256, other.model_sha256)


def _decoded(store: Store, data: bytes | None) -> list[Look]:
    try:
        return msgspec.json.decode(data or b"[]", type=list[Look])
    except msgspec.DecodeError as e:
        raise QuaverError(
            f"{LOOKS_PATH} under {store.root} cannot be read ({e}): nobody would know how often "
            "the test split was looked at; put back the file, or remove it and say so"
        ) from None
