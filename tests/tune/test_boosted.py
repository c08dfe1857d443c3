"""Trees grown by LightGBM give as tensors what they give there, and need it no more."""

import sys

import lightgbm
import msgspec
import numpy as np
import pytest
import torch

from datasets.batches import Part
from datasets.recipe import Recipe
from market.errors import QuaverError
from market.policy import choices
from tests.tune.conftest import PRODUCTS, planted
from tune import boosted, training
from tune.boosted import BoostedConfig, BoostedModel, Draws, boost
from tune.checkpoint import ModelMeta, export, load_model, pack, unpack
from tune.config import TrainConfig
from tune.evaluate import captured, fraction, predict
from tune.models import build
from tune.objectives import Objective

ROWS = 3000
SMALL = BoostedConfig(products=PRODUCTS, rounds=6, depth=4, leaf_samples=20)


@pytest.fixture
def boosters(monkeypatch: pytest.MonkeyPatch) -> list[lightgbm.Booster]:
    """Return the list into which whatever LightGBM grows is put."""
    found: list[lightgbm.Booster] = []

    def spied(*args) -> lightgbm.Booster:
        found.append(original(*args))
        return found[-1]

    original = lightgbm.train
    monkeypatch.setattr(lightgbm, "train", spied)
    return found


def _inputs() -> torch.Tensor:
    """Return inputs of a model with one signal; one is constant, the last is the product."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(0, 1, (ROWS, 52)).astype(np.float32)
    inputs[:, 9] = 0.0
    inputs[:, 51] = rng.integers(0, PRODUCTS, ROWS)
    return torch.from_numpy(inputs)


def _wanted(inputs: torch.Tensor, objective: Objective) -> torch.Tensor:
    noise = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (ROWS, 5)))
    values = inputs[:, :5] * inputs[:, 47:] + (inputs[:, 51:] == 1) * 3 + noise
    values[:, 4] = 0.0  # No question tells anything of it.
    return (values if objective == "mse" else values > 0).float()


@pytest.mark.parametrize("objective", ["mse", "bce"])
def test_sums_are_those_of_lightgbm(objective, boosters) -> None:
    inputs, model = _inputs(), BoostedModel(SMALL, 1)
    wanted = _wanted(inputs, objective)
    model.append(*boost(model, inputs, wanted, objective, 0))
    assert model.sums(inputs)[:, :4].std(dim=0).min() > 0.2
    # A value that is just a threshold goes left.
    edges = inputs.double()
    used = (model.leaf[:, :, ::2] != model.leaf[:, :, 1::2]).any(dim=2)
    for feature, threshold in zip(
        model.feature[used].flatten(), model.threshold[used].flatten(), strict=True
    ):
        edges[torch.randint(ROWS, (100,)), feature] = threshold
    for given in (inputs, edges, edges[:0], edges[:1]):
        theirs = [booster.predict(given.numpy(), raw_score=True) for booster in boosters]
        if len(given):
            np.testing.assert_allclose(
                model.sums(given).numpy(), np.stack(theirs, axis=1), rtol=0, atol=1e-12
            )
        assert model.sums(given).shape == (len(given), 5)


@pytest.mark.parametrize("objective", ["mse", "bce"])
def test_epochs_are_one_run_of_lightgbm(objective, boosters) -> None:
    inputs, model = _inputs(), BoostedModel(SMALL, 1)
    wanted = _wanted(inputs, objective)
    for _ in range(3):
        model.append(*boost(model, inputs, wanted, objective, 0))
    assert model.leaf.shape == (18, 5, 16)
    params = {key: value for key, value in boosters[0].params.items() if key != "num_iterations"}
    for action in range(5):
        label = wanted[:, action].numpy().copy()
        data = lightgbm.Dataset(inputs.numpy(), label=label, params=params)
        theirs = lightgbm.train(params, data, 18).predict(inputs.numpy(), raw_score=True)
        np.testing.assert_allclose(model.sums(inputs)[:, action], theirs, rtol=0, atol=1e-9)


def test_many_samples_at_once_are_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, model = _inputs(), BoostedModel(SMALL, 1)
    model.append(*boost(model, inputs, _wanted(inputs, "mse"), "mse", 0))
    whole = model.sums(inputs)
    monkeypatch.setattr(boosted, "_AT_ONCE", 5 * ROWS * 4)  # Four trees, then two.
    torch.testing.assert_close(model.sums(inputs), whole, rtol=0, atol=1e-12)


def _config(objective: Objective = "mse", **sizes: int) -> TrainConfig:
    model = msgspec.structs.replace(SMALL, **sizes)
    return TrainConfig(model=model, objective=objective, epochs=3)


def _parts() -> tuple[Part, Part]:
    return Part.of(planted(1500, 1)), Part.of(planted(300, 2))


@pytest.mark.parametrize("objective", ["advantage", "bce"])
def test_other_objectives_learn_too(objective) -> None:
    state = training.train(*_parts(), _config(objective, rounds=20))
    model = build(state.config.model, 0)
    model.load_state_dict(state.weights)
    held_out = planted(500, 3)
    chosen = choices(predict(model, held_out))
    assert fraction(*captured(chosen, held_out.label)) > 0.9


def test_an_epoch_draws_other_rows_and_uses_them_once() -> None:
    part, _ = _parts()
    draws = Draws(part, 400, 7)
    (first,), (again,), (second,) = (list(draws.epoch(epoch)) for epoch in (1, 1, 2))
    assert len(first) == len(second) == 400
    assert np.array_equal(first.beat, again.beat)
    assert not np.isin(second.beat, first.beat).all()
    assert not list(draws.epoch(1, from_batch=1))


@pytest.mark.parametrize("asked", [1, 2, 3])  # After growing, after validation, after growing.
def test_a_run_that_was_stopped_grows_no_tree_twice(asked: int) -> None:
    config = _config(rows=500)
    whole = training.train(*_parts(), config)
    countdown = iter([False] * (asked - 1) + [True])
    stopped = training.train(*_parts(), config, should_stop=lambda: next(countdown))
    assert not stopped.is_finished
    content = pack(stopped)
    assert len(unpack(content).weights["leaf"]) == 6 * (1 + (asked == 3))
    resumed = training.train(*_parts(), config, resume_from=content)
    assert resumed.weights.keys() == whole.weights.keys()
    for name, tensor in whole.weights.items():
        assert torch.equal(resumed.weights[name], tensor), name
    assert len(resumed.best_weights["leaf"]) == 6 * resumed.best_epoch


def _exported() -> tuple[dict[str, torch.Tensor], ModelMeta]:
    state = training.train(*_parts(), _config())
    meta = ModelMeta(
        model=SMALL,
        objective="mse",
        products=("BTC-USD", "ETH-USD", "SOL-USD"),
        trained=("BTC-USD",),
        recipe=Recipe(),
    )
    return state.weights, meta


def test_predicting_needs_no_lightgbm_and_growing_says_that_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights, meta = _exported()
    content, held_out = export(weights, meta), planted(50, 3)
    wanted = predict(load_model(content)[0], held_out)

    class Missing:
        """What an import of LightGBM finds where the system's library is not there."""

        def find_spec(self, name: str, *_: object) -> None:
            if name == "lightgbm":
                raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "lightgbm")
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    assert predict(load_model(content)[0], held_out).tobytes() == wanted.tobytes()
    with pytest.raises(QuaverError, match=r"libgomp.so.1: cannot .*Debian, Ubuntu: libgomp1"):
        training.train(*_parts(), _config())


def test_a_file_with_trees_that_cannot_be_is_refused() -> None:
    weights, meta = _exported()
    for name, tensor in (
        ("feature", torch.full_like(weights["feature"], 51)),
        ("feature", torch.full_like(weights["feature"], -1)),
        ("leaf", weights["leaf"][:-1]),
        ("threshold", weights["threshold"][:, :, :-1]),
        ("threshold", torch.zeros(())),
    ):
        with pytest.raises(QuaverError, match="do not fit its header"):
            load_model(export({**weights, name: tensor}, meta))
    with pytest.raises(QuaverError, match="do not fit its header"):
        load_model(export(weights, msgspec.structs.replace(meta, model=BoostedConfig(depth=3))))
    del weights["leaf"]
    with pytest.raises(QuaverError, match="do not fit its header"):
        load_model(export(weights, meta))


def test_inputs_that_are_no_numbers_are_refused() -> None:
    train_part, validation = _parts()
    train_part.samples.medians[5, 3] = np.nan
    with pytest.raises(QuaverError, match="inputs of train are not finite"):
        training.train(train_part, validation, _config())
