"""Serve is imported where its warnings are no errors, for these tests too; and a small root."""

from pathlib import Path

import numpy as np
import pytest

import tests.serve_app.conftest  # noqa: F401
from actors.store import Store
from cluster import stages
from datasets.recipe import Recipe
from datasets.tables import samples_table, write_samples
from market.features import Features


@pytest.fixture
def two_hours(tmp_path: Path) -> Store:
    """Samples of one product, of two hours."""
    store, rng, n = Store(str(tmp_path)), np.random.default_rng(0), 1800
    medians = 50_000 * np.exp(np.cumsum(rng.normal(0, 2e-4, (n, 10)), axis=1))
    shares = rng.dirichlet(np.ones(20), (2, n))
    features = Features(441_892_800 + np.arange(n), medians, *shares)
    btc = stages.PRODUCT_IDS.index("BTC-USD")
    table = samples_table(features, btc, rng.normal(0, 1, (n, 5)), np.empty((n, 0)))
    write_samples(store, "BTC-USD", "2026-01-05", table, Recipe())
    return store
