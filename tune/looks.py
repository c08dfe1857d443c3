"""How often a test split was looked at, kept under the root beside the sweeps.

A test says what a model is worth once. Who looks at it with several models, or with one that trades
by several settings, and keeps the best has made it a second validation split, so every report
counts and says the looks. It is the time that is unseen: splits that overlap are one, whatever
their signals and fees are.
"""

import msgspec

from actors.store import Store, sha256
from datasets.batches import Part
from market.errors import QuaverError
from market.trader import TraderConfig
from tune.run_folder import RUNS

LOOKS_PATH = f"{RUNS}/test-looks.json"


class Look(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model that was judged on a test split; judging it so again shows nothing new."""

    first_beat: int  # Of the split.
    last_beat: int
    model_sha256: str  # Of the model's file.
    trader: TraderConfig
    sweep: str
    created: str  # When it first looked.


class Looks(msgspec.Struct, frozen=True, kw_only=True):
    """The looks at one test split, each of another model or with other trading settings."""

    looks: int  # So far, this one included.
    of_this_sweep: int
    number: int  # Which of them this one was, from 1.


def look(
    store: Store, test: Part, model: bytes, trader: TraderConfig, sweep: str, now: str
) -> Looks:
    """Note that a model looks at a test split, before it does; return the looks so far.

    QuaverError where the record cannot be read: what nobody knows cannot be counted.
    """
    beats = test.samples.beat[test.rows]
    mine = Look(
        first_beat=int(beats.min()),
        last_beat=int(beats.max()),
        model_sha256=sha256(model),
        trader=trader,
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
    here = [
        each
        for each in found
        if each.first_beat <= mine.last_beat and mine.first_beat <= each.last_beat
    ]
    number = next(at for at, each in enumerate(here, 1) if _same(mine, each))
    return Looks(
        looks=len(here), of_this_sweep=sum(each.sweep == sweep for each in here), number=number
    )


def _same(one: Look, other: Look) -> bool:
    what = ("first_beat", "last_beat", "model_sha256", "trader")
    return all(getattr(one, name) == getattr(other, name) for name in what)


def _decoded(store: Store, data: bytes | None) -> list[Look]:
    try:
        return msgspec.json.decode(data or b"[]", type=list[Look])
    except msgspec.DecodeError as e:
        raise QuaverError(
            f"{LOOKS_PATH} under {store.root} cannot be read ({e}): nobody would know how often "
            "the test split was looked at; put back the file, or remove it and say so"
        ) from None
