"""Every epoch leaves what its choices captured, per block, also across an interruption."""

import pytest

from datasets.batches import Part
from tune.checkpoint import pack
from tune.config import TrainConfig
from tune.training import EpochMetrics, train


def test_each_epoch_is_a_look_and_an_interruption_loses_none(
    make_samples, small: TrainConfig
) -> None:
    parts = Part.of(make_samples(600)), Part.of(make_samples(400, seed=1))
    found: list[EpochMetrics] = []
    packed: list[bytes] = []

    def stop_in_the_middle(metrics: EpochMetrics, state: object) -> None:
        found.append(metrics)
        if metrics.epoch == 2:
            packed.append(pack(state))

    train(*parts, small, on_epoch=stop_in_the_middle)
    for metrics in found:
        assert metrics.look.value_bps == pytest.approx(metrics.validation_value_bps)
        assert metrics.look.blocks == len(set(parts[1].samples.beat // 75))
    resumed: list[EpochMetrics] = []
    train(*parts, small, resume_from=packed[0], on_epoch=lambda m, _: resumed.append(m))
    assert resumed == found[2:]
