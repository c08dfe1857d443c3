"""What holds for every model of the registry, with signals and without.

Each is trained once, on samples whose nearest buckets say which side pays.
"""

import dataclasses
import functools

import msgspec
import numpy as np
import pytest
import torch

from datasets.batches import Part
from datasets.recipe import Recipe
from datasets.samples import Samples
from market.policy import choices
from market.signals import SignalsConfig, names
from tests.tune.conftest import PRODUCTS, planted
from tune import objectives
from tune.checkpoint import ModelMeta, TrainState, export, load_model, pack, unpack
from tune.config import TrainConfig
from tune.evaluate import captured, fraction, predict
from tune.models import CONFIGS, MODELS, build
from tune.scaled import ScaledModel
from tune.training import EpochMetrics, train

SIGNALS = SignalsConfig(taker=True)
WIDTH = len(names(SIGNALS))
EPOCHS = 4

every_model = pytest.mark.parametrize("name", MODELS)
# Fast tests train each model once.
every_width = pytest.mark.parametrize("width", [pytest.param(0, marks=pytest.mark.slow), WIDTH])


def samples_of(width: int, n: int, seed: int) -> Samples:
    signals = np.random.default_rng(seed).normal(5, 100, (n, width))
    return dataclasses.replace(planted(n, seed), signals=signals)


def config_of(name: str) -> TrainConfig:
    model = CONFIGS[name](products=PRODUCTS)
    return TrainConfig(
        model=model, objective="mse", epochs=EPOCHS, batch_size=128, learning_rate=5e-3
    )


def parts(width: int) -> tuple[Part, Part]:
    return Part.of(samples_of(width, 1500, 1)), Part.of(samples_of(width, 300, 2))


@functools.cache
def trained(name: str, width: int) -> tuple[list[EpochMetrics], TrainState, TrainState]:
    """Metrics of every epoch, the state after the first two, and the last."""
    metrics, early = [], []

    def keep(found: EpochMetrics, state: TrainState) -> None:
        metrics.append(found)
        if found.epoch == 2:
            early.append(dataclasses.replace(state, weights=copied(state.weights)))
            early[0].optimiser = _deep(state.optimiser)

    state = train(*parts(width), config_of(name), on_epoch=keep)
    return metrics, early[0], state


def _deep(tree):
    if isinstance(tree, torch.Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        return {key: _deep(value) for key, value in tree.items()}
    return [_deep(value) for value in tree] if isinstance(tree, list) else tree


def copied(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in weights.items()}


def model_of(name: str, width: int) -> ScaledModel:
    model = build(CONFIGS[name](products=PRODUCTS), width)
    model.load_state_dict(trained(name, width)[2].weights)
    return model.eval()


def tensors(samples: Samples) -> list[torch.Tensor]:
    columns = ("medians", "bids", "asks", "signals", "product")
    return [torch.from_numpy(getattr(samples, column).copy()) for column in columns]


def test_every_config_has_a_model() -> None:
    assert list(CONFIGS) == list(MODELS)
    for name, config in CONFIGS.items():
        assert msgspec.to_builtins(config())["name"] == name


@every_model
@every_width
def test_five_numbers_a_sample_whatever_the_batch(name: str, width: int) -> None:
    model, inputs = model_of(name, width), tensors(samples_of(width, 30, 3))
    with torch.inference_mode():
        whole = model(*inputs)
        assert whole.shape == (30, 5) and whole.dtype == torch.float32
        one_by_one = [model(*(column[i : i + 1] for column in inputs)) for i in range(30)]
        torch.testing.assert_close(torch.cat(one_by_one), whole, rtol=1e-4, atol=1e-3)
        assert model(*(column[:0] for column in inputs)).shape == (0, 5)


@every_model
@every_width
def test_the_unit_of_price_does_not_matter(name: str, width: int) -> None:
    model = model_of(name, width)
    medians, *rest = tensors(samples_of(width, 200, 3))
    with torch.inference_mode():
        for factor in (1e3, 1e-6):
            torch.testing.assert_close(
                model(medians * factor, *rest), model(medians, *rest), rtol=1e-4, atol=1e-3
            )


@every_model
def test_seed_decides(name: str) -> None:
    small = tuple(Part.of(samples_of(WIDTH, n, n)) for n in (300, 100))
    first, again, other = (
        train(*small, msgspec.structs.replace(config_of(name), epochs=1, seed=seed)).weights
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    # Trees are grown on all of so few samples, whatever the order.
    is_same = all(torch.equal(first[key], other[key]) for key in first)
    assert is_same != MODELS[name].has_gradient


@every_model
@pytest.mark.parametrize("width", [0, WIDTH])
def test_gradients_reach_every_parameter(name: str, width: int) -> None:
    torch.manual_seed(0)
    samples = samples_of(width, 100, 3)
    model, inputs = build(CONFIGS[name](products=PRODUCTS), width), tensors(samples)
    model.fit_scaling(*inputs[:4], *objectives.output_scaling("mse", samples.label))
    found = dict(model.named_parameters())
    assert bool(found) == model.has_gradient
    if found:
        outputs = model(*inputs)
        wanted = objectives.targets("mse", samples.label)
        objectives.loss("mse", outputs, wanted, model.output_scale).backward()
    for parameter, tensor in found.items():
        assert tensor.grad is not None and tensor.grad.any(), parameter


@every_model
@every_width
def test_a_planted_rule_is_learnt(name: str, width: int) -> None:
    metrics, _, state = trained(name, width)
    assert state.epoch == EPOCHS
    losses = [found.train_loss for found in metrics]
    assert losses == sorted(losses, reverse=True)
    # The loss of a constant is 1.
    assert metrics[-1].validation_loss < 0.5, metrics[-1]
    held_out = samples_of(width, 500, 3)
    chosen = choices(predict(model_of(name, width), held_out))
    assert fraction(*captured(chosen, held_out.label)) > 0.8


@every_model
@every_width
def test_every_kind_of_input_reaches_the_outputs(name: str, width: int) -> None:
    model, inputs = model_of(name, width), tensors(samples_of(width, 300, 3))
    others = tensors(samples_of(width, 300, 4))
    with torch.inference_mode():
        before = model(*inputs)
        for index in (0, 1, 2, 3, 4) if width else (0, 1, 2, 4):
            inputs[index], kept = others[index], inputs[index]
            assert not torch.equal(model(*inputs), before), index
            inputs[index] = kept


@every_model
@every_width
def test_an_input_that_is_no_number_gives_no_numbers(name: str, width: int) -> None:
    model, inputs = model_of(name, width), tensors(samples_of(width, 4, 3))
    for column, place in ((0, (0, 2)), (1, (1, 5)), (2, (1, 7)), (3, (2, 1))):
        if inputs[column].shape[1]:
            inputs[column][place] = torch.nan
    with torch.inference_mode():
        outputs = model(*inputs)
    assert outputs[: 3 if width else 2].isnan().all()
    assert outputs[3].isfinite().all()


@every_model
@every_width
def test_a_resumed_run_is_the_undisturbed_one(name: str, width: int) -> None:
    metrics, early, whole = trained(name, width)
    content = pack(early)
    assert unpack(content).epoch == 2
    again: list[EpochMetrics] = []
    resumed = train(
        *parts(width),
        config_of(name),
        resume_from=content,
        on_epoch=lambda found, _: again.append(found),
    )
    assert again == metrics[2:]
    assert resumed.best_epoch == whole.best_epoch
    for found, wanted in (
        (resumed.weights, whole.weights),
        (resumed.best_weights, whole.best_weights),
    ):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert torch.equal(found[key], wanted[key]), key


@every_model
@every_width
def test_an_exported_model_gives_the_same_outputs(name: str, width: int) -> None:
    model, held_out = model_of(name, width), samples_of(width, 55, 3)
    meta = ModelMeta(
        model=model.config,
        objective="mse",
        products=("BTC-USD", "ETH-USD", "SOL-USD"),
        trained=("BTC-USD",),
        recipe=Recipe(signals=SIGNALS if width else SignalsConfig()),
    )
    content = export(trained(name, width)[2].weights, meta)
    loaded, found = load_model(content)
    assert found == meta
    assert predict(loaded, held_out).tobytes() == predict(model, held_out).tobytes()
