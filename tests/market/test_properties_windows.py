"""The window builder against the plain reference, under hostile events (sections 1 to 3).

Every field of every window, the book itself and its state, after every few frames.
"""

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.events import ASK, BID, EVENT, Kind
from market.features import FeatureBuilder, Features, features
from market.windows import WINDOW, WindowBuilder
from tests.market.acts import BEAT_NS, Scenario
from tests.market.hostile import CALM, TROUBLE, Stream, as_dicts, fed, scenarios
from tests.reference.events import EventReference


def assert_same_windows(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Equal beats and fields; names the first difference."""
    for ours, record in zip(found, wanted, strict=True):
        differing = {name: (ours[name], v) for name, v in record.items() if ours[name] != v}
        assert not differing, f"beat {record['beat']}: (found, wanted) {differing}"


def assert_same_book(builder: WindowBuilder, reference: EventReference) -> None:
    """Equal state, and, of a known book, equal levels, best first."""
    assert builder.synced == reference.synced
    assert builder.clock_ns == reference.clock
    assert reference.reason is None or builder.reason == reference.reason
    if reference.synced:
        for side, levels in zip((BID, ASK), builder.levels(), strict=True):
            held = sorted(reference.book[side].items(), reverse=side == BID)
            assert levels.dtype == np.int64 and levels.shape == (len(held), 2)
            assert levels.tolist() == [list(level) for level in held]


def follow(scenario: Scenario, group: int) -> Stream:
    """Feed product and reference alike, comparing them after every `group` frames."""
    stream = Stream(scenario)
    builder, waiting, compared = WindowBuilder(), [], 0
    for i, frame in enumerate(stream.frames(), start=1):
        waiting.append(frame)
        if i % group == 0 or i == scenario.frames:
            found = as_dicts(builder.feed(np.concatenate(waiting)))
            assert_same_windows(found, stream.reference.records[compared:])
            assert_same_book(builder, stream.reference)
            compared += len(found)
            waiting = []
    return stream


def shown_by(record: dict[str, Any]) -> set[str]:
    """Which of the places that the streams are meant to reach a record shows."""
    if not record["valid"]:
        return {"invalid"}
    bid, ask = record["bid"], record["ask"]
    depth = record["bid_depth"] + record["ask_depth"]
    shown = {
        "valid": True,
        "median of at most 4 ticks": bid + ask <= 8,
        "median above 2^50 ticks": bid + ask > 2**51,
        "one tick apart": ask - bid == 1,
        "sides a thousandfold apart": ask > 1000 * bid,
        "best ask above 1e12, best bid below": ask > 10**12 > bid,
        "best ask above 2^56": ask > 2**56,
        "last bucket of both sides": record["bid_depth"][-1] > 0 < record["ask_depth"][-1],
        "more than 1e13 lots": max(depth) > 10**13,
        "more than 2^56 lots": max(depth) > 2**56,
        "ask lower within the beat": record["low_ask"] < ask,
        "bid higher within the beat": record["high_bid"] > bid,
        "no trade": record["trades"] == 0,
        "trades of both sides": record["buy_lots"] > 0 < record["sell_lots"],
        "no change": record["updates"] == 0,
        "hundreds of changes": record["updates"] > 500,
    }
    return {name for name, reached in shown.items() if reached}


def sweep(cases: int, frames: int) -> Counter[str]:
    """Follow that many scenarios; return what was reached how often, in streams and records."""
    reached: Counter[str] = Counter()

    @settings(max_examples=cases, derandomize=True, deadline=None)
    @given(scenarios(frames), st.sampled_from([1, 3, 20]))
    def run(scenario: Scenario, group: int) -> None:
        stream = follow(scenario, group)
        reached.update(stream.reached)
        for before, record in pairwise([{"bid": 0}, *stream.reference.records]):
            reached.update(shown_by(record))
            if before["bid"] and record["bid"]:
                reached["tenfold up"] += record["bid"] >= 10 * before["bid"]
                reached["tenfold down"] += 10 * record["bid"] <= before["bid"]

    run()
    return reached


# Acts that leave a sound book sound, acts that do not, and what records show: each must be met.
REACHED = {
    *CALM,
    *(act for act in TROUBLE if act.startswith("snapshot")),
    *(f"{act} unsyncs" for act in TROUBLE),
    *("up", "down", "tenfold up", "tenfold down", "invalid", "valid"),
    *("median of at most 4 ticks", "median above 2^50 ticks", "one tick apart"),
    *("sides a thousandfold apart", "best ask above 1e12, best bid below", "best ask above 2^56"),
    *("last bucket of both sides", "more than 1e13 lots", "more than 2^56 lots"),
    *("ask lower within the beat", "bid higher within the beat", "hundreds of changes"),
    *("no trade", "trades of both sides", "no change"),
}


def test_hostile_streams_give_the_windows_and_books_of_the_reference() -> None:
    reached = sweep(80, 100)
    assert {name for name in REACHED if not reached[name]} == set()


@pytest.mark.slow
def test_many_hostile_streams_give_the_windows_and_books_of_the_reference() -> None:
    reached = sweep(400, 120)
    assert {name for name in REACHED if reached[name] < 10} == set()


@pytest.mark.slow
def test_long_hostile_streams_give_the_windows_and_books_of_the_reference() -> None:
    sweep(8, 2500)


def assert_same_bits(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal windows, field by field: the padding between fields means nothing."""
    assert found.dtype == wanted.dtype == WINDOW
    for name in WINDOW.names or ():
        assert found[name].tobytes() == wanted[name].tobytes(), name


def assert_same_features(found: list[Features], wanted: Features) -> None:
    """Equal features in all their parts, joined in order."""
    for part, values in enumerate(wanted):
        joined = np.concatenate([features[part] for features in found])
        assert joined.dtype == values.dtype and joined.tobytes() == values.tobytes()


def parity(cases: int, frames: int) -> Counter[str]:
    """Cut that many streams in every way and compare; return how much there was to compare."""
    compared: Counter[str] = Counter()

    @settings(max_examples=cases, derandomize=True, deadline=None)
    @given(scenarios(frames, (2, 4)), st.data())
    def run(scenario: Scenario, data: st.DataObject) -> None:
        frames = list(Stream(scenario).frames())
        events = np.concatenate(frames)
        batch = fed([events])
        cuts = data.draw(st.lists(st.integers(0, len(events)), max_size=12), label="cuts")
        by_row = [events[i : i + 1] for i in range(len(events))]
        for parts in (frames, by_row, np.split(events, sorted(cuts))):
            assert_same_bits(fed(parts), batch)
        sealed = np.repeat(events, 2)[::2]  # Neither contiguous nor writeable.
        sealed.flags.writeable = False
        assert_same_bits(fed([sealed]), batch)
        ends = set(np.cumsum([len(frame) for frame in frames]).tolist())
        compared["cuts within a frame"] += len(set(cuts) - ends)

        whole = features(batch, 0.01)
        builder = FeatureBuilder(0.01)
        pushed = [builder.push(batch[i : i + 1]) for i in range(len(batch))]
        assert_same_features([features(batch[:0], 0.01), *pushed], whole)
        step = data.draw(st.integers(1, 200), label="windows per chunk")
        chunks = [batch[max(i - 68, 0) : i + step] for i in range(0, len(batch), step)]
        assert_same_features(
            [features(batch[:0], 0.01), *(features(c, 0.01) for c in chunks)], whole
        )
        compared["windows"] += len(batch)
        compared["samples"] += len(whole.beats)

    run()
    return compared


def test_incremental_equals_batch_by_row_by_frame_and_in_any_chunks_bit_for_bit() -> None:
    compared = parity(30, 120)
    assert compared["cuts within a frame"] > 30
    assert compared["windows"] > 1500 and compared["samples"] > 30


@pytest.mark.slow
def test_incremental_equals_batch_in_many_streams() -> None:
    compared = parity(80, 200)
    assert compared["windows"] > 5000 and compared["samples"] > 300


def carried_over(scenario: Scenario, chance: float) -> tuple[list[dict[str, Any]], Stream, int]:
    """Start afresh from the carried book at borders; windows, the stream, and how often."""
    draw = random.Random(repr(scenario))
    stream, builder, fresh, swaps = Stream(scenario), WindowBuilder(), True, 0
    found: list[dict[str, Any]] = []
    for frame in stream.frames():
        ns, kind = int(frame["ns"][0]), frame["kind"][0]
        border = (builder.clock_ns // BEAT_NS + 1) * BEAT_NS
        # A recording that has not begun has no beat to go on with.
        if not fresh and kind not in (Kind.END, Kind.CARRIED) and ns >= border:
            if draw.random() < chance:
                mark = np.zeros(1, EVENT)
                mark["ns"], mark["kind"], mark["last"] = border, Kind.CLOCK, 1
                found += as_dicts(builder.feed(mark))
                carried = builder.carried(border, border + 7)
                assert bool(len(carried)) == builder.synced
                assert set(carried["recv_ns"].tolist()) <= {border + 7}
                builder = WindowBuilder()
                found += as_dicts(builder.feed(carried if len(carried) else mark))
                swaps += len(carried) > 0
        found += as_dicts(builder.feed(frame))
        fresh = kind == Kind.END
        assert builder.synced == stream.reference.synced
        if stream.reference.synced:
            assert_same_book(builder, stream.reference)
    return found, stream, swaps


def test_a_fresh_builder_fed_the_carried_book_goes_on_as_if_nothing_had_happened() -> None:
    swapped = []

    @settings(max_examples=40, derandomize=True, deadline=None)
    @given(scenarios(100))
    def run(scenario: Scenario) -> None:
        found, stream, swaps = carried_over(scenario, 0.3)
        assert_same_windows(found, stream.reference.records)
        swapped.append(swaps)

    run()
    assert sum(swapped) > 200
