"""What the simulated exchange trades, how fast its time passes, and for whom."""

from typing import Annotated

import msgspec

from market.actions import Fees
from market.errors import QuaverError
from market.products import product
from sim.accounts import AccountConfig
from sim.faults import FaultConfig
from sim.flow import FlowConfig, FlowMarket
from sim.wire import SECOND_NS
from sim.world import WARM_UP_STEPS, step_of

DEFAULT_START_NS = 1_767_571_200 * SECOND_NS  # 2026-01-05T00:00:00Z


class ExchangeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the simulated exchange."""

    products: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    market: FlowConfig = FlowConfig()
    start_ns: Annotated[int, msgspec.Meta(ge=0, description="event time of the start, UTC")] = (
        DEFAULT_START_NS
    )
    duration_s: Annotated[
        float | None, msgspec.Meta(gt=0, description="event time to run, none: until stopped")
    ] = None
    speed: Annotated[
        float | None,
        msgspec.Meta(gt=0, description="event seconds per second, none: as fast as clients read"),
    ] = 1.0
    by_the_clock: Annotated[
        bool,
        msgspec.Meta(
            description="event time is this machine's: what passed since start_ns is caught up "
            "with, and time goes on without clients"
        ),
    ] = False
    subscribe_deadline_s: Annotated[
        float, msgspec.Meta(gt=0, description="time from connecting to the first subscribe")
    ] = 5.0
    idle_close_s: Annotated[
        float,
        msgspec.Meta(gt=0, description="event time without a frame after which one is closed"),
    ] = 75.0
    port: Annotated[int, msgspec.Meta(ge=0, le=65535, description="0: any free one")] = 0
    per_address_per_s: Annotated[
        int | None,
        msgspec.Meta(gt=0, description="connections, and messages, from one address in a second"),
    ] = None
    max_unread_bytes: Annotated[
        int, msgspec.Meta(gt=0, description="a client with more unread is dropped (with a speed)")
    ] = 32 << 20
    tape: Annotated[
        str | None, msgspec.Meta(description="where true frames are kept: `memory` or a folder")
    ] = None
    faults: Annotated[FaultConfig | None, msgspec.Meta(description="schedule of faults")] = None
    accounts: Annotated[
        tuple[AccountConfig, ...], msgspec.Meta(description="customers; without, nobody can trade")
    ] = ()
    fees: Fees = Fees()

    def __post_init__(self) -> None:
        if self.by_the_clock and self.speed != 1.0:
            raise ValueError("by_the_clock needs speed 1")


def market_of(config: ExchangeConfig) -> FlowMarket:
    """Return the market of a configuration, before its warm-up."""
    if len(set(config.products)) < len(config.products):
        raise QuaverError("the simulated exchange was given a product twice; name each once")
    products = [product(id) for id in config.products]
    # Its first step is the first of the warm-up.
    step_ns = step_of(round(config.market.tick_s * SECOND_NS))
    return FlowMarket(products, config.market, config.start_ns - (WARM_UP_STEPS + 1) * step_ns)
