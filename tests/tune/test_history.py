"""Every epoch leaves what its choices captured, per block, also across an interruption."""

from pathlib import Path

import pytest

from datasets.batches import Part
from tune.checkpoint import save_state
from tune.config import TrainConfig
from tune.training import EpochMetrics, train


def test_each_epoch_is_a_look_and_an_interruption_loses_none(
    make_samples, small: TrainConfig, tmp_path: Path
) -> None:
    parts = Part.of(make_samples(600)), Part.of(make_samples(400, seed=1))
    found: list[EpochMetrics] = []

    def stop_in_the_middle(metrics: EpochMetrics, state: object) -> None:
        found.append(metrics)
        if metrics.epoch == 2:
            save_state(state, tmp_path)

    train(*parts, small, on_epoch=stop_in_the_middle)
    assert [len(metrics.history) for metrics in found] == [1, 2, 3]
    for metrics in found:
        assert metrics.history == found[-1].history[: metrics.epoch]
        assert metrics.history[-1].value_bps == pytest.approx(metrics.validation_value_bps)
        assert metrics.history[-1].blocks == len(set(parts[1].samples.beat // 75))
    resumed: list[EpochMetrics] = []
    train(*parts, small, resume_from=tmp_path, on_epoch=lambda m, _: resumed.append(m))
    assert resumed == found[2:]
