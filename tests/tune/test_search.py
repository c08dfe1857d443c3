"""A space becomes trials, the same for the same seed; a wrong one is an error before any starts."""

import msgspec
import numpy as np
import pytest

from market.errors import QuaverError
from tune.config import SweepConfig, TrainConfig
from tune.plain import LinearConfig
from tune.search import MOST_TRIALS, Variant, check_space, configured, trials, variant
from tune.sections import TcnConfig

DRAWN = {
    "objective": ["mse", "bce"],
    "learning_rate": {"log": [1e-4, 1e-2]},
    "weight_decay": {"uniform": [0, 1e-3]},
    "model.lstm_hidden": {"integer": [8, 11]},
    "model.book_hidden": {"choice": [[16], [32, 16]]},
}


WIDE = {"epochs": {"integer": [1, 1_000]}}


def all_of(config: SweepConfig) -> list[Variant]:
    return [variant(config, index) for index in range(trials(config))]


def test_lists_are_tried_in_full_by_dotted_path(small: TrainConfig) -> None:
    space = {"objective": ["mse", "bce"], "model.book_hidden": [[8], [16, 4]]}
    found = all_of(SweepConfig(train=small, space=space))
    assert [one.name for one in found] == [
        "00_mse_book_hidden-8",
        "01_mse_book_hidden-16x4",
        "02_bce_book_hidden-8",
        "03_bce_book_hidden-16x4",
    ]
    assert found[3].train.objective == "bce"
    assert found[3].train.model.book_hidden == (16, 4)
    assert found[3].train.model.lstm_hidden == small.model.lstm_hidden
    assert found[3].params == {"objective": "bce", "model.book_hidden": [16, 4]}


def test_other_models_are_tables_with_their_own_fields(small: TrainConfig) -> None:
    space = {
        "model": [
            {"lstm_hidden": 4},
            {"name": "tcn", "channels": 7, "book_hidden": [5, 3]},
            {"name": "linear"},
        ],
        "seed": [3, 9],
    }
    config = SweepConfig(train=small, space=space)
    check_space(config)
    seed, tcn, linear = (one.train.model for one in all_of(config)[::2])
    assert seed == msgspec.structs.replace(small.model, lstm_hidden=4)
    assert tcn == TcnConfig(products=3, channels=7, book_hidden=(5, 3))
    assert linear == LinearConfig(products=3)
    assert all_of(config)[5].train.model == linear and all_of(config)[5].train.seed == 9
    names = [one.name for one in all_of(config)]
    assert len(set(names)) == 6
    config = SweepConfig(train=small, space={"model.name": ["linear", "seed"]})
    assert [one.train.model for one in all_of(config)] == [
        linear,
        small.model,
    ]


@pytest.mark.parametrize(
    ("space", "what"),
    [
        ({"model": ["tcn"]}, "'model' in the space: 'tcn' is no table of a model"),
        ({"model.name": ["cnn"]}, "'model.name' in the space: there is no model 'cnn'"),
        (
            {"model": [{"name": "tcn"}], "model.lstm_hidden": [4]},
            "'model.lstm_hidden' in the space is not a field .* did you mean model.book_hidden",
        ),
        ({"model": [{"name": "tcn", "layers": 1}]}, "`layers` of `kernel` 3 see 3 of 10 medians"),
        (
            {"model.name": ["mlp", "boosted"], "objective": ["decision"]},
            "boosted has no objective decision, but mse, advantage, bce",
        ),
    ],
)
def test_a_model_that_cannot_be_is_named(small: TrainConfig, space, what: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(QuaverError, match=what):
        check_space(SweepConfig(train=small, space=space))


def test_each_combination_of_the_lists_gets_as_many_draws(small: TrainConfig) -> None:
    config = SweepConfig(train=small, space=DRAWN, samples=300, seed=5)
    check_space(config)
    found = all_of(config)
    assert [one.train.objective for one in found] == ["mse", "bce"] * 300
    assert len({one.name for one in found}) == 600
    rates = np.log10([one.train.learning_rate for one in found])
    assert -4 <= rates.min() < -3.97 and -2.03 < rates.max() <= -2
    assert np.median(rates) == pytest.approx(-3, abs=0.15)  # As many below 1e-3 as above.
    decays = [one.train.weight_decay for one in found]
    assert np.mean(decays) == pytest.approx(5e-4, abs=5e-5)
    assert {one.train.model.lstm_hidden for one in found} == {8, 9, 10, 11}
    assert {one.train.model.book_hidden for one in found} == {(16,), (32, 16)}


def test_the_same_seed_draws_the_same_trials_and_another_draws_others(small: TrainConfig) -> None:
    config = SweepConfig(train=small, space=DRAWN, samples=20, seed=5)
    assert all_of(config) == all_of(config)
    more = msgspec.structs.replace(config, samples=30)
    assert all_of(more)[:40] == all_of(config)
    other = msgspec.structs.replace(config, seed=6)
    assert not {str(one.params) for one in all_of(other)} & {
        str(one.params) for one in all_of(config)
    }


def test_a_space_without_keys_is_one_trial(small: TrainConfig) -> None:
    config = SweepConfig(train=small, space={})
    check_space(config)
    assert all_of(config) == [Variant("00", {}, small)]


def test_a_table_is_a_value_and_what_is_in_it_another_key(small: TrainConfig) -> None:
    tables = [{"name": "seed", "lstm_hidden": 3}, {"name": "seed", "book_hidden": [3]}]
    space = {"model.embedding_dim": [2], "model": tables}
    config = SweepConfig(train=small, space=space)
    check_space(config)
    found = all_of(config)
    assert [one.train.model.embedding_dim for one in found] == [2, 2]
    assert [one.train.model.lstm_hidden for one in found] == [3, small.model.lstm_hidden]


def optuna_of(small: TrainConfig, **more: object) -> SweepConfig:
    space = {"learning_rate": {"log": [1e-5, 1.0]}, "model.book_hidden": {"choice": [[16], [8, 8]]}}
    return SweepConfig(train=small, space=space, search="optuna", samples=40, **more)


def searched(config: SweepConfig) -> list[Variant]:
    """Run a sweep in which the best learning rate is 1e-2."""
    found, before = [], []
    for index in range(trials(config)):
        found.append(variant(config, index, before))
        before.append((found[-1].params, -abs(np.log10(found[-1].train.learning_rate) + 2)))
    return found


def test_optuna_draws_near_what_has_done_well_and_the_same_for_the_same_seed(small) -> None:
    config = optuna_of(small)
    check_space(config)
    found = searched(config)
    off = [abs(np.log10(one.train.learning_rate) + 2) for one in found]
    assert np.mean(off[20:]) < 1.3 / 2  # 1.3 is the mean of draws that have learnt nothing.
    assert len({one.name for one in found}) == 40
    assert searched(config) == found
    assert searched(optuna_of(small, seed=1)) != found


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"model.lstm": [1]}, "'model.lstm' in the space is not a field"),
        ({"model.lstm_hiden": [1]}, "did you mean model.lstm_hidden"),
        ({"lerning_rate": {"log": [1e-3, 1e-2]}}, "did you mean learning_rate"),
        ({"epochs.count": [1]}, "'epochs.count' in the space is not a field"),
        ({"objective": ["mae"]}, "'mae' of 'objective' .* does not fit"),
        ({"objective": ["mse"], "model.lstm_hidden": [8, 0]}, "0 of 'model.lstm_hidden'"),
        ({"objective": []}, "'objective' in the space is \\[\\]; give a list of values"),
        ({"epochs": 3}, "'epochs' in the space is 3; give a list of values"),
        ({"epochs": {"integers": [1, 3]}}, "'epochs' in the space is .*uniform | log | integer"),
        ({"epochs": {"integer": [1, 3], "choice": [1]}}, "'epochs' in the space is"),
        ({"epochs": {"choice": []}}, "'epochs' in the space is"),
        ({"epochs": {"integer": [0, 3]}}, "0 of 'epochs'"),
        ({"epochs": {"integer": [1.0, 3]}}, "'epochs' in the space: integer takes two whole"),
        ({"epochs": {"uniform": [1, 3]}}, "of 'epochs' .* does not fit"),
        ({"learning_rate": {"log": [0.0, 1]}}, "'learning_rate' .* numbers above 0"),
        ({"learning_rate": {"log": [1, 0.1]}}, "'learning_rate' .* low below high"),
        ({"learning_rate": {"log": [0.1]}}, "'learning_rate' .* takes two numbers"),
        ({"learning_rate": {"uniform": [True, 2]}}, "'learning_rate' .* takes two numbers"),
        ({"weight_decay": {"uniform": [-1, 1]}}, "-1.0 of 'weight_decay'"),
        ({"seed": {"integer": [0, 10**20]}}, "'seed' .* beyond 64 bits"),
        ({"learning_rate": [10**20]}, "'learning_rate' .* beyond 64 bits"),
        ({"model": [{"book_hidden": [2**63]}]}, "'model' .* beyond 64 bits"),
        ({"learning_rate": {"uniform": [-1.7e308, 1.7e308]}}, "'learning_rate' .* is too far"),
        ({"model.products": [3, 4]}, "model.products is nothing to search"),
        ({"model": [{"name": "seed", "products": 9}]}, "model.products is nothing to search"),
        ({"warm_up_epochs": [3, 4.5], "epochs": [9, 4]}, "4.5 of 'warm_up_epochs' .* fit: warm"),
    ],
)
def test_a_wrong_space_names_the_key(small: TrainConfig, space: dict, message: str) -> None:
    with pytest.raises(QuaverError, match=message):
        check_space(SweepConfig(train=small, space=space))


def test_settings_that_make_no_sense_together_say_so(small: TrainConfig) -> None:
    with pytest.raises(QuaverError, match=r"'objective' .* is a list.*choice"):
        check_space(SweepConfig(train=small, space={"objective": ["mse"]}, search="optuna"))
    with pytest.raises(QuaverError, match="samples is 2, but the space has nothing to draw"):
        check_space(SweepConfig(train=small, space={"objective": ["mse"]}, samples=2))


@pytest.mark.parametrize("of", [list, reversed])
def test_values_that_fit_together_are_taken_in_any_order(small: TrainConfig, of) -> None:  # type: ignore[no-untyped-def]
    short = msgspec.structs.replace(small, epochs=2)
    keys = of([("warm_up_epochs", [3]), ("epochs", [10]), ("objective", ["mse"])])
    config = SweepConfig(train=short, space=dict(keys))
    check_space(config)
    assert [one.train.warm_up_epochs for one in all_of(config)] == [3]
    # Of draws at random an end of a range need only fit beside some of the others.
    check_space(SweepConfig(train=short, space={"warm_up_epochs": {"uniform": [0, 3]}} | WIDE))


def test_values_by_dotted_path_leave_the_rest_alone(small: TrainConfig) -> None:
    assert configured(small, {}) == small
    changed = configured(small, {"model.lstm_hidden": 9, "epochs": 2})
    assert changed.model == msgspec.structs.replace(small.model, lstm_hidden=9)
    assert msgspec.structs.replace(changed, model=small.model, epochs=small.epochs) == small


def test_a_space_of_optuna_that_holds_a_trial_that_cannot_be_is_refused(small: TrainConfig) -> None:
    model = {"model.name": {"choice": ["seed", "linear"]}}
    rate = {"learning_rate": {"log": [1e-4, 1e-2]}}
    epochs = {"epochs": {"integer": [2, 9]}, "warm_up_epochs": {"uniform": [0, 2]}}
    for space, message in (
        (model | {"model.lstm_hidden": {"integer": [8, 9]}}, "'model.lstm_hidden' .* not a field"),
        (rate | epochs, "2 of 'epochs' and the value 2.0 of 'warm_up_epochs' .* any combination"),
    ):
        with pytest.raises(QuaverError, match=message):
            check_space(SweepConfig(train=small, space=space, samples=8, search="optuna"))
    some = {"epochs": {"integer": [3, 9]}, "warm_up_epochs": {"uniform": [0, 2]}}
    check_space(SweepConfig(train=small, space=rate | some, samples=8, search="optuna"))


def test_of_many_combinations_some_are_tried_with_each_value_among_them(small: TrainConfig) -> None:
    names = ("learning_rate", "weight_decay", "gradient_clip", "temperature_bps", "momentum")
    space = {name: {"uniform": [0.1, 0.9]} for name in names}
    space |= {f"model.{name}": {"integer": [3, 4]} for name in ("lstm_hidden", "embedding_dim")}
    widths = [[8]] * 4_998 + [[0], [8]]
    for search in ("optuna", "random"):
        config = SweepConfig(train=small, space=space, samples=2, search=search)
        check_space(msgspec.structs.replace(config, space=space | {"seed": {"integer": [0, 9]}}))
        with pytest.raises(QuaverError, match=r"\[0\] of 'model.book_hidden'"):
            bad = space | {"model.book_hidden": {"choice": widths}}
            check_space(msgspec.structs.replace(config, space=bad))


def test_a_suggestion_that_cannot_be_gives_way_to_a_draw_that_can(small: TrainConfig) -> None:
    space = {"objective": {"choice": ["decision", "mse"]}, "model.name": {"choice": ["boosted"]}}
    config = SweepConfig(train=small, space=space, search="optuna", samples=20)
    with pytest.raises(QuaverError, match="boosted has no objective decision"):
        check_space(config)
    assert {one.train.objective for one in searched(config)} == {"mse"}
    assert searched(config) == searched(config)


def test_a_sweep_of_too_many_trials_is_refused_at_once(small: TrainConfig) -> None:
    drawn = {"learning_rate": {"log": [1e-4, 1e-2]}}
    for search, space, samples in (
        ("random", drawn, 10**8),
        ("optuna", drawn, MOST_TRIALS + 1),
        ("random", drawn | {"objective": ["mse", "bce"]}, MOST_TRIALS // 2 + 1),
        ("random", {"seed": list(range(MOST_TRIALS + 1))}, 1),
    ):
        with pytest.raises(QuaverError, match="at most 10,000"):
            check_space(SweepConfig(train=small, space=space, samples=samples, search=search))


def test_resources_that_would_run_no_trial_or_two_names_of_one_are_refused(
    small: TrainConfig,
) -> None:
    for resources, message in (
        ({"cpu": 1e-5}, "trial_resources: cpu must be given, and more than 0"),
        ({"cpu": 0.0}, "trial_resources: cpu must be given, and more than 0"),
        ({"gpu": 1.0}, "trial_resources: cpu must be given"),
        ({"CPU": 1.0}, "trial_resources: write cpu, not CPU"),
        ({"cpu": 1.0, "Gpu": 1.0}, "trial_resources: write gpu, not Gpu"),
    ):
        with pytest.raises(QuaverError, match=message):
            check_space(SweepConfig(train=small, space={}, trial_resources=resources))
    resources = {"cpu": 0.5, "gpu": 0.0, "spot": 1.0}
    check_space(SweepConfig(train=small, space={}, trial_resources=resources))
