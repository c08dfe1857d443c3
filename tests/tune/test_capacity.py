"""A trial that no node can run is said after seconds; whether that is an error, time decides."""

from collections.abc import Callable

import pytest

from market.errors import QuaverError
from tune.capacity import Capacity, shortage

SMALL = {"CPU": 2.0, "memory": 1e9}
BIG = {"CPU": 8.0, "GPU": 1.0}
SPOT = {"CPU": 1.0, "spot": 4.0}


@pytest.mark.parametrize(
    ("needed", "said"),
    [
        ({"cpu": 2.0}, ""),
        ({"cpu": 8.0, "gpu": 0.5}, ""),
        ({"cpu": 1.0, "spot": 4.0}, ""),
        ({"cpu": 1.0, "tpu": 0.0}, ""),
        ({"cpu": 9.0}, "asks for 9 CPU, but a node has at most 8 CPU"),
        ({"cpu": 1.0, "tpu": 1.0}, "asks for 1 CPU, 1 tpu, but a node has at most 8 CPU, 0 tpu"),
        ({"cpu": 2.0, "spot": 1.0}, "8 CPU, 4 spot, not all on the same one"),
    ],
)
def test_one_node_must_have_all_that_a_trial_asks_for(needed: dict[str, float], said: str) -> None:
    found = shortage(needed, [SMALL, BIG, SPOT])
    assert found.endswith(said) if said else found == ""


def test_a_cluster_without_nodes_is_short_of_all() -> None:
    assert "at most 0 CPU" in shortage({"cpu": 1.0}, [])


class Watched:
    """A capacity on a clock that the test turns, one check a second."""

    def __init__(self, wait_s: float, nodes: list[dict[str, float]]) -> None:
        self.nodes, self.now_s = nodes, 1000.0
        self.capacity = Capacity({"gpu": 1.0}, lambda: self.nodes, wait_s, lambda: self.now_s)

    def said(self, seconds: int, idle: bool = True) -> list[tuple[int, str]]:
        found = []
        for second in range(seconds):
            text = self.capacity.check(idle)
            if text:
                found.append((second, text))
            self.now_s += 1
        return found


@pytest.fixture
def watch() -> Callable[..., Watched]:
    """Return `watch(wait_s, nodes) -> Watched`."""
    return Watched


def test_where_no_node_can_come_it_is_an_error_at_once(watch) -> None:
    with pytest.raises(QuaverError, match=r"1 GPU.*at most 0 GPU.*sweep\.trial_resources"):
        watch(0.0, [SMALL]).said(1)
    assert watch(0.0, [BIG]).said(20) == []


def test_where_one_may_come_it_is_a_warning_that_repeats_then_an_error(watch) -> None:
    watched = watch(60.0, [SMALL])
    warned = watched.said(60)
    assert [second for second, _ in warned] == [0, 10, 20, 30, 40, 50]
    assert "waiting for a node: a trial asks for 1 GPU" in warned[0][1]
    with pytest.raises(QuaverError, match=r"waited 60 s \(sweep\.wait_for_node_s\)"):
        watched.said(3)


def test_a_node_that_comes_ends_the_wait_and_the_next_loss_waits_anew(watch) -> None:
    watched = watch(60.0, [SMALL])
    assert len(watched.said(50)) == 5
    for idle in (True, True, False):  # Its trial starts at once, or takes a while.
        watched.nodes = [BIG]
        assert watched.said(20, idle=idle) == []
        watched.nodes = [SMALL]
        assert len(watched.said(50)) == 5


def test_without_bound_it_goes_on_waiting(watch) -> None:
    assert len(watch(-1.0, [SMALL]).said(2000)) == 200


def test_nodes_that_fit_but_are_busy_are_said_after_half_a_minute(watch) -> None:
    warned = watch(60.0, [BIG]).said(100)
    assert warned[0] == (30, "no trial has run for 30 s: the nodes that could run one are busy")
    assert [second for second, _ in warned] == list(range(30, 100, 10))
