"""What a simulated market is about to be worth, which no order shows: seeded hidden values.

All products share a common move, the one BTC makes first; each follows it after a lag of its own.
To that each adds moves of its own, a regime (its own moves are drawn back, or it trends), a hidden
drift, and bursts of activity. Everything advances in steps of `STEP_NS` of event time.
"""

import math
from random import Random
from typing import Annotated, NamedTuple

import msgspec

STEP_NS = 200_000_000
STEP_S = STEP_NS / 1e9
MAX_LAG_STEPS = 10
EDGE_HORIZON_S = 60.0  # `edge_bps` is what the drift is expected to add over this time.
_UNREST_TIME_S = 120.0  # Over which the volatility forgets itself.
_BURST_VOLATILITY = 2.0
_MARKET_BURSTS = 0.25  # Share of the bursts that all products have together.


class HiddenConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the hidden values behave."""

    seed: Annotated[int, msgspec.Meta(ge=0, description="same seed, same market")] = 1
    volatility_bps: Annotated[
        float, msgspec.Meta(ge=0, description="noise of the price in bp per square root of second")
    ] = 0.7
    market_share: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="share of its variance common to all products")
    ] = 0.5
    unrest: Annotated[
        float, msgspec.Meta(ge=0, le=2, description="how much the volatility varies, log units")
    ] = 0.8
    edge_bps: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            description="planted signal: standard deviation, in bp, of the 60 s return that the "
            "hidden drift lets one expect; 0 leaves the book without information",
        ),
    ] = 0.0
    drift_time_s: Annotated[
        float, msgspec.Meta(gt=0, description="time over which the hidden drift forgets itself")
    ] = 120.0
    regime_s: Annotated[float, msgspec.Meta(gt=0, description="mean time in one regime")] = 600.0
    trend_bps: Annotated[
        float, msgspec.Meta(ge=0, description="drift of the trending regimes, bp per minute")
    ] = 1.0
    reversion_s: Annotated[
        float,
        msgspec.Meta(
            ge=1,
            description="time over which the reverting regime draws a product's own moves back",
        ),
    ] = 120.0
    bursts_per_hour: Annotated[
        float, msgspec.Meta(ge=0, description="bursts of activity that a product has in an hour")
    ] = 8.0
    burst_s: Annotated[float, msgspec.Meta(gt=0, description="mean length of a burst")] = 5.0
    burst_factor: Annotated[
        float, msgspec.Meta(ge=1, description="how much busier a product is in a burst")
    ] = 10.0


class Common(NamedTuple):
    """One step of what all products share."""

    move: float  # Standard normal.
    unrest: float  # Factor of the volatility, its mean square is 1 outside bursts.
    burst: bool


class CommonPath:
    """The common steps, drawn once in order and kept as long as a product still needs them."""

    def __init__(self, config: HiddenConfig) -> None:
        self._random = Random(f"{config.seed}:market")
        self._config = config
        self._decay, self._kick = _memory(_UNREST_TIME_S)
        self._unrest = self._random.gauss(0.0, 1.0)
        self._burst = _Burst(self._random, config, _MARKET_BURSTS)
        self._first = -MAX_LAG_STEPS
        self._steps: list[Common] = []

    def at(self, step: int) -> Common:
        """Return a step, from `-MAX_LAG_STEPS` on."""
        while step - self._first >= len(self._steps):
            self._steps.append(self._draw())
        return self._steps[step - self._first]

    def forget(self, before: int) -> None:
        """Drop steps that no product will ask for."""
        gone = before - self._first
        if gone > 0:
            del self._steps[:gone]
            self._first = before

    def _draw(self) -> Common:
        draw, spread = self._random.gauss, self._config.unrest
        self._unrest = self._decay * self._unrest + self._kick * draw(0.0, 1.0)
        burst = self._burst.step()
        unrest = math.exp(spread * self._unrest - spread * spread)
        return Common(draw(0.0, 1.0), unrest * (_BURST_VOLATILITY if burst else 1.0), burst)


class Hidden:
    """One product's hidden values; `step` advances them."""

    def __init__(self, random: Random, config: HiddenConfig, start: float, leads: bool) -> None:
        self._random = random
        self._lag = 0 if leads else random.randint(1, MAX_LAG_STEPS)
        self._beta = 1.0 if leads else random.uniform(0.7, 1.3)
        noise = config.volatility_bps * 1e-4 * math.sqrt(STEP_S)
        self._common_noise = noise * math.sqrt(config.market_share)
        self._own_noise = noise * math.sqrt(1.0 - config.market_share)
        expected_s = config.drift_time_s * -math.expm1(-EDGE_HORIZON_S / config.drift_time_s)
        self._drift = config.edge_bps * 1e-4 / expected_s * STEP_S
        self._decay, self._kick = _memory(config.drift_time_s)
        self._trend = config.trend_bps * 1e-4 / 60.0 * STEP_S
        self._pull = STEP_S / config.reversion_s
        self._change = STEP_S / config.regime_s
        self._burst = _Burst(random, config, 1.0 - _MARKET_BURSTS)
        self._regime = 0  # -1 and 1: it trends; 0: its own moves are drawn back.
        self._away = 0.0  # Its own moves since the regime began.
        self._log = math.log(start)
        self.drift_state = random.gauss(0.0, 1.0)
        self.value = start  # In ticks, not rounded.
        self.momentum = 0.0  # Recent log return, forgotten over some seconds.
        self.burst = False

    def step(self, number: int, path: CommonPath) -> None:
        """Advance by `STEP_NS`; steps are numbered from 0."""
        random = self._random
        common = path.at(number - self._lag)
        own_burst = self._burst.step()
        self.burst = own_burst or common.burst
        if random.random() < self._change:
            self._regime, self._away = random.choice((-1, 0, 0, 1)), 0.0
        unrest = common.unrest * (_BURST_VOLATILITY if own_burst else 1.0)
        own = self._own_noise * unrest * random.gauss(0.0, 1.0)
        own += self._trend * self._regime if self._regime else -self._pull * self._away
        self._away += own
        move = own + self._beta * self._common_noise * common.unrest * common.move
        move += self._drift * self.drift_state
        self.drift_state = self._decay * self.drift_state + self._kick * random.gauss(0.0, 1.0)
        self.momentum = 0.97 * self.momentum + move
        self._log += move
        self.value = math.exp(self._log)


class _Burst:
    """Bursts that begin at random and last an exponential time."""

    def __init__(self, random: Random, config: HiddenConfig, share: float) -> None:
        self._random = random
        self._starts = share * config.bursts_per_hour / 3600.0 * STEP_S
        self._ends = min(1.0, STEP_S / config.burst_s)
        self._on = False

    def step(self) -> bool:
        self._on = self._random.random() < (1.0 - self._ends if self._on else self._starts)
        return self._on


def _memory(time_s: float) -> tuple[float, float]:
    """Return decay and noise of a unit-variance state that forgets itself over `time_s`."""
    decay = math.exp(-STEP_S / time_s)
    return decay, math.sqrt(1.0 - decay * decay)
