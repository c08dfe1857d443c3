"""A model on shuffled labels, which must score nothing, and the borders of the splits.

Labels change places in blocks, within each product and over all parts. Nothing that a model may
look at tells of the labels that then stand beside it: it can know what an action earns on average,
not when it earns more. So its score is what it earns by its choice of time.
"""

from collections.abc import Iterable
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from datasets.recipe import Recipe
from datasets.samples import Samples
from datasets.splits import SPLITS
from market.features import LOOKBACK_BEATS
from market.labels import advantage
from market.policy import choices
from tune.bootstrap import BLOCK_BEATS, Interval, block_bootstrap

SHUFFLES = 8
COVERAGE = 0.998  # One false alarm in a thousand: a check that runs every night must not cry wolf.
_RIDGE = 1e-3  # Per sample, of standardised inputs.

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Splits = dict[str, Mask]


class Border(msgspec.Struct, frozen=True, kw_only=True):
    """Samples of two parts that share a beat of their windows, or a sample that is in both."""

    parts: tuple[str, str]
    beat: int  # The first of the later part,
    samples: int  # and how many.
    why: str


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """What choices on validation earn, in bp a decision."""

    value_bps: float  # Over NO_OP, by the highest output.
    timing_bps: float  # Over the same choices at any time, by the output furthest above its usual.
    low_bps: float
    high_bps: float

    @property
    def scores(self) -> bool:
        """Whether the timing earns more than chance explains."""
        return self.low_bps > 0


class ShuffledCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A quick model trained and judged on shuffled labels, and, to compare, on the true ones."""

    train: int  # Samples.
    validation: int
    blocks: int  # Of validation, that the interval rests on.
    oracle_bps: float  # What the best choices earn on validation.
    shuffled: Score
    true: Score


def check_splits(samples: Samples, splits: Splits, recipe: Recipe) -> list[Border]:
    """Return where a feature or label window reaches from one part into a later one.

    A sample of beat k reaches over k - LOOKBACK_BEATS .. k + horizon. Also where a sample is in two
    parts, or twice in the table.
    """
    found = []
    parts = [name for name in SPLITS if splits[name].any()]
    for at, early in enumerate(parts):
        reach = int(samples.beat[splits[early]].max()) + recipe.horizon_beats
        for late in parts[at + 1 :]:
            both = splits[early] & splits[late]
            crossing = splits[late] & (samples.beat - LOOKBACK_BEATS <= reach)
            for rows, why in ((both, "are in both"), (crossing & ~both, "share beats with")):
                if rows.any():
                    found.append(_border((early, late), samples.beat[rows], why))
    keys = np.stack([samples.product, samples.beat], axis=1)
    _, first = np.unique(keys, axis=0, return_index=True)
    again = np.ones(len(samples), bool)
    again[first] = False
    if again.any():
        found.append(_border(("all", "all"), samples.beat[again], "are in the table twice"))
    return found


def _border(parts: tuple[str, str], beats: NDArray[np.int64], why: str) -> Border:
    return Border(parts=parts, beat=int(beats.min()), samples=len(beats), why=why)


def check_shuffled(samples: Samples, splits: Splits, seed: int) -> ShuffledCheck | None:
    """Train and judge a linear model on shuffled labels; None if validation has too few beats."""
    rng, known = np.random.default_rng(seed), samples.labelled
    samples = samples.select(known)
    train, validation = (splits[name][known] for name in ("train", "validation"))
    if not train.any() or not validation.any():
        return None
    others = (_shuffled(samples, rng) for _ in range(SHUFFLES))
    shuffled, true = _judge(others, train, validation), _judge([samples], train, validation)
    if shuffled is None or true is None:
        return None
    (shuffled_score, interval), (true_score, _) = shuffled, true
    return ShuffledCheck(
        train=int(train.sum()),
        validation=int(validation.sum()),
        blocks=interval.blocks,
        oracle_bps=float(advantage(samples.label[validation]).max(axis=1).mean()),
        shuffled=shuffled_score,
        true=true_score,
    )


def inputs_of(samples: Samples) -> Floats:
    """Return what a model may look at, [n, f]: every column but the beat, product and label.

    Prices are log-ratios to the newest, as a model takes them.
    """
    columns = [1e4 * np.log(samples.medians[:, :-1] / samples.medians[:, -1:])]
    taken = ("beat", "product", "medians", "label")
    columns += [column for name, column in vars(samples).items() if name not in taken]
    return np.concatenate(columns, axis=1)


def _shuffled(samples: Samples, rng: np.random.Generator) -> Samples:
    """Return samples with other labels: in blocks of BLOCK_BEATS, each product's among itself."""
    order = np.arange(len(samples))
    for product in np.unique(samples.product):
        mine = np.flatnonzero(samples.product == product)
        blocks = samples.beat[mine] // BLOCK_BEATS
        parts = np.split(mine, np.flatnonzero(np.diff(blocks)) + 1)
        order[mine] = np.concatenate([parts[i] for i in rng.permutation(len(parts))])
    return replace(samples, label=samples.label[order])


def _outputs(samples: Samples, train: Mask, validation: Mask) -> Floats:
    """Return what a linear model, trained on the labels of train, says of validation, [n, 5]."""
    inputs = inputs_of(samples)
    # Scaled by train alone; what is unknown is taken to be as usual.
    mean, deviation = np.nanmean(inputs[train], axis=0), np.nanstd(inputs[train], axis=0)
    inputs = (inputs - mean) / np.where(deviation > 0, deviation, 1.0)
    np.nan_to_num(inputs, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    inputs = np.concatenate([inputs, samples.product[:, None] == np.unique(samples.product)], 1)
    known = inputs[train]
    # By einsum, in one thread: BLAS would wait for cores that others hold.
    square = np.einsum("ni,nj->ij", known, known) + _RIDGE * len(known) * np.eye(known.shape[1])
    seen = np.einsum("ni,nj->ij", known, advantage(samples.label[train]))
    return np.einsum("ni,ij->nj", inputs[validation], np.linalg.solve(square, seen))


def _judge(
    labelled: Iterable[Samples], train: Mask, validation: Mask
) -> tuple[Score, Interval] | None:
    """Train a model on each of the samples, which differ in labels; return what they earn."""
    values, timing, count = np.zeros(validation.sum()), np.zeros(validation.sum()), 0
    for samples in labelled:
        outputs = _outputs(samples, train, validation)
        gains = advantage(samples.label[validation])
        product, beats = samples.product[validation], samples.beat[validation]
        rows = np.arange(len(gains))
        values += gains[rows, choices(outputs)]
        timing += _unusual(gains, product)[rows, choices(_unusual(outputs, product))]
        count += 1
    _, at = np.unique(beats, return_inverse=True)
    per_beat = np.bincount(at, timing / count) / np.bincount(at)
    interval = block_bootstrap(per_beat, coverage=COVERAGE)
    return interval and (
        Score(
            value_bps=float(values.mean() / count),
            timing_bps=interval.mean,
            low_bps=interval.low,
            high_bps=interval.high,
        ),
        interval,
    )


def _unusual(values: Floats, products: NDArray[np.int32]) -> Floats:
    """Return how much more each action is worth, [n, 5], than it usually is in its product."""
    found = np.empty_like(values)
    for product in np.unique(products):
        mine = products == product
        found[mine] = values[mine] - values[mine].mean(axis=0)
    return found
