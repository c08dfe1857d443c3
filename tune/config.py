"""What a training run and a sweep are configured with."""

import math
from typing import Annotated, Any, Literal

import msgspec

from tune.boosted import OBJECTIVES, BoostedConfig
from tune.models import ModelConfig, SeedConfig
from tune.objectives import Objective
from tune.scaled import Positive
from tune.spot import SpotConfig

OptimiserName = Literal["adam", "adamw", "sgd", "muon"]
ScheduleName = Literal["constant", "cosine", "one_cycle", "plateau"]
PrecisionName = Literal["float32", "bfloat16"]


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One training run; the same config and data give the same weights."""

    model: ModelConfig = SeedConfig()
    objective: Objective = "advantage"
    temperature_bps: Annotated[
        float,
        msgspec.Meta(gt=0, description="of cross_entropy: an action so much worse counts 1/e"),
    ] = 1.0
    epochs: Annotated[Positive, msgspec.Meta(description="passes over the data, at most")] = 6
    patience_epochs: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            description="end after so many epochs without a higher validation value captured; 0: "
            "train all epochs",
        ),
    ] = 0
    batch_size: Annotated[Positive, msgspec.Meta(description="samples per step")] = 1024
    optimiser: OptimiserName = "adamw"
    learning_rate: Annotated[float, msgspec.Meta(gt=0, description="highest of the schedule")] = (
        2e-3
    )
    weight_decay: Annotated[
        float,
        msgspec.Meta(
            ge=0, description="of the weights with adamw and muon, of the loss with adam and sgd"
        ),
    ] = 1e-4
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1, description="of sgd and muon")] = 0.9
    gradient_clip: Annotated[
        float, msgspec.Meta(ge=0, description="longest gradient of a step; 0: none is cut")
    ] = 0.0
    schedule: ScheduleName = "constant"
    warm_up_epochs: Annotated[
        float, msgspec.Meta(ge=0, description="epochs, or part of one, in which the rate rises")
    ] = 0.0
    plateau_epochs: Annotated[
        Positive,
        msgspec.Meta(description="of plateau: epochs without a higher validation value captured"),
    ] = 2
    plateau_factor: Annotated[
        float, msgspec.Meta(gt=0, lt=1, description="of plateau: what the rate is multiplied by")
    ] = 0.5
    precision: Annotated[
        PrecisionName,
        msgspec.Meta(
            description="of the steps of training: bfloat16 is faster on processors that compute "
            "in it; weights, validation and serving stay float32"
        ),
    ] = "float32"
    seed: Annotated[
        int, msgspec.Meta(ge=0, le=2**63 - 1, description="of weights and batch order")
    ] = 0

    def __post_init__(self) -> None:
        """Refuse what no run can be made of, though each field by itself is right."""
        for part in (self, self.model):
            for field in part.__struct_fields__:
                value = getattr(part, field)
                if isinstance(value, float) and not math.isfinite(value):
                    raise ValueError(f"{field} ({value}) must be a finite number")
        if self.warm_up_epochs >= self.epochs:
            raise ValueError(
                f"warm_up_epochs ({self.warm_up_epochs}) must be less than epochs ({self.epochs})"
            )
        if isinstance(self.model, BoostedConfig) and self.objective not in OBJECTIVES:
            raise ValueError(
                f"the model boosted has no objective {self.objective}, but {', '.join(OBJECTIVES)}"
            )


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
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1, description="of the draws")] = 0
    asha: AshaConfig = AshaConfig()
    trial_resources: Annotated[
        dict[str, Annotated[float, msgspec.Meta(ge=0)]],
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
            ge=0,
            description="errors of its own after which a trial that has finished no epoch in "
            "between is restarted; the loss of a worker or a machine is none",
        ),
    ] = 1
    spot: SpotConfig = SpotConfig()
