"""The histogram of latencies against the sorted durations themselves."""

from math import ceil

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from actors.latency import Latency

NS = st.lists(st.integers(0, 2**45), min_size=1, max_size=300)


def made(durations_ns: list[int]) -> Latency:
    latency = Latency()
    for ns in durations_ns:
        latency.add(ns)
    return latency


@given(NS, st.floats(0.1, 100))
def test_a_percentile_is_at_most_a_bucket_above_the_duration_of_that_rank(
    durations_ns: list[int], percent: float
) -> None:
    found = made(durations_ns).percentiles_ms(percent)
    assert found
    ranked = sorted(durations_ns)
    true_ms = ranked[ceil(percent / 100 * len(ranked)) - 1] / 1e6
    assert true_ms < found[0] <= true_ms + max(0.001, true_ms / 32) + 1e-9


@given(NS, NS)
def test_what_came_since_and_what_several_counted_together(
    before: list[int], new: list[int]
) -> None:
    latency = made(before)
    then = latency.copy()
    for ns in new:
        latency.add(ns)
    assert latency.since(then) == made(new)
    assert Latency.sum([then, made(new)]) == latency and latency.n == len(before) + len(new)
    assert Latency.sum([]) == latency.since(latency) == Latency()


@given(NS, st.integers(1, 50))
def test_a_sample_is_even_and_holds_the_longest(durations_ns: list[int], most: int) -> None:
    latency = made(durations_ns)
    sample = latency.sample_ms(most)
    assert len(sample) == min(most, len(durations_ns)) and sample == sorted(sample)
    assert sample[-1:] == latency.percentiles_ms(100)
    if most >= len(durations_ns):
        assert made([round(ms * 1e6) - 1 for ms in sample]) == latency


def test_none_were_counted_a_negative_one_is_nothing_and_it_goes_over_the_wire() -> None:
    assert Latency().percentiles_ms(50, 99) is None and Latency().sample_ms(10) == []
    latency = made([-5, 0, 999, 1_000])
    assert latency.counts == {0: 3, 1: 1}
    assert msgspec.json.decode(msgspec.json.encode(latency), type=Latency) == latency
    latency.copy().add(7)
    assert latency.n == 4
