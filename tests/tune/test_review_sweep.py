"""Failing tests of the review of sweeps; each is named by the number of its finding."""

from pathlib import Path

import msgspec
import pytest

from actors.store import Store

from cluster.config import load_config
from market.errors import QuaverError
from tests.tune.test_sweep import sweep  # noqa: F401
from tune.config import SweepConfig, TrainConfig
from tune.run_folder import check_name
from tune.search import check_space, trials


@pytest.mark.parametrize("left", [0, 4096])
def test_1_a_snapshot_of_tune_that_a_kill_or_a_full_disk_cut_short_is_no_obstacle(
    ray_local, sweep, tmp_path: Path, left: int
) -> None:
    from tune.sweep import run_sweep

    before = run_sweep(**sweep)
    (snapshot,) = (tmp_path / "runs" / "grid").glob("experiment_state-*.json")
    snapshot.write_bytes(snapshot.read_bytes()[:left])
    after = run_sweep(**sweep, resume=True)
    assert [row.metrics for row in after.trials] == [row.metrics for row in before.trials]


def test_2_a_space_of_optuna_that_holds_a_trial_that_cannot_be_is_refused_at_the_start(
    small: TrainConfig,
) -> None:
    space = {"model.name": {"choice": ["seed", "linear"]}, "model.lstm_hidden": {"integer": [8, 9]}}
    with pytest.raises(QuaverError):
        check_space(SweepConfig(train=small, space=space, samples=8, search="optuna"))


def test_6_keys_of_a_space_given_one_by_one_are_all_kept() -> None:
    given = ["sweep.space.learning_rate=[0.1]", 'sweep.space.objective=["mse", "bce"]']
    assert set(load_config(None, given).sweep.space) == {"learning_rate", "objective"}


def test_7_a_sweep_cannot_take_the_place_of_the_looks(tmp_path: Path) -> None:
    with pytest.raises(QuaverError):
        check_name(Store(str(tmp_path)), "test-looks.json", False)


def test_8_resources_of_nothing_are_refused(small: TrainConfig) -> None:
    with pytest.raises(QuaverError):
        load_config(None, ["sweep.trial_resources.cpu=0"])


def test_9_a_range_beyond_64_bits_is_a_mistake_of_the_user(small: TrainConfig) -> None:
    with pytest.raises(QuaverError):
        check_space(SweepConfig(train=small, space={"seed": {"integer": [0, 10**20]}}))


def test_10_values_that_fit_together_are_taken_in_any_order(small: TrainConfig) -> None:
    short = msgspec.structs.replace(small, epochs=2)
    config = SweepConfig(train=short, space={"warm_up_epochs": [3], "epochs": [10]})
    check_space(config)
    assert trials(config) == 1


def test_3_looks_of_models_that_never_act_do_not_make_noise_skill() -> None:
    import numpy as np

    from tune.significance import Look, significance

    rng, blocks, sweeps, passed = np.random.default_rng(0), 120, 1000, 0
    for _ in range(sweeps):
        noise = rng.standard_normal((20, blocks))
        means, sharpes = noise.mean(axis=1), noise.mean(axis=1) / noise.std(axis=1, ddof=1)
        acting = [Look(m, blocks, s, 0.0, 3.0, 0.0) for m, s in zip(means, sharpes, strict=True)]
        idle = [Look(0.0, blocks, 0.0, 0.0, 3.0, 0.0)] * 380
        found = significance(idle + acting, max(acting, key=lambda each: each.value_bps), 50)
        assert found is not None
        passed += found.significant
    assert passed <= 0.05 * sweeps  # 0.16 as it is; 0.28 with 980 idle ones.
