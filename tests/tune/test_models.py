"""The scaling lives in the model, and only there."""

import msgspec
import numpy as np
import torch

from tune import objectives
from tune.config import TrainConfig
from tune.models import SeedConfig, SeedModel, build
from tune.scaled import log_ratios


def _tensors(samples) -> list[torch.Tensor]:
    columns = (samples.medians, samples.bids, samples.asks, samples.signals, samples.product)
    return [torch.from_numpy(column) for column in columns]


def _fitted(samples, config: SeedConfig) -> SeedModel:
    torch.manual_seed(0)
    model = build(config, samples.signals.shape[1])
    features = _tensors(samples)
    model.fit_scaling(*features[:4], *objectives.output_scaling("mse", samples.label))
    return model.eval()


def test_outputs_do_not_depend_on_the_unit_of_price(make_samples, small) -> None:
    samples = make_samples(300)
    model = _fitted(samples, small.model)
    medians, *rest = _tensors(samples)
    with torch.no_grad():
        for factor in (1e3, 1e-6):
            torch.testing.assert_close(
                model(medians * factor, *rest), model(medians, *rest), rtol=1e-5, atol=1e-4
            )


def test_log_ratios_keep_one_tick_of_a_high_price() -> None:
    medians = torch.full((1, 10), 100_000.0, dtype=torch.float64)
    medians[0, 0] += 0.005
    assert log_ratios(medians)[0, 0].item() == np.float32(np.log(100_000.005 / 100_000))
    assert not log_ratios(medians)[0, 1:].any()


def test_inputs_are_standardised_and_constants_survive(make_samples, small) -> None:
    samples = make_samples(500)
    samples.asks[:, 7] = 0.25
    model = _fitted(samples, small.model)
    seen = {}
    model.book.register_forward_hook(lambda _, given, __: seen.update(book=given[0]))
    model.lstm.register_forward_hook(lambda _, given, __: seen.update(steps=given[0][..., 0].T))
    with torch.no_grad():
        assert torch.isfinite(model(*_tensors(samples))).all()
    constant = 20 + 7
    others = [index for index in range(40) if index != constant]
    torch.testing.assert_close(seen["book"][:, others].mean(0), torch.zeros(39), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        seen["book"][:, others].std(0, correction=0), torch.ones(39), atol=1e-4, rtol=0
    )
    assert not seen["book"][:, constant].any()
    torch.testing.assert_close(
        seen["steps"][:, :9].std(0, correction=0), torch.ones(9), atol=1e-4, rtol=0
    )
    assert not seen["steps"][:, 9].any()


def test_every_input_reaches_the_outputs(make_samples, small) -> None:
    samples = make_samples(50)
    model = _fitted(samples, small.model)
    features = _tensors(samples)
    with torch.no_grad():
        before = model(*features)
        assert before.shape == (50, 5)
        for index, other in enumerate(_tensors(make_samples(50, seed=9))):
            if not other.numel():
                continue  # Signals, of which there are none.
            changed = [*features[:index], other, *features[index + 1 :]]
            assert not torch.equal(model(*changed), before)


def test_config_is_tagged_by_model_name_and_knows_the_universe() -> None:
    assert msgspec.to_builtins(SeedConfig(products=2))["name"] == "seed"
    assert TrainConfig().model == SeedConfig(products=55)
