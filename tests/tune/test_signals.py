"""A model takes signals as further inputs; without any it is what it was."""

import dataclasses
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import torch

from datasets.batches import Part
from datasets.recipe import Recipe
from datasets.samples import Samples
from market.errors import QuaverError
from market.policy import choices
from market.signals import SignalsConfig, names
from tune import evaluate
from tune.checkpoint import ModelMeta, export, load_model
from tune.models import SeedConfig, SeedModel, build
from tune.training import train

SIGNALS = SignalsConfig(taker=True)
WIDTH = len(names(SIGNALS))


@pytest.fixture
def with_signals(make_samples) -> Callable[[int, int], Samples]:
    """Return a function that makes samples of which a signal alone tells which side pays."""

    def make(n: int, seed: int) -> Samples:
        samples, other = make_samples(n, seed), make_samples(n, seed + 1000)
        signals = np.random.default_rng(seed).normal(5, 100, (n, WIDTH))
        signals[:, 1] = 1e4 + 30 * (samples.label[:, 0] - samples.label[:, 4])
        return dataclasses.replace(samples, bids=other.bids, asks=other.asks, signals=signals)

    return make


def without(samples: Samples) -> Samples:
    return dataclasses.replace(samples, signals=samples.signals[:, :0])


def tensors(samples: Samples) -> list[torch.Tensor]:
    columns = ("medians", "bids", "asks", "signals", "product")
    return [torch.from_numpy(getattr(samples, name)) for name in columns]


def fitted(samples: Samples, config: SeedConfig) -> SeedModel:
    torch.manual_seed(0)
    model = build(config, samples.signals.shape[1])
    model.fit_scaling(*tensors(samples)[:4], torch.zeros(5), 1.0)
    return model.eval()


def test_what_only_a_signal_tells_is_learnt(with_signals, small) -> None:
    parts = [with_signals(n, seed) for n, seed in ((3000, 1), (500, 2), (1000, 3))]
    captured = []
    for train_samples, validation, held_out in (parts, [without(part) for part in parts]):
        state = train(Part.of(train_samples), Part.of(validation), small)
        model = build(small.model, held_out.signals.shape[1])
        model.load_state_dict(state.best_weights)
        chosen = choices(evaluate.predict(model, held_out))
        captured.append(evaluate.fraction(*evaluate.captured(chosen, held_out.label)))
    assert captured[0] > 0.9 and captured[1] < 0.3, captured


def test_signals_are_standardised_by_train_inside_the_model(with_signals, small) -> None:
    samples = with_signals(500, 1)
    samples.signals[:, 2] = 7.0
    model = fitted(samples, small.model)
    assert {"signal_mean", "signal_scale"} <= model.state_dict().keys()
    seen = []
    model.interaction.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    later = with_signals(50, 2)
    with torch.no_grad():
        model(*tensors(samples))
        model(*tensors(later))
    inside = seen[0][:, -WIDTH:]
    torch.testing.assert_close(inside.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    deviations = torch.tensor([1.0, 1.0, 0.0])
    torch.testing.assert_close(inside.std(0, correction=0), deviations, atol=1e-3, rtol=0)
    expected = (later.signals[:, 0] - samples.signals[:, 0].mean()) / samples.signals[:, 0].std()
    np.testing.assert_allclose(seen[1][:, -WIDTH].numpy(), expected, atol=1e-4)


def test_every_signal_reaches_the_outputs(with_signals, small) -> None:
    samples = with_signals(50, 1)
    model = fitted(samples, small.model)
    before = evaluate.predict(model, samples)
    for column in range(WIDTH):
        changed = samples.signals.copy()
        changed[:, column] += 50
        found = evaluate.predict(model, dataclasses.replace(samples, signals=changed))
        assert not np.isclose(found, before).all()


def test_a_model_without_signals_has_nothing_of_them(with_signals, small) -> None:
    model = fitted(without(with_signals(50, 1)), small.model)
    assert not [name for name in model.state_dict() if "signal" in name]
    width = small.model.lstm_hidden + small.model.book_hidden[-1] + small.model.embedding_dim
    assert model.interaction[0].in_features == width
    with pytest.raises(RuntimeError):
        evaluate.predict(model, with_signals(50, 1))


def test_a_model_file_takes_the_signals_of_its_recipe(with_signals, small) -> None:
    samples = with_signals(50, 1)
    model = fitted(samples, small.model)
    meta = ModelMeta(
        model=small.model,
        objective="mse",
        products=("BTC-USD", "ETH-USD", "SOL-USD"),
        trained=("BTC-USD",),
        recipe=Recipe(signals=SIGNALS),
    )
    loaded, found = load_model(export(model.state_dict(), meta))
    assert found == meta
    wanted, again = (evaluate.predict(each, samples) for each in (model, loaded))
    assert wanted.tobytes() == again.tobytes()
    for other in (Recipe(), Recipe(signals=SignalsConfig(spread=True))):
        wrong = msgspec.structs.replace(meta, recipe=other)
        with pytest.raises(QuaverError, match="do not fit its header"):
            load_model(export(model.state_dict(), wrong))
