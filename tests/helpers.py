"""What several tests share: the recordings, and the product's own path over them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.raw import partitions, read_manifest
from actors.store import Store
from datasets.imports import import_capture, parse_increments
from datasets.rebuild import windows_of

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
        found.setdefault(product_id, []).append(windows_of(store, manifest))
    return {product_id: np.concatenate(days) for product_id, days in found.items()}
