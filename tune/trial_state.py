"""How far a trial is: one file of the store, from which it goes on wherever it is started next.

Its own file rather than a checkpoint of Tune's: it is there whole or not at all, counts from the
moment that it is written (Tune's counts once the driver has noted it down), can be written in the
middle of an epoch, and a server that is away is waited for.
"""

import hashlib

import msgspec

from actors.patience import patiently
from actors.store import Store
from market.errors import QuaverError
from tune.checkpoint import TrainState, pack, unpack
from tune.training import EpochMetrics

FILE = "state.msgpack"
_SHA256_BYTES = 32


class Epoch(msgspec.Struct, frozen=True):
    """A finished epoch."""

    metrics: EpochMetrics
    seconds: float  # That it took, as far as it was not lost.


class TrialState(msgspec.Struct, frozen=True):
    """A training run, after `epoch` epochs and `batch` batches of the next one."""

    epoch: int
    batch: int
    epochs: tuple[Epoch, ...]
    content: bytes  # Of `checkpoint.pack`.


class TrialFile:
    """The state of one trial, in its folder; while the server is away its methods wait."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._path = f"{folder}/{FILE}"

    def read(self) -> TrialState | None:
        """Return the state, None if there is none; QuaverError if it is damaged."""
        try:
            found = patiently(lambda: self._store.read(self._path))
        except FileNotFoundError:
            return None
        return self._decoded(found)

    def load(self) -> TrainState | None:
        """Return the training run of the state; None and QuaverError as in `read`."""
        known = self.read()
        return None if known is None else unpack(known.content)

    def write(self, state: TrainState, epochs: tuple[Epoch, ...]) -> None:
        """Put a state in place, unless there is one that is further.

        Two may write: a machine that was given up for lost may still train.
        """
        mine = TrialState(state.epoch, state.batch, epochs, pack(state))
        encoded = encode(mine)

        def further(before: bytes | None) -> bytes:
            known = None if before is None else self._decoded(before)
            if known is None or (known.epoch, known.batch) < (mine.epoch, mine.batch):
                return encoded
            assert before is not None
            return before

        patiently(lambda: self._store.update(self._path, further))

    def _decoded(self, content: bytes) -> TrialState:
        try:
            return decode(content)
        except ValueError as e:
            raise QuaverError(
                f"{self._path} under {self._store.root} is damaged or of another version ({e}); "
                "sweep again, under another name"
            ) from None


def encode(state: TrialState) -> bytes:
    """Return the content of a file: its SHA-256, by which any damage is found, and the state."""
    encoded = msgspec.msgpack.encode(state)
    return hashlib.sha256(encoded).digest() + encoded


def decode(content: bytes) -> TrialState:
    """Return the state of a file; ValueError where it is damaged or of another version."""
    view = memoryview(content)
    digest, encoded = view[:_SHA256_BYTES], view[_SHA256_BYTES:]
    if hashlib.sha256(encoded).digest() != digest:
        raise ValueError("its SHA-256 does not agree")
    return msgspec.msgpack.decode(encoded, type=TrialState)
