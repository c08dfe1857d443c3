"""What the deployment does when its stream ends or breaks off, without Ray."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from datasets.recipe import Recipe
from market.cross import CrossConfig
from serve_app import execution
from serve_app.execution_config import ExecutionConfig
from serve_app.executor import Item
from tests.serve_app.market_walk import FIRST_BEAT, meta_of, walk


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


class Connections(execution.Execution.func_or_class):
    """An execution whose stream yields ETH's windows, and those of SOL but for the last one."""

    async def __init__(self, ends: bool) -> None:
        config = ExecutionConfig(
            source="collector", products=("ETH-USD",), reference_patience_s=60.0 if ends else 0.02
        )
        recipe = Recipe(cross=CrossConfig(neighbours=1), nearest={"ETH-USD": ("SOL-USD",)})
        self.ns, self.ends = 0, ends
        self.handled_last, self.go_on, self.decided = (asyncio.Event() for _ in range(3))
        await super().__init__(meta_of(recipe=recipe), config, None)
        self.executor._monotonic_ns = lambda: self.ns  # Time stands still while windows come.
        self._release, self.executor.release = self.executor.release, self._released

    async def _released(self, patient: bool = True) -> None:
        await self._release(patient)
        if self.executor.counts["beats"] == 5:
            self.decided.set()

    async def _open(self) -> AsyncIterator[Awaitable[Item]]:
        return self._items()

    async def _items(self) -> AsyncIterator[Awaitable[Item]]:
        for at in range(5):
            rows = walk(1, 1, FIRST_BEAT + at)
            yield asyncio.sleep(0, [("ETH-USD", rows), ("SOL-USD", rows[at == 4 :])])
        self.handled_last.set()
        self.ns = 0 if self.ends else 10**9
        await self.go_on.wait()


@pytest.mark.parametrize("ends", [True, False])
def test_a_beat_that_waits_for_another_product_is_decided_when_nothing_comes(ends: bool) -> None:
    async def run() -> dict[str, Any]:
        running = object.__new__(Connections)
        await running.__init__(ends)
        async with asyncio.timeout(10):
            await running.handled_last.wait()
            if ends:
                assert running.executor.counts["beats"] == 4
                running.go_on.set()
                await running._task
            await running.decided.wait()
        running._task.cancel()
        return await running.health()

    health = asyncio.run(run())
    assert (health["beats"], health["errors"]) == (5, 0)


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
