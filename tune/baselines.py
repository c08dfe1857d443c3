"""What every model must beat: what was best a horizon ago, and two models that anyone would try."""

from collections.abc import Iterable
from itertools import pairwise

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from datasets.batches import Part
from market.actions import Action
from market.labels import optimal
from tune.config import TrainConfig
from tune.models import CONFIGS, build
from tune.scaled import ScaledModel
from tune.training import train

# The same for every report, so that two reports of the same samples have the same lines. Small
# steps in small batches: a baseline that an hour of samples leaves half trained would be no line.
FITTED = {
    "linear": TrainConfig(
        objective="advantage", epochs=12, batch_size=256, learning_rate=5e-3, schedule="cosine"
    ),
    "boosted": TrainConfig(objective="advantage", epochs=5),
}
ROWS = 1 << 19  # Of train, at most, evenly spread: a report must not take a day.

Ints = NDArray[np.int64]


def majority(labels: Iterable[NDArray[np.float64]]) -> int:
    """Return the action that is optimal most often, in labels (each f8[n, 5], without NaN)."""
    counts = np.zeros(len(Action), np.int64)
    for some in labels:
        counts += optimal(some).sum(axis=0)
    return int(counts.argmax())


def persistence(part: Part, horizon: int) -> Ints:
    """Return what was best a horizon ago, for every row of `part`, [n].

    A label of beat k - horizon reads windows up to beat k and none after it, so it is known in full
    when beat k ends, and no newer one is. The choice at k is the action that was optimal then: of
    several NO_OP, else the first; NO_OP too where that beat of the product has no label. A
    product's samples must lie together and in order, as a root's do; the label may be of a row
    outside of the part.
    """
    samples, chosen = part.samples, np.full(len(part), int(Action.NO_OP))
    borders = np.flatnonzero(np.diff(samples.product)) + 1
    for first, last in pairwise([0, *borders.tolist(), len(samples)]):
        mine = (part.rows >= first) & (part.rows < last)
        beats = samples.beat[first:last]
        wanted = beats[part.rows[mine] - first] - horizon
        at = np.searchsorted(beats, wanted)
        label = samples.label[first + at]
        best = optimal(label)  # None, where a label is not known.
        acts = (beats[at] == wanted) & best.any(axis=1) & ~best[:, Action.NO_OP]
        chosen[mine] = np.where(acts, best.argmax(axis=1), Action.NO_OP)
    return chosen


def fitted(name: str, train_part: Part, validation_part: Part) -> ScaledModel:
    """Return one of FITTED, trained on at most ROWS samples of train.

    As with any model, the epoch that captures most on validation is kept.
    """
    config = msgspec.structs.replace(FITTED[name], model=CONFIGS[name]())
    state = train(_thinned(train_part), _thinned(validation_part), config)
    with torch.random.fork_rng(devices=[]):
        model = build(config.model, train_part.samples.signals.shape[1])
    model.load_state_dict(state.best_weights)
    return model


def _thinned(part: Part) -> Part:
    return Part(part.samples, part.rows[:: len(part) // ROWS + 1])
