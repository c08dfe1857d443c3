"""Lines that every model stands beside know nothing of the future, and their choices are plain."""

import dataclasses

import numpy as np
import pytest

from datasets.batches import Part
from datasets.samples import Samples
from market.actions import Action, Fees
from market.features import features
from market.labels import HORIZON_BEATS, labels
from market.policy import choices
from market.windows import WINDOW
from tune import evaluate
from tune.baselines import FITTED, fitted, majority, persistence

PRODUCTS = (3, 7)


def walk(seed: int, n: int, start: int) -> np.ndarray:
    """Windows of a random walk with a few invalid beats."""
    rng = np.random.default_rng(seed)
    windows = np.zeros(n, WINDOW)
    windows["beat"] = start + np.arange(n)
    windows["valid"] = ~np.isin(np.arange(n), rng.integers(100, n, 2))
    windows["bid"] = 100_000 * np.exp(np.cumsum(rng.normal(0, 3e-4, n)))
    windows["ask"] = windows["bid"] + rng.integers(1, 9, n)
    windows["low_ask"] = windows["ask"] - rng.integers(0, 30, n)
    windows["high_bid"] = windows["bid"] + rng.integers(0, 30, n)
    windows["bid_depth"] = windows["ask_depth"] = 1
    return windows


def samples_of(recorded: dict[int, np.ndarray]) -> Samples:
    """Samples of each product's windows, as a root holds them."""
    parts = []
    for product, windows in recorded.items():
        found = features(windows, 0.01)
        label = labels(windows, Fees())[np.searchsorted(windows["beat"], found.beats)]
        index = np.full(len(found.beats), product, np.int32)
        none = np.empty((len(index), 0))
        parts.append((found.beats, index, found.medians, found.bids, found.asks, label, none))
    return Samples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@pytest.fixture(scope="module")
def recorded() -> dict[int, np.ndarray]:
    return {product: walk(product, 700, 10_000 + product) for product in PRODUCTS}


def test_persistence_at_a_beat_needs_nothing_recorded_after_it(recorded) -> None:
    samples = samples_of(recorded)
    chosen = persistence(Part(samples, np.arange(len(samples))), HORIZON_BEATS)
    assert len(np.unique(chosen)) == 5
    for row in range(50, len(samples), 97):
        product, beat = int(samples.product[row]), int(samples.beat[row])
        cut = {p: w[w["beat"] <= beat] for p, w in recorded.items()}
        known = samples_of({p: w for p, w in cut.items() if len(w) > HORIZON_BEATS})
        (at,) = np.flatnonzero((known.product == product) & (known.beat == beat))
        assert persistence(Part(known, np.array([at])), HORIZON_BEATS) == chosen[row]


def test_persistence_takes_the_newest_label_that_is_known(recorded) -> None:
    samples = samples_of(recorded)
    table = {
        (int(p), int(b)): label
        for p, b, label in zip(samples.product, samples.beat, samples.label, strict=True)
    }
    part = Part(samples, np.arange(5, len(samples), 3))
    unknown = np.full(5, np.nan)
    known = 0
    for row, found in zip(part.rows, persistence(part, HORIZON_BEATS), strict=True):
        key = int(samples.product[row]), int(samples.beat[row]) - HORIZON_BEATS
        label = table.get(key, unknown)
        best = np.flatnonzero(label >= np.nanmax(label) - 1e-6) if label[0] == label[0] else []
        known += len(best) > 0
        assert found == (Action.NO_OP if len(best) == 0 or Action.NO_OP in best else best[0])
    assert 100 < known < len(part)


def test_persistence_of_a_product_does_not_depend_on_where_it_lies(recorded) -> None:
    """A root lists products by name, not by number."""
    whole = {**recorded, 5: walk(5, 700, 10_000)}
    for order in ((3, 5, 7), (3, 7, 5), (7, 3, 5)):
        samples = samples_of({product: whole[product] for product in order})
        part = Part(samples, np.arange(len(samples)))
        chosen = persistence(part, HORIZON_BEATS)
        for product in order:
            alone = samples_of({product: whole[product]})
            wanted = persistence(Part(alone, np.arange(len(alone))), HORIZON_BEATS)
            np.testing.assert_array_equal(chosen[samples.product == product], wanted)


def test_a_label_a_beat_newer_would_not_be_known(recorded) -> None:
    windows = recorded[3][:200].copy()
    windows["valid"] = True
    known = ~np.isnan(labels(windows, Fees())).any(axis=1)
    newest = int(windows["beat"][known][-1])
    assert newest == int(windows["beat"][-1]) - HORIZON_BEATS


def test_the_majority_is_counted_over_all_chunks() -> None:
    rows = np.eye(5)[[2, 2, 2, 1, 1, 0]]
    assert majority([rows]) == majority([rows[:1], rows[1:4], rows[4:]]) == 2
    tied = np.array([[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]])
    assert majority([tied]) == 1


@pytest.mark.slow
def test_baselines_are_trained_on_train_alone_and_learn_what_is_there(make_samples) -> None:
    samples = make_samples(4000)
    rows = np.arange(len(samples))
    parts = Part.of(samples, rows < 3000), Part.of(samples, (rows >= 3000) & (rows < 3400))
    test = Part.of(samples, rows >= 3400)
    # Labels that it must not see are others: nothing changes.
    other = dataclasses.replace(samples, label=samples.label.copy())
    other.label[3400:] = np.random.default_rng(1).normal(0, 50, (600, 5))
    for name in FITTED:
        outputs = evaluate.predict_part(fitted(name, *parts), test)
        again = (Part(other, part.rows) for part in parts)
        assert evaluate.predict_part(fitted(name, *again), test).tobytes() == outputs.tobytes()
        labels_of = samples.label[test.rows]
        value = evaluate.captured(choices(outputs), labels_of)
        assert evaluate.fraction(*value) > 0.5, name
