"""The simulated exchange as a Ray actor, so that it lives and dies with the Ray that runs it."""

import ray

from sim.exchange import Exchange, ExchangeConfig


class _Hosted:
    def __init__(self, config: ExchangeConfig) -> None:
        self._exchange = Exchange(config)

    async def start(self) -> str:
        """Open the socket; return its address."""
        await self._exchange.start()
        return self._exchange.url

    async def finished(self) -> None:
        """Wait until the market has ended; raise what broke it."""
        await self._exchange.finished()


ExchangeActor = ray.remote(num_cpus=0)(_Hosted)
