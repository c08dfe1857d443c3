"""The look-ahead check sees signals too."""

from pathlib import Path

import numpy as np
import pytest

from actors.raw import partitions
from actors.store import Store
from datasets import partition
from datasets.leakage import Finding, check_features
from datasets.partition import build_samples, build_windows
from datasets.recipe import Recipe
from market.signals import SignalsConfig, signals
from tests.actors.wire import BTC, DAYS, MIDNIGHT_NS, SECOND_NS, Walk, record

RECIPE = Recipe(signals=SignalsConfig(**dict.fromkeys(SignalsConfig.__struct_fields__, True)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a root with ten minutes of windows on each side of midnight."""
    store, walk, half = Store(str(tmp_path)), Walk(1, (BTC,)), 600 * SECOND_NS
    frames = walk.snapshots(MIDNIGHT_NS - half)
    frames += walk.frames(MIDNIGHT_NS - half + SECOND_NS, MIDNIGHT_NS + half)
    record(store, frames, (BTC,))
    for product_id, day in partitions(store):
        build_windows(store, product_id, day)
    return store


def found_in(store: Store) -> list[Finding]:
    for product_id, day in partitions(store):
        build_samples(store, product_id, day, RECIPE)
    checked = check_features(store, RECIPE, [(BTC, DAYS[0])], 40, 1)
    assert checked[0].samples > 50
    return [finding for day in checked for finding in day.findings]


def test_signals_leak_nothing(store: Store) -> None:
    assert found_in(store) == []


def test_a_signal_that_knows_the_next_beat_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ahead(*given) -> np.ndarray:  # type: ignore[no-untyped-def]
        found = signals(*given)
        found[:-1, 0] = found[1:, 0]
        return found

    monkeypatch.setattr(partition, "signals", ahead)
    found = found_in(store)
    assert [(one.table, one.column, one.built_so) for one in found] == [
        ("samples", "signals", True)
    ]
