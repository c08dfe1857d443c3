"""The deployment predicts with every model of the registry as an evaluation does."""

import asyncio

import numpy as np
import pytest

from datasets.batches import Part
from datasets.recipe import Recipe
from serve_app.predictor import Predictor
from tests.serve_app.market_walk import PRODUCTS
from tests.tune.conftest import planted
from tune.checkpoint import ModelMeta, export, load_model
from tune.config import TrainConfig
from tune.evaluate import predict
from tune.models import CONFIGS, MODELS
from tune.training import train


@pytest.mark.parametrize("name", MODELS)
def test_a_predictor_gives_what_an_evaluation_does(name: str) -> None:
    config = TrainConfig(model=CONFIGS[name](products=len(PRODUCTS)), epochs=1)
    state = train(Part.of(planted(500, 1)), Part.of(planted(100, 2)), config)
    meta = ModelMeta(
        model=config.model,
        objective="mse",
        products=PRODUCTS,
        trained=PRODUCTS,
        recipe=Recipe(),
    )
    content, samples = export(state.weights, meta), planted(55, 3)
    columns = [getattr(samples, key) for key in ("medians", "bids", "asks", "signals", "product")]
    for column in columns:
        column.flags.writeable = False  # As Ray delivers them.
    served = asyncio.run(Predictor.func_or_class(content).predict(*columns))
    wanted = predict(load_model(content)[0], samples)
    assert served.dtype == np.float64 and wanted[:, 0].std() > 0
    np.testing.assert_array_equal(served, wanted)
