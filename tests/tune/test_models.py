"""The scaling lives in the model, and only there; sizes are configuration."""

import msgspec
import numpy as np
import pytest
import torch

from market.errors import QuaverError
from tune import objectives
from tune.config import TrainConfig
from tune.models import ModelConfig, SeedConfig, SeedModel, TcnConfig, build, changed
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


def test_layers_and_sizes_of_the_seed_model_are_configured_section_by_section() -> None:
    config = SeedConfig(
        products=3,
        lstm_hidden=8,
        lstm_layers=2,
        book_hidden=(6, 7, 4),
        embedding_dim=5,
        interaction_hidden=(9, 10),
    )
    found = {name: tuple(tensor.shape) for name, tensor in build(config, 2).state_dict().items()}
    # These names and shapes are in the files of models that were trained before.
    assert found == {
        "median_mean": (10,),
        "median_scale": (10,),
        "book_mean": (40,),
        "book_scale": (40,),
        "signal_mean": (2,),
        "signal_scale": (2,),
        "output_mean": (5,),
        "output_scale": (),
        "lstm.weight_ih_l0": (32, 1),
        "lstm.weight_hh_l0": (32, 8),
        "lstm.bias_ih_l0": (32,),
        "lstm.bias_hh_l0": (32,),
        "lstm.weight_ih_l1": (32, 8),
        "lstm.weight_hh_l1": (32, 8),
        "lstm.bias_ih_l1": (32,),
        "lstm.bias_hh_l1": (32,),
        "book.0.weight": (6, 40),
        "book.0.bias": (6,),
        "book.2.weight": (7, 6),
        "book.2.bias": (7,),
        "book.4.weight": (4, 7),
        "book.4.bias": (4,),
        "embedding.weight": (3, 5),
        "interaction.0.weight": (9, 8 + 4 + 5 + 2),
        "interaction.0.bias": (9,),
        "interaction.2.weight": (10, 9),
        "interaction.2.bias": (10,),
        "head.weight": (5, 10),
        "head.bias": (5,),
    }


def test_a_tcn_looks_at_nothing_but_the_past() -> None:
    torch.manual_seed(0)
    model = build(TcnConfig(products=3, kernel=2, layers=4), 0)
    states = []
    for layer in model.convolutions:
        layer.register_forward_hook(lambda _, __, found: states.append(found))
    steps = torch.randn(1, 10)
    with torch.no_grad():
        model.encode(steps)
        changed_late = torch.cat([steps[:, :6], steps[:, 6:] + 1], dim=1)
        model.encode(changed_late)
    for before, after in zip(states[:4], states[4:], strict=True):
        assert before.shape == after.shape == (1, 32, 10)
        assert torch.equal(before[:, :, :6], after[:, :, :6])
        assert not torch.isclose(before[:, :, 6:], after[:, :, 6:]).all(dim=1).any()


SEED = msgspec.to_builtins(SeedConfig(products=3, lstm_hidden=8))


def test_another_name_starts_from_that_models_defaults_for_the_same_products() -> None:
    assert changed(SEED, {"lstm_layers": 2}, "") == {**SEED, "lstm_layers": 2}
    assert changed(SEED, {"name": "seed"}, "") == SEED
    found = changed(SEED, {"name": "tcn", "channels": 7}, "")
    assert msgspec.convert(found, ModelConfig) == TcnConfig(products=3, channels=7)
    assert changed(SEED, {"name": "linear", "products": 2}, "") == {"name": "linear", "products": 2}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("tcn", "here: 'tcn' is no table of a model"),
        ({"name": "cnn"}, "here: there is no model 'cnn', but seed, transformer, tcn, mlp, linear"),
        ({"name": ["tcn"]}, r"here: there is no model \['tcn'\]"),
        ({"name": "tcn", "chanels": 1}, "tcn has no field 'chanels', but .* mean channels?"),
        ({"lstm_hiden": 1}, "seed has no field 'lstm_hiden', but .* mean lstm_hidden?"),
    ],
)
def test_what_no_model_has_is_refused_by_name(given, message: str) -> None:
    with pytest.raises(QuaverError, match=message):
        changed(SEED, given, "here")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "tcn", "layers": 1}, "1 `layers` of `kernel` 3 see 3 of 10 medians"),
        ({"name": "tcn", "kernel": 2, "layers": 3}, "see 8 of 10 medians"),
        ({"name": "transformer", "width": 31}, r"`heads` \(2\) must divide `width` \(31\)"),
        ({"name": "boosted", "depth": 11}, r"`int` <= 10 - at `\$.depth`"),
        ({"name": "boosted", "shrinkage": 0}, r"> 0.0 - at `\$.shrinkage`"),
        ({"name": "mlp", "hidden": []}, r"length >= 1 - at `\$.hidden`"),
        ({"name": "seed", "lstm_layers": 0}, r"`int` >= 1 - at `\$.lstm_layers`"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(fields, message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(fields, ModelConfig)
