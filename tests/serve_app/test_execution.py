"""What the deployment does when its stream ends or breaks off, without Ray."""

import asyncio
from typing import Any

import pytest

from serve_app import execution
from serve_app.executor import ExecutionConfig
from tests.serve_app.market_walk import meta_of


class Streams(execution.Execution.func_or_class):
    """An execution whose streams break off, one after another, before one ends by itself."""

    async def __init__(self, breaks: int, retry_s: float) -> None:
        self._breaks = breaks
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        config = ExecutionConfig(source="collector", retry_first_s=retry_s)
        await super().__init__(meta_of(), config, None)

    async def _consume(self) -> None:
        self._state = "streaming"
        if self._breaks:
            self._breaks -= 1
            raise RuntimeError("collecting failed")

    async def _withdraw(self) -> None:
        await super()._withdraw()
        self.ended.put_nowait(self._state)


def after(streams: int, breaks: int, retry_s: float) -> tuple[list[str], dict[str, Any]]:
    """Return the state at the end of each of the first streams, and the health after them."""

    async def run() -> tuple[list[str], dict[str, Any]]:
        running = object.__new__(Streams)
        await running.__init__(breaks, retry_s)
        states = [await running.ended.get() for _ in range(streams)]
        health = await running.health()
        running._task.cancel()
        return states, health

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def without_handles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "replica_handle", lambda handle: handle)


def test_a_stream_that_breaks_off_is_lost_and_says_why() -> None:
    states, health = after(streams=1, breaks=1, retry_s=60.0)
    assert states == ["lost"]
    assert health["stream"] == {"state": "lost", "source": "collector"}
    assert health["last_error"] == "stream of collector: RuntimeError: collecting failed"


def test_a_lost_stream_is_opened_again_until_one_ends_by_itself() -> None:
    states, health = after(streams=3, breaks=2, retry_s=0.001)
    assert states == ["lost", "lost", "finished"]
    assert (health["stream"]["state"], health["errors"]) == ("finished", 2)
