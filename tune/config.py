"""What a training run and a sweep are configured with."""

from typing import Annotated, Any, Literal

import msgspec

from tune.models import ModelConfig, Positive, SeedConfig
from tune.objectives import Objective

# Ray takes cpu and CPU for the same: given both, it would silently drop one.
_Resource = Annotated[str, msgspec.Meta(pattern="^(?!(CPU|GPU)$)")]


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One training run; the same config and data give the same weights."""

    model: ModelConfig = SeedConfig()
    objective: Objective = "mse"
    epochs: Annotated[Positive, msgspec.Meta(description="passes over the data")] = 6
    batch_size: Annotated[Positive, msgspec.Meta(description="samples per step")] = 1024
    learning_rate: Annotated[float, msgspec.Meta(gt=0, description="of AdamW")] = 2e-3
    weight_decay: Annotated[float, msgspec.Meta(ge=0, description="of AdamW")] = 1e-4
    seed: Annotated[int, msgspec.Meta(ge=0, description="of weights and batch order")] = 0


class AshaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Asynchronous successive halving: trials that fall behind are stopped early."""

    enabled: Annotated[bool, msgspec.Meta(description="stop trials that fall behind")] = False
    grace_epochs: Annotated[
        Positive, msgspec.Meta(description="epochs that every trial gets; the first comparison")
    ] = 2
    reduction: Annotated[
        int,
        msgspec.Meta(
            ge=2,
            description="only the best 1/reduction go on after a comparison, and the next comes "
            "after that many times the epochs",
        ),
    ] = 3


class SweepConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A search over training runs, all on the same samples; `tune.search` says what is tried."""

    train: TrainConfig
    space: Annotated[
        dict[str, Any],
        msgspec.Meta(
            description="values to try by dotted path of a training field: a list is tried in "
            "full, {uniform|log|integer = [low, high]} and {choice = [...]} are drawn"
        ),
    ]
    samples: Annotated[
        Positive, msgspec.Meta(description="draws for each combination of the lists")
    ] = 1
    search: Annotated[
        Literal["random", "optuna"],
        msgspec.Meta(description="optuna draws near what has done well, and takes no lists"),
    ] = "random"
    seed: Annotated[int, msgspec.Meta(ge=0, description="of the draws")] = 0
    asha: AshaConfig = AshaConfig()
    trial_resources: Annotated[
        dict[_Resource, Annotated[float, msgspec.Meta(ge=0)]],
        msgspec.Meta(description="Ray resources one trial holds; what is free sets concurrency"),
    ] = msgspec.field(default_factory=lambda: {"cpu": 1.0})
    wait_for_node_s: Annotated[
        float,
        msgspec.Meta(
            ge=-1,
            description="how long a sweep on a cluster waits, and says so, for a node that has "
            "the resources of a trial; -1 without bound",
        ),
    ] = 900.0
    max_failures: Annotated[
        int,
        msgspec.Meta(
            ge=-1,
            description="restarts of a trial from its last checkpoint, -1 without bound; lost "
            "machines and errors in the code count alike, announced spot losses do not",
        ),
    ] = 3
