"""Intervals hold what they promise on data whose mean is known."""

import numpy as np
import pytest

from tune.bootstrap import BLOCK_BEATS, block_bootstrap


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [10, 36])
def test_a_95_percent_interval_holds_the_mean_of_overlapping_labels(blocks: int) -> None:
    """Of a constant position, each decision earns the sum of the next 75 independent returns."""
    rng, draws, held = np.random.default_rng(0), 400, 0
    for _ in range(draws):
        returns = rng.standard_normal((blocks + 1) * BLOCK_BEATS - 1)
        found = block_bootstrap(np.convolve(returns, np.ones(BLOCK_BEATS), "valid"))
        assert found is not None
        held += found.low <= 0 <= found.high
    assert held >= 0.92 * draws  # Three standard errors below what is promised.
