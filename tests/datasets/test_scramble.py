"""Another future and another past are well-formed, and nothing in them is what it was."""

from pathlib import Path

import numpy as np

from actors.raw import read_manifest
from actors.store import Store
from datasets.prefix import Prefix
from datasets.rebuild import windows_of
from datasets.scramble import scrambled_past
from tests.actors.wire import BTC, DAYS, SECOND_NS, START_NS, Walk, assert_same_rows, record

PRICES = ("bid", "ask", "low_ask", "high_bid")


def test_another_future_is_valid_and_differs_in_every_beat(tmp_path: Path) -> None:
    store, walk = Store(str(tmp_path)), Walk(1, (BTC,))
    frames = [
        *walk.snapshots(START_NS),
        *walk.frames(START_NS + SECOND_NS, START_NS + 400 * SECOND_NS),
    ]
    record(store, frames, (BTC,))
    manifest = read_manifest(store, BTC, DAYS[0])
    assert manifest is not None
    whole, prefix = windows_of(store, manifest), Prefix(store, manifest)
    first = int(whole["beat"][0])
    prefix.feed(first + 40)
    assert_same_rows(prefix.cut_off(), whole[:41])
    other = prefix.scrambled(np.random.default_rng(1))
    assert_same_rows(other[:41], whole[:41])
    assert len(other) > 90 and other["valid"][41:].all()
    for name in (*PRICES[:2], "bid_depth", "ask_depth"):
        same = other[name][41:] == whole[name][41 : len(other)]
        assert not same.reshape(len(same), -1).all(axis=1).any(), name
    # The recording's last beat never ended, and no clock makes it so.
    prefix.feed(first + len(whole))
    assert_same_rows(prefix.cut_off(), whole)
    past = scrambled_past(whole, first + 40, np.random.default_rng(1))
    assert_same_rows(past[40:], whole[40:])
    assert past["beat"].tolist() == whole["beat"].tolist()
    assert (past["ask"] >= past["bid"]).all()
    assert past["bid"][1:40].max() > whole["bid"][1:40].max()
    assert past["trade_high"][:40].max() > whole["trade_high"][:40].max()
