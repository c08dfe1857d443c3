"""How far a trial is: one file of the store, from which it goes on wherever it is started next.

Its own file rather than a checkpoint of Tune's: it is there whole or not at all, counts from the
moment that it is written (Tune's counts once the driver has noted it down), can be written in the
middle of an epoch, and a server that is away is waited for.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from actors.patience import patiently
from actors.store import Store
from market.errors import QuaverError
from tune.checkpoint import STATE_FILE, TrainState, load_state, save_state
from tune.training import EpochMetrics

FILE = "state.msgpack"


class Epoch(msgspec.Struct, frozen=True):
    """A finished epoch."""

    metrics: EpochMetrics
    seconds: float  # That it took, as far as it was not lost.


class TrialState(msgspec.Struct, frozen=True):
    """A training run, after `epoch` epochs and `batch` batches of the next one."""

    epoch: int
    batch: int
    epochs: tuple[Epoch, ...]
    content: bytes  # As `checkpoint.save_state` writes it.


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
        if known is None:
            return None
        with as_directory(known) as directory:
            assert directory is not None
            return load_state(directory)

    def write(self, state: TrainState, epochs: tuple[Epoch, ...]) -> None:
        """Put a state in place, unless there is one that is further.

        Two may write: a machine that was given up for lost may still train.
        """
        with tempfile.TemporaryDirectory() as directory:
            save_state(state, Path(directory))
            content = (Path(directory) / STATE_FILE).read_bytes()
        mine = TrialState(state.epoch, state.batch, epochs, content)
        encoded = msgspec.msgpack.encode(mine)

        def further(before: bytes | None) -> bytes:
            known = None if before is None else self._decoded(before)
            if known is None or (known.epoch, known.batch) < (mine.epoch, mine.batch):
                return encoded
            assert before is not None
            return before

        patiently(lambda: self._store.update(self._path, further))

    def _decoded(self, content: bytes) -> TrialState:
        try:
            return msgspec.msgpack.decode(content, type=TrialState)
        except msgspec.DecodeError as e:
            raise QuaverError(
                f"{self._path} under {self._store.root} is damaged or of another version ({e}); "
                "sweep again, under another name"
            ) from None


@contextmanager
def as_directory(known: TrialState | None) -> Iterator[Path | None]:
    """Give a directory of `checkpoint.save_state` for a while; None for no state."""
    if known is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / STATE_FILE).write_bytes(known.content)
        yield Path(directory)
