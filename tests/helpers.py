"""What several tests share: the recordings, and the product's own path over them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from actors.raw import partitions, read_manifest, read_partition
from actors.store import Store
from datasets.build import windows_of
from datasets.imports import import_capture, parse_increments

Quaver = Callable[..., "subprocess.Popen[str]"]  # Starts the command line with arguments.
RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "data"


def recording(name: str) -> Path:
    """Return a recording's path; skip the test where it is absent."""
    path = RECORDINGS / name
    if not path.exists():
        pytest.skip(f"recording {name} is not here")
    return path


def import_into(store: Store, path: Path, increments: dict[str, tuple[str, str]]) -> None:
    """Import a capture, its format told by its name."""
    wire_format = "coinbase-advanced" if path.name.startswith("advanced") else "coinbase-exchange"
    grids = dict(parse_increments(f"{p}={q},{b}") for p, (q, b) in increments.items())
    import_capture(store, path, wire_format, grids)


def replay_windows(
    path: Path, increments: dict[str, tuple[str, str]], root: Path
) -> dict[str, NDArray[np.void]]:
    """Return the windows of a capture through import, raw partitions and rebuild, per product."""
    store = Store(str(root))
    import_into(store, path, increments)
    found: dict[str, list[NDArray[np.void]]] = {}
    for product_id, day in partitions(store):
        manifest = read_manifest(store, product_id, day)
        assert manifest is not None
        found.setdefault(product_id, []).append(windows_of(read_partition(store, manifest)))
    return {product_id: np.concatenate(days) for product_id, days in found.items()}


@contextmanager
def commands() -> Iterator[Quaver]:
    """Give a function that starts the command line; what is left of it at the end is ended."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", "from cluster.cli import main; main()", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
            start_new_session=True,  # With a process group of its own, as a shell gives it.
        )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                family = psutil.Process(process.pid).children(recursive=True)
                for member in [process, *family]:
                    member.kill()
            process.communicate()
