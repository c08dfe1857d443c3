"""What a training run and a sweep are configured with, and how a grid becomes variants.

A grid key is the dotted path of a `TrainConfig` field (`objective`, `model.lstm_hidden`), so that
whatever can be configured can be swept, and a typo is an error before anything starts.
"""

import difflib
import itertools
import re
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from market.errors import QuaverError
from tune.boosted import OBJECTIVES, BoostedConfig
from tune.models import ModelConfig, SeedConfig
from tune.objectives import Objective
from tune.scaled import Positive

OptimiserName = Literal["adam", "adamw", "sgd", "muon"]
ScheduleName = Literal["constant", "cosine", "one_cycle", "plateau"]

# Ray takes cpu and CPU for the same: given both, it would silently drop one.
_Resource = Annotated[str, msgspec.Meta(pattern="^(?!(CPU|GPU)$)")]


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One training run; the same config and data give the same weights."""

    model: ModelConfig = SeedConfig()
    objective: Objective = "mse"
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
    seed: Annotated[int, msgspec.Meta(ge=0, description="of weights and batch order")] = 0

    def __post_init__(self) -> None:
        """Refuse a warm-up that never ends, and an objective that trees cannot be grown for."""
        if self.warm_up_epochs >= self.epochs:
            raise ValueError(
                f"warm_up_epochs ({self.warm_up_epochs}) must be less than epochs ({self.epochs})"
            )
        if isinstance(self.model, BoostedConfig) and self.objective not in OBJECTIVES:
            raise ValueError(
                f"the model boosted has no objective {self.objective}, but {', '.join(OBJECTIVES)}"
            )


class SweepConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A grid of training runs over one set of samples; every combination is one trial."""

    train: TrainConfig
    grid: Annotated[
        dict[str, list[Any]],
        msgspec.Meta(description="values to try by dotted path of a training field"),
    ]
    trial_resources: Annotated[
        dict[_Resource, Annotated[float, msgspec.Meta(ge=0)]],
        msgspec.Meta(description="Ray resources one trial holds; what is free sets concurrency"),
    ] = msgspec.field(default_factory=lambda: {"cpu": 1.0})
    max_failures: Annotated[
        int,
        msgspec.Meta(
            ge=-1,
            description="restarts of a trial from its last checkpoint, -1 without bound; lost "
            "machines and errors in the code count alike, announced spot losses do not",
        ),
    ] = 3


class Variant(NamedTuple):
    """One point of the grid; `name` is its folder under runs/<sweep>/."""

    name: str
    params: dict[str, Any]
    train: TrainConfig


def variants(config: SweepConfig) -> list[Variant]:
    """Return every combination of the grid, the last key varying fastest.

    QuaverError where a key or a value does not fit `TrainConfig`.
    """
    found = []
    for index, values in enumerate(itertools.product(*config.grid.values())):
        params = dict(zip(config.grid, values, strict=True))
        found.append(Variant(_name(index, params), params, _apply(config.train, params)))
    if not found:
        raise QuaverError("sweep: the grid is empty; give every key at least one value")
    return found


def _apply(train: TrainConfig, params: dict[str, Any]) -> TrainConfig:
    fields = msgspec.to_builtins(train)
    for key, value in params.items():
        *parents, last = key.split(".")
        target = fields
        for parent in parents:
            target = target.get(parent) if isinstance(target, dict) else None
        if not isinstance(target, dict) or last not in target:
            (near,) = difflib.get_close_matches(key, _paths(train), n=1, cutoff=0.0)
            raise QuaverError(
                f"sweep: grid key {key!r} is not a field of the training config; "
                f"did you mean {near}?"
            )
        target[last] = value
    try:
        return msgspec.convert(fields, TrainConfig)
    except msgspec.ValidationError as error:
        raise QuaverError(f"sweep: the grid values {params} do not fit: {error}") from error


def _paths(train: TrainConfig) -> list[str]:
    """The dotted path of every field that can be swept."""
    fields = msgspec.to_builtins(train)
    model = fields.pop("model")
    return [*fields, *(f"model.{field}" for field in model)]


def _name(index: int, params: dict[str, Any]) -> str:
    parts = [f"{index:02d}"]
    for key, value in params.items():
        text = "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        parts.append(text if isinstance(value, str) else f"{key.rsplit('.', 1)[-1]}-{text}")
    return re.sub(r"[^A-Za-z0-9._-]", "-", "_".join(parts))
