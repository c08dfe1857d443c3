"""What the execution trades, under which rules, and where its windows come from."""

from typing import Annotated

import msgspec

from market.actions import Fees
from market.errors import QuaverError
from market.trader import TraderConfig
from tune.checkpoint import ModelMeta


class ExecutionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is traded, under which rules, and where the windows come from."""

    products: Annotated[
        tuple[str, ...],
        msgspec.Meta(description="products traded; empty: all the model was trained for"),
    ] = ()
    trader: TraderConfig = msgspec.field(default_factory=TraderConfig)
    fees: Fees = msgspec.field(default_factory=Fees)
    source: Annotated[
        str | None, msgspec.Meta(description="name of the actor that streams windows; none: idle")
    ] = None
    source_namespace: Annotated[
        str | None, msgspec.Meta(description="its Ray namespace; none: that of Serve")
    ] = None
    predict_timeout_s: Annotated[
        float, msgspec.Meta(gt=0, description="a prediction later than this is not traded on")
    ] = 3.0
    reference_patience_s: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            description="how long a beat waits for the windows of other products that the model "
            "looks at; then their signals are not known",
        ),
    ] = 1.0
    external_root: Annotated[
        str | None, msgspec.Meta(description="folder or s3:// under which external series lie")
    ] = None
    retry_first_s: Annotated[
        float, msgspec.Meta(gt=0, description="wait before a lost stream is opened again; doubles")
    ] = 0.5
    retry_cap_s: Annotated[float, msgspec.Meta(gt=0, description="longest such wait")] = 15.0


def traded(meta: ModelMeta, config: ExecutionConfig) -> dict[str, int]:
    """Return the products to trade, each with its index in the model.

    QuaverError if the model was not trained for one of them.
    """
    names = config.products or meta.trained
    untrained = [name for name in names if name not in meta.trained]
    if untrained:
        raise QuaverError(
            f"serve: the model was not trained for {', '.join(untrained)}; "
            "train it for them or leave them out of `products`"
        )
    return {name: meta.products.index(name) for name in names}
