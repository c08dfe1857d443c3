"""A small sweep in a process of its own, to be killed; what its trials do is logged.

python -m tests.tune.spot_sweep <address of Ray> <data root> <log> [--resume]
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import ray

from actors.store import Store
from datasets.sample_cache import samples_under
from datasets.splits import split_by_time
from tests.tune.conftest import PRODUCTS
from tests.tune.small_sweep import PRODUCTS as PRODUCT_IDS
from tests.tune.small_sweep import RECIPE
from tune.config import SweepConfig, TrainConfig
from tune.models import SeedConfig
from tune.spot import SpotConfig
from tune.sweep import run_sweep
from tune.trial_state import FILE, decode

NAME, EPOCHS = "spot", 20
CONFIG = SweepConfig(
    # Small batches, so that an epoch takes some tenths of a second.
    train=TrainConfig(
        model=SeedConfig(products=PRODUCTS, lstm_hidden=8, book_hidden=(32,), embedding_dim=4),
        epochs=EPOCHS,
        batch_size=8,
        learning_rate=3e-3,
    ),
    space={"objective": ["mse", "bce"], "seed": [0, 1]},
)


class LoggedStore(Store):
    """Notes down when the state of a trial was read, was ready and was in place.

    While there is a file beside the log that says how many states may be written, no more are.
    """

    def __init__(self, root: str, log: str) -> None:
        super().__init__(root)
        self._log = log

    def __reduce__(self) -> tuple[type["LoggedStore"], tuple[str, str]]:
        return (LoggedStore, (self.root, self._log))

    def read(self, path: str) -> bytes:
        at = time.time()
        try:
            found = super().read(path)
        except FileNotFoundError:
            self._note(at, "read", path, None)
            raise
        self._note(at, "read", path, found)
        return found

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        mine = change(None)
        self._note(time.time(), "ready", path, mine)
        while self._saved() >= self._allowed():
            time.sleep(0.02)
        super().update(path, change)
        self._note(time.time(), "saved", path, mine)

    def _saved(self) -> int:
        return sum(line["what"] == "saved" for line in lines(self._log))

    def _allowed(self) -> float:
        try:
            return int(allowance(self._log).read_text())
        except FileNotFoundError:
            return math.inf

    def _note(self, at: float, what: str, path: str, content: bytes | None) -> None:
        if not path.endswith(FILE):
            return
        progress = progress_of(content)
        note(self._log, at, what, trial=path.split("/")[-2], pid=os.getpid(), of=progress)


def progress_of(content: bytes | None) -> tuple[int, int]:
    """Return how many epochs a state has, and how many batches of the next."""
    if content is None:
        return 0, 0
    state = decode(content)
    return state.epoch, state.batch


def allowance(log: str) -> Path:
    """Return the file that says how many states may be written."""
    return Path(f"{log}.allowance")


def notice(log: str) -> Path:
    """Return the file that tells trials of their machine's end."""
    return Path(f"{log}.notice")


def lines(log: str) -> list[dict[str, Any]]:
    """Return what was noted down."""
    try:
        return [json.loads(line) for line in Path(log).read_text().splitlines()]
    except FileNotFoundError:
        return []


def note(log: str, at: float, what: str, **more: Any) -> None:
    """Append a line, whole, to a log that several processes write."""
    opened = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(opened, json.dumps({"at": at, "what": what, **more}).encode() + b"\n")
    finally:
        os.close(opened)


def main(address: str, root: str, log: str, *options: str) -> None:
    """Run the sweep on the Ray at `address`, or go on with it."""
    ray.init(address=address, log_to_driver=False, logging_level="error")
    store = LoggedStore(root, log)
    samples = samples_under(Store(root), RECIPE)
    spot = SpotConfig(notice_file=str(notice(log)), poll_s=0.05)
    run_sweep(
        samples,
        split_by_time(samples.open().beat),
        msgspec.structs.replace(CONFIG, spot=spot),
        name=NAME,
        store=store,
        products=PRODUCT_IDS,
        resume="--resume" in options,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
