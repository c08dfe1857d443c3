"""Whoever looks at a test split is counted, once a model."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from actors.store import Store
from datasets.batches import Part
from market.errors import QuaverError
from market.trader import TraderConfig
from tune.looks import LOOKS_PATH, Looks, look

TRADER = TraderConfig()
EAGER = TraderConfig(min_edge_bps=0.5)


def test_another_model_is_another_look_and_the_same_one_is_none(make_samples, tmp_path) -> None:
    store, samples = Store(str(tmp_path)), make_samples(500)
    samples.beat.sort()
    test, later = (Part(samples, np.arange(*rows)) for rows in ((300, 390), (400, 500)))
    across = Part(samples, np.arange(380, 450))
    steps = [
        (test, b"one", "first", Looks(looks=1, of_this_sweep=1, number=1)),
        (test, b"one", "first", Looks(looks=1, of_this_sweep=1, number=1)),
        (test, b"two", "first", Looks(looks=2, of_this_sweep=2, number=2)),
        (test, b"three", "second", Looks(looks=3, of_this_sweep=1, number=3)),
        (test, b"one", "first", Looks(looks=3, of_this_sweep=2, number=1)),
        (later, b"one", "first", Looks(looks=1, of_this_sweep=1, number=1)),
        (across, b"four", "third", Looks(looks=5, of_this_sweep=1, number=5)),
        (test, b"one", "first", Looks(looks=4, of_this_sweep=2, number=1)),
    ]
    for part, model, sweep, wanted in steps:
        assert look(store, part, model, TRADER, sweep, "2026-08-09 10:00 UTC") == wanted


def test_other_trading_settings_are_another_look(make_samples, tmp_path) -> None:
    store, part = Store(str(tmp_path)), Part(make_samples(500), np.arange(100))
    for number, trader in ((1, TRADER), (2, EAGER), (2, EAGER)):
        found = look(store, part, b"one", trader, "first", "now")
        assert (found.looks, found.number) == (number, number)


@pytest.mark.parametrize("changed", ["signals", "label"])
def test_the_same_beats_with_other_signals_or_fees_are_the_same_test(
    changed: str, make_samples, tmp_path
) -> None:
    store, samples = Store(str(tmp_path)), make_samples(500)
    columns = {"signals": np.ones((500, 2)), "label": samples.label - 0.5}
    other = dataclasses.replace(samples, **{changed: columns[changed]})
    rows = np.arange(300, 400)
    look(store, Part(samples, rows), b"one", TRADER, "first", "now")
    found = look(store, Part(other, rows), b"two", TRADER, "second", "now")
    assert found == Looks(looks=2, of_this_sweep=1, number=2)


def test_a_record_that_cannot_be_read_is_no_empty_one(make_samples, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write(LOOKS_PATH, b'[{"sweep"')
    with pytest.raises(QuaverError, match=r"test-looks\.json .* cannot be read"):
        look(store, Part(make_samples(50), np.arange(50)), b"one", TRADER, "first", "now")
    assert store.read(LOOKS_PATH) == b'[{"sweep"'
