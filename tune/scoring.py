"""A model scored on one part of a split: over all of it, per product and per day.

Only one batch's features are in memory at a time; what is kept of each row is its label, the
model's outputs and what the other rules choose.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from actors.raw import DAY_NS, day_of
from datasets.batches import Part
from market.policy import choices
from market.windows import BEAT_NS
from tune.baselines import persistence
from tune.bootstrap import Interval
from tune.checkpoint import ModelMeta
from tune.evaluate import Evaluation, evaluate, mean_loss, predict_part
from tune.scaled import ScaledModel

DAY_BEATS = DAY_NS // BEAT_NS

Floats = NDArray[np.float64]


class GroupScore(msgspec.Struct, frozen=True, kw_only=True):
    """The score over one product's or one day's samples."""

    samples: int
    accuracy: float
    majority_accuracy: float
    value_bps: float
    value_interval: Interval | None
    oracle_bps: float


class PartScore(NamedTuple):
    """The scores of a part; None and empty where it has no labelled sample."""

    values: Floats  # The model's outputs for every row, f8[n, 5].
    whole: Evaluation | None
    products: dict[int, GroupScore]  # By index in the universe.
    days: dict[str, GroupScore]


def score(
    model: ScaledModel,
    meta: ModelMeta,
    part: Part,
    majority: int,
    others: Mapping[str, ScaledModel],
    temperature_bps: float,
    min_edge_bps: float,
) -> PartScore:
    """Score a model on the rows of `part`, beside persistence and `others`, by name.

    All models act where they see `min_edge_bps`, as in trading.
    """
    values = predict_part(model, part)
    beats, product, labels = (
        np.concatenate(list(part.column(name))) for name in ("beat", "product", "label")
    )
    known = ~np.isnan(labels).any(axis=1)
    if not known.any():
        return PartScore(values, None, {}, {})
    rules = {"persistence": persistence(part, meta.recipe.horizon_beats)}
    rules |= {
        name: choices(predict_part(other, part), min_edge_bps) for name, other in others.items()
    }
    scale = float(model.output_scale)
    whole = evaluate(
        values,
        labels,
        majority,
        beats=beats,
        others=rules,
        objective=meta.objective,
        loss=mean_loss(meta.objective, values, labels, scale, temperature_bps),
        min_edge_bps=min_edge_bps,
    )

    def group(mine: NDArray[np.bool_]) -> GroupScore:
        found = evaluate(
            values[mine], labels[mine], majority, beats=beats[mine], min_edge_bps=min_edge_bps
        )
        return GroupScore(
            samples=found.samples,
            accuracy=found.accuracy,
            majority_accuracy=found.majority.accuracy,
            value_bps=found.value_bps,
            value_interval=found.value_interval,
            oracle_bps=found.oracle_bps,
        )

    day = beats // DAY_BEATS
    return PartScore(
        values,
        whole,
        {int(one): group(known & (product == one)) for one in np.unique(product[known])},
        {day_of(int(one) * DAY_NS): group(known & (day == one)) for one in np.unique(day[known])},
    )
