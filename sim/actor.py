"""The simulated exchange as a Ray actor, so that it lives and dies with the Ray that runs it."""

import ray

from sim.exchange import Exchange
from sim.exchange_config import ExchangeConfig
from sim.faults import Fault
from sim.rest import Rest


class _Hosted:
    def __init__(self, config: ExchangeConfig) -> None:
        self._exchange = Exchange(config)
        self._rest: Rest | None = None

    async def start(self) -> str:
        """Open the socket; return its address."""
        await self._exchange.start()
        return self._exchange.url

    async def start_rest(self) -> str:
        """Answer REST too; return where, without the path."""
        self._rest = Rest(self._exchange)
        await self._rest.start()
        return self._rest.url

    async def inject(self, fault: Fault) -> bool:
        """Let a fault happen; False if there is no connection that it could happen to."""
        return await self._exchange.inject(fault)

    async def stop(self) -> None:
        """Stop answering, close every connection; the tape is then complete."""
        if self._rest is not None:
            await self._rest.stop()
        await self._exchange.stop()

    async def finished(self) -> None:
        """Wait until the market has ended; raise what broke it."""
        await self._exchange.finished()


ExchangeActor = ray.remote(num_cpus=0)(_Hosted)
