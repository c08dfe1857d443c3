"""Waiting for a server that is away: what failed for that alone is done again."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay
from tenacity import wait_exponential as exponential

from actors.store import Away, Store

_PATIENCE_S = 900.0  # For a server to come back.
_POLL_MIN_S, _POLL_MAX_S = 0.5, 10.0
T = TypeVar("T")


def patiently(call: Callable[[], T], waiting: Callable[[str], None] = lambda why: None) -> T:
    """Return what `call` returns; while the server is away, wait and call again.

    `waiting` is told why before each wait. What else `call` raises is raised, and what it raised
    last once a quarter of an hour is over.
    """

    def tell(state: RetryCallState) -> None:
        waiting(str(state.outcome.exception()) if state.outcome else "")

    for attempt in Retrying(
        retry=retry_if_exception_type(Away),
        wait=exponential(_POLL_MIN_S, _POLL_MAX_S),
        stop=stop_after_delay(_PATIENCE_S),
        before_sleep=tell,
        reraise=True,
    ):
        with attempt:
            return call()
    raise AssertionError("unreachable")


def answers(store: Store) -> None:
    """Away if the server does not answer; QuaverError if the root cannot be used at all."""
    why = store.check()
    if why:
        raise Away(f"{store.root} does not answer: {why}")
