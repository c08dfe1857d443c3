"""The execution deployment: an `Executor` fed from an actor's stream of closed windows."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from typing import Any, cast

import ray
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.brokers import Paper
from serve_app.execution_config import ExecutionConfig
from serve_app.executor import Executor, Item, Values
from serve_app.inputs import external_reader
from serve_app.predictor import replica_handle
from tune.checkpoint import ModelMeta

STREAM_AHEAD = 16  # Items a collector may be ahead of us; without a bound they pile up for ever.


@serve.deployment(
    num_replicas=1,  # One account, one executor: a second one would trade the same money again.
    max_ongoing_requests=16,
    health_check_period_s=2,
    graceful_shutdown_timeout_s=2,
    ray_actor_options={"num_cpus": 0.1},
)
class Execution:
    """Feeds an `Executor` from a collector's stream and stays up whatever becomes of that."""

    async def __init__(
        self, meta: ModelMeta, config: ExecutionConfig, predictor: DeploymentHandle
    ) -> None:
        self._config = config
        self._predictor = replica_handle(predictor)
        external = external_reader(meta.recipe, config.external_root)
        self.executor = Executor(meta, config, self._ask, Paper(), external)
        self._state = "waiting" if config.source else "idle"
        self._task = asyncio.create_task(self._run()) if config.source else None

    async def health(self) -> dict[str, Any]:
        """Return the stream's state and all of `Executor.health`.

        States: idle (no source), waiting, streaming, lost (to be opened again), finished, failed.
        """
        if self._task and self._task.done() and self._state != "finished":
            self._state = "failed"
        stream = {"state": self._state, "source": self._config.source}
        return {"stream": stream, **self.executor.health()}

    async def positions(self) -> dict[str, Any]:
        """Return the ledger as `Executor.positions` shows it."""
        return self.executor.positions()

    async def _ask(self, *inputs: NDArray[Any]) -> Values:
        async with asyncio.timeout(self._config.predict_timeout_s):
            return await self._predictor.predict.remote(*inputs)

    async def _run(self) -> None:
        """Consume the stream until it ends by itself; open it again whenever it breaks off."""
        wait_s = self._config.retry_first_s
        while True:
            before = self.executor.counts["items"]
            try:
                await self._consume()
                self._state = "finished"
                return
            except Exception as error:
                self._state = "lost"
                self.executor.failed(f"stream of {self._config.source}", error)
            finally:
                await self._withdraw()
            if self.executor.counts["items"] > before:
                wait_s = self._config.retry_first_s
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, self._config.retry_cap_s)

    async def _open(self) -> AsyncIterator[Awaitable[Item]]:
        """Return the stream of the source, open."""
        actor = await asyncio.to_thread(
            ray.get_actor, self._config.source, self._config.source_namespace
        )
        stream = actor.stream.options(
            num_returns="streaming", _generator_backpressure_num_objects=STREAM_AHEAD
        )
        return cast(AsyncIterator[Awaitable[Item]], stream.remote())

    async def _consume(self) -> None:
        stream = await self._open()
        coming = asyncio.ensure_future(anext(stream, None))
        try:
            while (ref := await self._come(coming)) is not None:
                item = await ref
                self._state = "streaming"
                self.executor.counts["items"] += 1
                await self.executor.on_item(item)
                coming = asyncio.ensure_future(anext(stream, None))
        finally:
            coming.cancel()

    async def _come(self, coming: asyncio.Future[Awaitable[Item] | None]) -> Awaitable[Item] | None:
        """Return what comes next; meanwhile, decide on beats that have waited for long enough."""
        while not (await asyncio.wait([coming], timeout=self.executor.patience_left_s))[0]:
            await self.executor.release()
        return coming.result()

    async def _withdraw(self) -> None:
        try:
            await self.executor.withdraw()
        except Exception as error:
            self.executor.failed("withdrawing orders", error)
