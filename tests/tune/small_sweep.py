"""Samples of three products under a root, and sweeps over them that are stopped."""

import gc
import warnings
from pathlib import Path

from actors.store import Store
from datasets.recipe import Recipe
from datasets.sample_cache import CachedSamples, samples_under
from datasets.samples import Samples
from datasets.tables import samples_table, write_samples
from market.actions import Fees
from market.errors import QuaverError
from market.features import Features
from tune.sweep import run_sweep

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
NAMES = ("00_mse", "01_bce")
HORIZON = 30
RECIPE = Recipe(fees=Fees(taker_bps=7.0), horizon_beats=HORIZON)


def under(root: Path, samples: Samples, recipe: Recipe = RECIPE) -> CachedSamples:
    """Write samples as `quaver build` does, one day of each product."""
    store = Store(str(root))
    for index, product_id in enumerate(PRODUCTS):
        mine = samples.select(samples.product == index)
        features = Features(mine.beat, mine.medians, mine.bids, mine.asks)
        table = samples_table(features, index, mine.label, mine.signals)
        write_samples(store, product_id, "2026-08-09", table, recipe)
    return samples_under(store, recipe)


def stopped(**sweep) -> str:
    """Run a sweep that is stopped, and return the message of its error."""
    message = ""
    # Tune leaves the result files of unfinished trials to the garbage collector.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            run_sweep(**sweep)
        except QuaverError as error:
            message = str(error)
        gc.collect()
    return message
