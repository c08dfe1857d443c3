"""The simulated exchange as a Ray actor, so that it lives and dies with the Ray that runs it."""

import ray

from sim.exchange import Exchange
from sim.exchange_config import ExchangeConfig
from sim.faults import Fault


class _Hosted:
    def __init__(self, config: ExchangeConfig) -> None:
        self._exchange = Exchange(config)

    async def start(self) -> str:
        """Open the socket; return its address."""
        await self._exchange.start()
        return self._exchange.url

    async def inject(self, fault: Fault) -> bool:
        """Let a fault happen; False if there is no connection that it could happen to."""
        return await self._exchange.inject(fault)

    async def stop(self) -> None:
        """Close every connection; the tape is then complete."""
        await self._exchange.stop()

    async def finished(self) -> None:
        """Wait until the market has ended; raise what broke it."""
        await self._exchange.finished()


ExchangeActor = ray.remote(num_cpus=0)(_Hosted)
