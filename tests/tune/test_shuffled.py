"""On shuffled labels nothing scores unless labels leak, and what crosses a border is named."""

import numpy as np
import pytest
from numpy.typing import NDArray

from datasets.recipe import Recipe
from datasets.samples import Samples
from datasets.splits import split_by_time
from tune import shuffled
from tune.bootstrap import block_bootstrap
from tune.shuffled import Border, check_shuffled, check_splits

RECIPE = Recipe()
BEATS = 6_000
PRODUCTS = 2


def smooth(rng: np.random.Generator, n: int, over: int = 60) -> NDArray[np.float64]:
    """Noise that stays alike for some beats, as what is looked at over minutes does."""
    noise = np.convolve(rng.normal(size=n + over - 1), np.ones(over), "valid")
    return np.asarray(noise / np.sqrt(over))


def market(seed: int, edge: float) -> Samples:
    """Products whose first bucket of the book tells the label, with this strength."""
    rng, parts = np.random.default_rng(seed), []
    for product in range(PRODUCTS):
        hidden, noise = smooth(rng, BEATS), smooth(rng, BEATS)
        bids, asks = rng.random((2, BEATS, 20)) / 20
        bids[:, 0] += hidden / 50
        worth = edge * hidden + 5 * noise + 0.4  # On average it is good to buy.
        label = np.outer(worth, [1.0, 0.5, -1.0, -0.5, 0.0]) - [5, 0, 5, 0, 0]
        label[-75:] = np.nan
        medians = 100 * np.exp(1e-4 * np.cumsum(rng.normal(size=(BEATS, 10)), axis=1))
        parts.append((np.arange(BEATS), np.full(BEATS, product), medians, bids, asks, label))
    beat, index, *rest = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Samples(beat, index.astype(np.int32), *rest, np.zeros((len(beat), 0)))


@pytest.mark.parametrize("edge", [0.0, 5.0])
def test_shuffled_labels_teach_nothing_with_and_without_an_edge(edge: float) -> None:
    samples = market(1, edge)
    splits = split_by_time(samples.beat)
    for seed in range(2):
        found = check_shuffled(samples, splits, seed)
        assert found is not None
        assert not found.shuffled.scores
        assert found.shuffled.low_bps < found.shuffled.timing_bps < found.shuffled.high_bps
        # What is good on average anybody may know: that is no score.
        assert found.true.scores == (edge > 0)
    assert found.train == int((splits["train"] & samples.labelled).sum())
    assert found.validation == int((splits["validation"] & samples.labelled).sum())
    assert found.blocks == found.validation // PRODUCTS // 75


@pytest.mark.slow
def test_false_alarms_are_rare() -> None:
    alarms = 0
    for seed in range(25):
        samples = market(seed, edge=3.0)
        found = check_shuffled(samples, split_by_time(samples.beat), seed)
        alarms += found is None or found.shuffled.scores
    assert alarms == 0


def test_a_label_among_what_a_model_sees_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, inputs_of = market(2, 0.0), shuffled.inputs_of

    def leaking(samples: Samples) -> NDArray[np.float64]:
        return np.concatenate([inputs_of(samples), samples.label[:, 3:4]], axis=1)

    monkeypatch.setattr(shuffled, "inputs_of", leaking)
    found = check_shuffled(samples, split_by_time(samples.beat), 1)
    assert found is not None and found.shuffled.scores
    assert found.shuffled.timing_bps > 0.5 * found.oracle_bps


def test_labels_change_places_in_blocks_within_their_product() -> None:
    samples = market(3, 0.0)
    samples = samples.select(samples.labelled)
    other = shuffled._shuffled(samples, np.random.default_rng(1))
    for product in range(PRODUCTS):
        mine = samples.product == product
        before, after = samples.label[mine, 0], other.label[mine, 0]
        assert sorted(before) == sorted(after)
        assert (before == after).mean() < 0.1
        place = {value: at for at, value in enumerate(before.tolist())}
        steps = np.diff([place[value] for value in after.tolist()])
        assert (steps == 1).sum() >= len(steps) - BEATS // 75 - 1
    np.testing.assert_array_equal(other.bids, samples.bids)


def test_a_score_is_judged_only_where_there_are_blocks_enough() -> None:
    samples = market(1, 0.0)
    splits = {name: np.zeros(len(samples), bool) for name in ("train", "validation", "test")}
    splits["train"] = samples.beat < 3_000
    assert check_shuffled(samples, splits, 1) is None
    splits["validation"] = (samples.beat >= 4_000) & (samples.beat < 4_000 + 374)
    assert check_shuffled(samples, splits, 1) is None
    splits["validation"] = (samples.beat >= 4_000) & (samples.beat < 4_000 + 375)
    assert check_shuffled(samples, splits, 1) is not None


def test_an_input_that_is_unknown_or_always_the_same_is_no_obstacle() -> None:
    samples = market(1, 5.0)
    samples.bids[::7, 1] = np.nan
    samples.asks[:, 0] = 0.25
    found = check_shuffled(samples, split_by_time(samples.beat), 1)
    assert found is not None and found.true.scores and not found.shuffled.scores


def test_the_splits_that_training_uses_cross_no_border() -> None:
    samples = market(1, 0.0)
    assert check_splits(samples, split_by_time(samples.beat), RECIPE) == []
    assert check_splits(samples, split_by_time(samples.beat, (0.8, 0.2, 0.0)), RECIPE) == []


def test_a_split_without_purge_or_with_half_of_it_is_named_with_its_beats() -> None:
    samples = market(1, 0.0)
    bare = split_by_time(samples.beat, before=0, after=0)
    first, second = check_splits(samples, bare, RECIPE)
    # Train ends with beat 3599, its labels with 3674: features of beats up to 3742 reach there.
    assert first == Border(
        parts=("train", "validation"), beat=3_600, samples=143 * PRODUCTS, why="share beats with"
    )
    assert (second.parts, second.beat) == (("validation", "test"), 4_800)
    one_short = split_by_time(samples.beat, before=74)
    assert [(b.beat, b.samples) for b in check_splits(samples, one_short, RECIPE)] == [
        (3_600 + 68, PRODUCTS),
        (4_800 + 68, PRODUCTS),
    ]


def test_a_horizon_longer_than_the_purge_crosses_borders() -> None:
    samples = market(1, 0.0)
    longer = Recipe(horizon_beats=100)
    borders = check_splits(samples, split_by_time(samples.beat), longer)
    assert [(b.parts[0], b.samples) for b in borders] == [
        ("train", 25 * PRODUCTS),
        ("validation", 25 * PRODUCTS),
    ]


def test_a_sample_in_two_parts_or_twice_in_the_table_is_named() -> None:
    samples = market(1, 0.0)
    splits = split_by_time(samples.beat)
    splits["test"] |= samples.beat == 17
    (train, validation) = check_splits(samples, splits, RECIPE)
    assert (train.parts, train.beat, train.why) == (("train", "test"), 17, "are in both")
    assert (validation.parts, validation.beat, validation.samples) == (
        ("validation", "test"),
        17,
        2,
    )
    twice = samples.select(np.ones(len(samples), bool))
    twice.beat[5] = 4
    (border,) = check_splits(twice, split_by_time(twice.beat), RECIPE)
    assert (border.beat, border.samples, border.why) == (4, 1, "are in the table twice")


def test_an_interval_covers_what_it_says() -> None:
    """Of a mean of zero: 95 in 100 intervals hold it, and 998 in 1000 of the wider ones."""
    rng = np.random.default_rng(1)
    missed = {0.95: 0, 0.998: 0}
    for seed in range(100):
        gains = rng.normal(size=3_000)
        for coverage in missed:
            interval = block_bootstrap(gains, seed, coverage)
            assert interval is not None
            missed[coverage] += not interval.low <= 0 <= interval.high
    assert 1 <= missed[0.95] <= 14
    assert missed[0.998] <= 2
