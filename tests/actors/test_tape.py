"""The trade tape against a plain set of all ids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import tape
from actors.tape import Tape
from market.events import EVENT

BATCHES = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=8), max_size=12)


@given(BATCHES, st.booleans())
def test_every_id_counts_once_and_holes_are_what_is_missing_between(
    batches: list[list[int]], rising: bool
) -> None:
    found, seen, duplicates = Tape(), set[int](), 0
    for batch in batches:
        rows = np.zeros(len(batch), EVENT)
        rows["trade_id"] = batch
        fresh = sorted(set(batch) - seen)
        in_order = batch == fresh and (not seen or batch[0] > max(seen))
        if rising and found.rising(rows["trade_id"]):
            assert in_order
        else:
            assert not (rising and in_order)
            assert found.new(rows)["trade_id"].tolist() == fresh
        duplicates += len(batch) - len(fresh)
        seen |= set(batch)
        assert found.duplicates == duplicates
        assert found.holes == max(seen) - min(seen) + 1 - len(seen)


def test_what_is_waited_for_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "MOST_MISSING", 3)
    found = Tape()
    assert found.rising(np.array([1, 10**15], np.int64))
    assert found.holes == 10**15 - 2
    rows = np.zeros(4, EVENT)
    rows["trade_id"] = np.arange(10**15 - 4, 10**15)
    assert found.new(rows)["trade_id"].tolist() == list(range(10**15 - 3, 10**15))
    assert found.duplicates == 1
