"""The deflated Sharpe ratio: the paper's own numbers, and noise that must not pass for skill."""

import math

import msgspec
import numpy as np
import pytest

from tune.bootstrap import BLOCK_BEATS
from tune.significance import (
    BlockSums,
    Look,
    effective_blocks,
    expected_maximum,
    probabilistic_sharpe,
    significance,
)


def look(sharpe: float, blocks: int, **moments: float) -> Look:
    """Return a look of normal, independent blocks."""
    return Look(0.0, blocks, sharpe, *({"s": 0.0, "k": 3.0, "c": 0.0} | moments).values())


def looks_at(sums: np.ndarray) -> list[Look]:
    """Return one look per row of sums, f8[looks, blocks]."""
    found = []
    for row in sums:
        blocks = BlockSums()
        blocks.add(np.arange(len(row)) * BLOCK_BEATS, row)
        found.append(blocks.look())
    return found


@pytest.mark.parametrize(
    ("trials", "moments", "probability"),
    [
        (100, {"s": -3.0, "k": 10.0}, 0.9004),
        (46, {"s": -3.0, "k": 10.0}, 0.9505),
        (88, {"s": 0.0, "k": 3.0}, 0.9505),
    ],
)
def test_the_numerical_example_of_the_paper(
    trials: int, moments: dict[str, float], probability: float
) -> None:
    # An annual Sharpe ratio of 2.5 over 1,250 days of 250 a year, trials that vary by 1/2 a year.
    lucky = expected_maximum(trials, math.sqrt(0.5 / 250))
    if trials == 100:
        assert lucky == pytest.approx(0.1132, abs=5e-5)
    found = probabilistic_sharpe(look(2.5 / math.sqrt(250), 1250, **moments), lucky, 1250)
    # Student's t of 1,249 degrees of freedom is nearly the paper's normal distribution.
    assert found == pytest.approx(probability, abs=4e-4)


@pytest.mark.parametrize(("trials", "error"), [(2, 0.1), (10, 0.03), (200, 0.01)])
def test_the_expected_maximum_is_that_of_so_many_normal_draws(trials: int, error: float) -> None:
    """The paper's equation is an approximation for many trials."""
    drawn = np.random.default_rng(0).normal(0, 0.3, (20_000, trials)).max(axis=1).mean()
    assert expected_maximum(trials, 0.3) == pytest.approx(drawn, rel=error)
    assert expected_maximum(1, 0.3) == 0


def test_the_best_of_noise_passes_for_skill_no_more_often_than_promised() -> None:
    rng, sweeps, blocks = np.random.default_rng(1), 400, 120
    lucky = by_p_value = undeflated = 0
    for _ in range(sweeps):
        noise = rng.standard_normal((200, blocks))
        sharpes = noise.mean(axis=1) / noise.std(axis=1, ddof=1)
        (winner,) = looks_at(noise[[sharpes.argmax()]])
        found = significance([look(s, blocks) for s in sharpes], winner, 200)
        assert found is not None
        lucky += found.significant
        by_p_value += found.p_value <= 0.05
        undeflated += probabilistic_sharpe(winner, 0.0, blocks) > 0.95
    assert undeflated == sweeps  # What the deflation is for.
    assert lucky <= 0.05 * sweeps
    assert 0.02 * sweeps <= by_p_value <= 0.08 * sweeps


@pytest.mark.parametrize("blocks", [10, 40])
def test_few_and_related_blocks_make_no_skill(blocks: int) -> None:
    """Of a constant position, each decision earns the sum of the next 75 independent returns."""
    rng, draws, skilled = np.random.default_rng(0), 1000, 0
    for _ in range(draws):
        sums, returns = BlockSums(), rng.standard_normal(blocks * 75 + 74)
        sums.add(np.arange(blocks * 75), np.convolve(returns, np.ones(75), "valid"))
        seen = sums.look()
        found = significance([seen], seen, 1)
        skilled += found is not None and found.significant
    assert skilled <= 0.065 * draws


def test_looks_that_never_act_do_not_make_noise_significant() -> None:
    rng, sweeps, blocks, lucky = np.random.default_rng(6), 2000, 120, 0
    idle = [look(0.0, blocks)] * 180
    for _ in range(sweeps):
        acting = [look(s, blocks) for s in rng.standard_normal(20) / math.sqrt(blocks)]
        winner = max(idle[:1] + acting, key=lambda found: found.sharpe)
        found = significance(idle + acting, winner, 200)
        assert found is not None
        lucky += found.significant
    assert lucky <= 0.06 * sweeps


def test_one_true_edge_among_noise_and_bad_variants_is_found() -> None:
    rng = np.random.default_rng(2)
    sums = rng.standard_normal((200, 400)) - np.linspace(0, 3, 200)[:, None]
    sums[7] = rng.normal(0.4, 1, 400)
    looks = looks_at(sums)
    winner = max(looks, key=lambda found: found.value_bps)
    assert winner is looks[7]
    found = significance(looks, winner, 200)
    assert found is not None and found.significant and found.p_value < 1e-6


def test_trials_that_are_alike_are_held_against_the_winner_less() -> None:
    winner = look(0.25, 200)
    apart = [look(s, 200) for s in np.linspace(-0.1, 0.25, 100)]
    alike = [look(s, 200) for s in np.linspace(0.24, 0.25, 100)]
    loose, close = significance(apart, winner, 100), significance(alike, winner, 100)
    assert loose is not None and close is not None
    assert close.lucky_sharpe < loose.lucky_sharpe
    assert close.deflated_sharpe > loose.deflated_sharpe


def test_decisions_that_overlap_count_as_fewer_blocks() -> None:
    """Of a constant position, each decision earns the sum of the next 75 independent returns."""
    rng, blocks, z = np.random.default_rng(3), 60, []
    for _ in range(400):
        returns = rng.standard_normal((blocks + 1) * BLOCK_BEATS)
        gains = np.convolve(returns, np.ones(BLOCK_BEATS), "valid")[: blocks * BLOCK_BEATS]
        sums = BlockSums()
        sums.add(np.arange(len(gains)), gains)
        found = sums.look()
        z.append(found.sharpe * np.array([found.blocks, effective_blocks(found)]) ** 0.5)
    plain, effective = np.std(z, axis=0)
    assert plain > 1.15  # It would be 1 if blocks were independent.
    assert effective == pytest.approx(1, abs=0.08)


def test_block_sums_are_the_same_in_any_order_and_in_parts() -> None:
    rng = np.random.default_rng(4)
    beats = rng.permutation(20 * BLOCK_BEATS)[:700].astype(np.int64) + 10**8
    beats = beats[(beats // BLOCK_BEATS) % 7 != 3]  # Some blocks are empty.
    gains = rng.integers(-50, 50, len(beats)).astype(float)
    parts, whole = BlockSums(), BlockSums()
    for chunk in np.array_split((-beats).argsort(), 9):  # The last block comes first.
        parts.add(beats[chunk], gains[chunk])
    order = beats.argsort()
    whole.add(beats[order], gains[order])
    assert parts.look() == whole.look()
    blocks = {b: gains[beats // BLOCK_BEATS == b].sum() for b in set(beats // BLOCK_BEATS)}
    sums = np.array(list(blocks.values()))
    found = whole.look()
    assert found.value_bps == pytest.approx(gains.mean())
    assert found.blocks == len(sums)
    assert found.sharpe == pytest.approx(sums.mean() / sums.std(ddof=1))
    centred = sums - sums.mean()
    assert found.skewness == pytest.approx((centred**3).mean() / sums.std() ** 3)
    assert found.kurtosis == pytest.approx((centred**4).mean() / sums.std() ** 4)


def test_a_model_that_never_acts_and_a_short_validation_claim_nothing() -> None:
    idle = looks_at(np.zeros((3, 50)))
    found = significance(idle, idle[0], 3)
    assert found is not None and not found.significant and found.p_value == pytest.approx(0.875)
    assert significance(idle, look(1.0, 4), 3) is None


def test_a_look_survives_json() -> None:
    found = looks_at(np.random.default_rng(5).standard_normal((1, 30)))[0]
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(found)), Look) == found
