"""Whether the best of many variants is better than the best of as many without skill.

The deflated Sharpe ratio of Bailey & Lopez de Prado (2014), of what choices earn per block of
beats. Every epoch of every trial is one look at validation, as the best epoch is exported: all of
them count. Blocks are as long as a prediction looks ahead, so only neighbours overlap; the number
of blocks is lowered by as much as they are correlated.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from tune.bootstrap import BLOCK_BEATS, MIN_BLOCKS

SIGNIFICANT = 0.95  # A deflated Sharpe ratio from here on is called more than luck.
_NORMAL = NormalDist()
_EULER = 0.5772156649015329  # Euler's constant, as in the paper's equation 1.


class Look(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the choices after one epoch earn on validation: moments of the sums per block."""

    value_bps: float  # Mean per decision over NO_OP.
    blocks: int  # Those that hold a decision.
    sharpe: float  # Mean over deviation, per block; 0 where nothing varies.
    skewness: float
    kurtosis: float  # 3 for a normal distribution.
    correlation: float  # Of neighbouring blocks.


class Significance(msgspec.Struct, frozen=True, kw_only=True):
    """How the winner of a sweep compares with the best of as many looks at noise."""

    trials: int  # Variants that were tried, stopped and failed ones included.
    looks: int  # Epochs judged on validation, over all trials.
    blocks: int
    effective_blocks: float
    sharpe: float  # Of the winner, per block.
    lucky_sharpe: float  # Expected of the best look without skill.
    deflated_sharpe: float  # Probability that the winner's true Sharpe ratio exceeds zero, given
    # that it is the best of so many: the paper's DSR.
    p_value: float  # Chance that the best of so many independent looks at noise is as good.

    @property
    def significant(self) -> bool:
        """Whether the winner is more than luck."""
        return self.deflated_sharpe >= SIGNIFICANT


class BlockSums:
    """Adds up what choices earn, by block of beats."""

    def __init__(self) -> None:
        self._first = 0
        self._sums = np.zeros(0)
        self._counts = np.zeros(0, np.int64)

    def add(self, beats: NDArray[np.int64], gains: NDArray[np.float64]) -> None:
        """Take decisions at `beats` (int[n], in any order) and their gains in bp (f8[n])."""
        if not len(beats):
            return
        blocks = beats // BLOCK_BEATS
        if not len(self._sums):
            self._first = int(blocks.min())
        before = max(self._first - int(blocks.min()), 0)
        after = max(int(blocks.max()) - self._first - len(self._sums) + 1, 0)
        self._first -= before
        self._sums = np.pad(self._sums, (before, after))
        self._counts = np.pad(self._counts, (before, after))
        at = blocks - self._first
        self._sums += np.bincount(at, gains, len(self._sums))
        self._counts += np.bincount(at, minlength=len(self._counts))

    def look(self) -> Look:
        """Return the moments of the sums so far; decisions must have been added."""
        used = self._counts > 0
        sums = self._sums[used]
        value_bps = float(sums.sum() / self._counts.sum())
        deviation = float(sums.std(ddof=1)) if len(sums) > 1 else 0.0
        if deviation <= 1e-12 * np.abs(sums).max():
            return Look(value_bps, len(sums), 0.0, 0.0, 3.0, 0.0)
        standard = (sums - sums.mean()) / sums.std()
        every = np.zeros(len(used))
        every[used] = standard
        return Look(
            value_bps,
            len(sums),
            float(sums.mean()) / deviation,
            float((standard**3).mean()),
            float((standard**4).mean()),
            float((every[1:] * every[:-1]).sum() / len(sums)),
        )


def significance(looks: Sequence[Look], winner: Look, trials: int) -> Significance | None:
    """Judge `winner`, one of `looks`, of so many trials; None below MIN_BLOCKS."""
    effective = effective_blocks(winner)
    if effective < MIN_BLOCKS:
        return None
    # Chance alone spreads the Sharpe ratios of looks by no more than this. A larger spread is of
    # variants that are truly worse than others, and would hide the good ones. Where a model never
    # acted there is nothing to spread.
    spread = 1 / math.sqrt(effective - 1)
    acting = [look.sharpe for look in looks if look.sharpe]
    if len(acting) > 1:
        spread = min(spread, float(np.std(acting, ddof=1)))
    lucky = expected_maximum(len(looks), spread)
    tail = 1 - probabilistic_sharpe(winner, 0.0, effective)
    return Significance(
        trials=trials,
        looks=len(looks),
        blocks=winner.blocks,
        effective_blocks=effective,
        sharpe=winner.sharpe,
        lucky_sharpe=lucky,
        deflated_sharpe=probabilistic_sharpe(winner, lucky, effective),
        p_value=-math.expm1(len(looks) * math.log1p(-min(tail, 1 - 1e-16))),
    )


def in_words(found: Significance | None, trials: int) -> str:
    """Return in words whether the best of so many trials is more than luck."""
    if found is None:
        return f"best of {trials} trials; validation is too short to tell it from luck"
    said = (
        f"best of {found.trials} trials and {found.looks} epochs: Sharpe ratio {found.sharpe:.3f} "
        f"a block, {found.lucky_sharpe:.3f} expected of the best of as many without skill "
        f"({found.effective_blocks:.0f} independent blocks); deflated Sharpe ratio "
        f"{found.deflated_sharpe:.3f}, p {found.p_value:.2g}: "
    )
    return said + ("more than luck" if found.significant else "this may be luck")


def effective_blocks(look: Look) -> float:
    """Return how many independent blocks would make the mean as uncertain as these do."""
    return look.blocks / (1 + 2 * min(max(look.correlation, 0.0), 0.5))


def expected_maximum(trials: int, spread: float) -> float:
    """Return the highest Sharpe ratio to expect of so many trials whose true one is zero.

    `spread` is the standard deviation of their estimates; the paper's equation 1.
    """
    if trials == 1:
        return 0.0
    first = _NORMAL.inv_cdf(1 - 1 / trials)
    second = _NORMAL.inv_cdf(1 - 1 / (trials * math.e))
    return spread * ((1 - _EULER) * first + _EULER * second)


def probabilistic_sharpe(look: Look, benchmark: float, blocks: float) -> float:
    """Return the probability that the true Sharpe ratio exceeds `benchmark`; equation 2.

    By Student's t where the paper has the normal distribution: of ten related blocks it would call
    8 of 100 useless models skilled, not 5.
    """
    from scipy.special import stdtr  # A third of a second.

    return float(stdtr(blocks - 1, _z(look, benchmark, blocks)))


def _z(look: Look, benchmark: float, blocks: float) -> float:
    sharpe = look.sharpe
    variance = 1 - look.skewness * sharpe + (look.kurtosis - 1) / 4 * sharpe**2
    return (sharpe - benchmark) * math.sqrt((blocks - 1) / max(variance, 1e-12))
