"""Features from a day of windows, beside the same in plain numpy, which must give the same bits."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Result, compare, report
from benchmarks.labels import a_day
from market.features import DEPTH_BEATS, LOOKBACK_BEATS, MEDIAN_LAGS, Features, features

TICK = 0.01
MUST_REACH = 5_000_000  # Beats per second on one core.
REPEATS = 5


def measure() -> list[Result]:
    """Measure ours beside numpy's and beside what must be reached."""
    windows = a_day()
    for one, other in zip(features(windows, TICK), _in_numpy(windows), strict=True):
        if one.tobytes() != other.tobytes():
            raise SystemExit("plain numpy does not find our features")

    def ours() -> None:
        for _ in range(REPEATS):
            features(windows, TICK)

    against = {"plain numpy": (lambda: _in_numpy(windows), len(windows))}
    name = "features from windows"
    results = compare(name, "beats/s", ours, against, REPEATS * len(windows), runs=9)
    value = results[0].value
    limit = f"limit {MUST_REACH:,} beats/s"
    return [*results, Result(name, value, "beats/s", value / MUST_REACH, limit)]


def _in_numpy(windows: NDArray[np.void]) -> Features:
    beats, valid = windows["beat"], windows["valid"]
    index = np.arange(len(beats))
    follows = np.zeros(len(beats), bool)
    follows[1:] = valid[:-1] & (np.diff(beats) == 1)
    starts = np.maximum.accumulate(np.where(follows, 0, index))
    at = np.flatnonzero(valid & (index - starts >= LOOKBACK_BEATS))
    mid2 = windows["bid"] + windows["ask"]
    medians = mid2[at[:, None] - np.array(MEDIAN_LAGS)] * (TICK / 2)
    sides = []
    for depth in (windows["bid_depth"], windows["ask_depth"]):
        summed = np.zeros((len(at), depth.shape[1]), np.int64)
        for lag in range(DEPTH_BEATS):
            summed += depth[at - lag]
        total = summed.sum(axis=1, keepdims=True)
        sides.append(summed / np.where(total == 0, 1, total))
    return Features(beats[at], medians, *sides)


if __name__ == "__main__":
    report(measure())
