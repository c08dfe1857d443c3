"""Whoever looks at a test split is counted, once a model."""

from pathlib import Path

import numpy as np
import pytest

from actors.store import Store
from datasets.batches import Part
from market.errors import QuaverError
from tune.looks import LOOKS_PATH, Looks, look


def test_another_model_is_another_look_and_the_same_one_is_none(make_samples, tmp_path) -> None:
    store, samples = Store(str(tmp_path)), make_samples(500)
    test, other = (Part(samples, np.arange(*rows)) for rows in ((300, 400), (400, 500)))
    steps = [
        (test, b"one", "first", Looks(models=1, of_this_sweep=1, number=1)),
        (test, b"one", "first", Looks(models=1, of_this_sweep=1, number=1)),
        (test, b"two", "first", Looks(models=2, of_this_sweep=2, number=2)),
        (test, b"three", "second", Looks(models=3, of_this_sweep=1, number=3)),
        (test, b"one", "first", Looks(models=3, of_this_sweep=2, number=1)),
        (other, b"one", "first", Looks(models=1, of_this_sweep=1, number=1)),
    ]
    for part, model, sweep, wanted in steps:
        assert look(store, part, model, sweep, "2026-08-09 10:00 UTC") == wanted


def test_a_record_that_cannot_be_read_is_no_empty_one(make_samples, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write(LOOKS_PATH, b'[{"sweep"')
    with pytest.raises(QuaverError, match=r"test-looks\.json .* cannot be read"):
        look(store, Part(make_samples(50), np.arange(50)), b"one", "first", "now")
    assert store.read(LOOKS_PATH) == b'[{"sweep"'
