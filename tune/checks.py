"""What a training run refuses: samples that it cannot learn from, checkpoints that do not fit."""

import numpy as np

from datasets.batches import Part
from market.errors import QuaverError
from tune.config import TrainConfig


def check_part(name: str, part: Part, config: TrainConfig) -> None:
    """Raise a QuaverError where a part cannot be trained on."""
    if not len(part):
        raise QuaverError(f"training: no labelled {name} samples; use a longer recording")
    unknown = sum(int((~np.isfinite(v).all(axis=1)).sum()) for v in part.column("label"))
    if unknown:
        raise QuaverError(
            f"training: {unknown} of {len(part)} {name} samples have labels that are no numbers; "
            "leave them out (Part.of does) or build the samples anew"
        )
    found = part.products()
    if found[0] < 0 or found[-1] >= config.model.products:
        raise QuaverError(
            f"training: {name} samples name product {found[-1]}, but the model knows "
            f"{config.model.products} products"
        )


def check_same_config(known: TrainConfig, given: TrainConfig) -> None:
    """Raise a QuaverError unless a run of `known` may go on as one of `given`.

    Epochs may be added, but not where the learning rate depends on how many there are.
    """
    free = () if given.schedule in ("cosine", "one_cycle") else ("epochs",)
    differing = [
        field
        for field in given.__struct_fields__
        if field not in free and getattr(known, field) != getattr(given, field)
    ]
    if not differing:
        return
    raise QuaverError(
        f"training: the checkpoint is of another configuration: other {', '.join(differing)}; "
        "train anew, or with its configuration"
    )
