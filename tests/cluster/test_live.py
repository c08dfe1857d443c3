"""What is collected for a model, and what a sweep may look at."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from actors.store import Store
from cluster import stages
from cluster.config import Config, DemoConfig
from cluster.live import collected
from datasets.neighbours import Neighbours, write_neighbours
from datasets.recipe import Recipe
from datasets.samples import Samples
from market.cross import CrossConfig
from market.errors import QuaverError
from tests.serve_app.market_walk import PRODUCTS, meta_of

BTC, ETH, SOL = PRODUCTS
LOOKS = Recipe(cross=CrossConfig(btc_eth=True, neighbours=1), nearest={SOL: ("XRP-USD", "ADA-USD")})


def test_what_a_model_looks_at_is_collected_with_what_is_traded() -> None:
    assert collected(Config(), meta_of(recipe=LOOKS), (SOL,)) == (SOL, BTC, ETH, "XRP-USD")
    assert collected(Config(), meta_of(recipe=LOOKS), (SOL, BTC)) == (SOL, BTC, ETH, "XRP-USD")
    assert collected(Config(), meta_of(), (SOL,)) == (SOL,)


def test_a_simulated_market_has_no_others_than_its_own() -> None:
    config = Config(feed_url="simulated", demo=DemoConfig(products=(SOL, ETH)))
    assert collected(config, meta_of(recipe=LOOKS), (SOL,)) == (SOL, ETH)


class Cached:
    """Samples of 2,000 beats, of which validation begins at the 1,268th."""

    def __init__(self, store: Store, recipe: Recipe) -> None:
        self.recipe = recipe

    def open(self, on_file: object) -> Samples:
        none = np.zeros((2_000, 0))
        beat, product = np.arange(2_000), np.zeros(2_000, np.int32)
        return Samples(beat, product, none, none, none, np.zeros((2_000, 5)), none)


@pytest.mark.parametrize(("until_beat", "knows"), [(1_268, False), (1_269, True)])
def test_nearest_coins_that_know_of_validation_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until_beat: int, knows: bool
) -> None:
    store, config = Store(str(tmp_path)), Config(cross=CrossConfig(neighbours=1))
    found = Neighbours(
        least_returns=300,
        first_beat=0,
        until_beat=until_beat,
        inputs_sha256="",
        products=(BTC,),
        nearest={BTC: ()},
    )
    write_neighbours(store, found)
    monkeypatch.setattr(stages, "samples_under", Cached)
    if knows:
        with pytest.raises(QuaverError, match="validation begins at 1268: it would know of it"):
            stages.split_samples(store, config)
    else:
        cached, samples, _ = stages.split_samples(store, config)
        assert cached.recipe == msgspec.structs.replace(config.recipe, nearest={BTC: ()})
        assert len(samples) == 2_000
