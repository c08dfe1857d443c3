"""Synthetic samples with a planted signal: the first bucket of the book says which side pays."""

from collections.abc import Callable, Iterator

import msgspec
import numpy as np
import pytest
import torch

from actors.store import Store
from datasets.samples import Samples
from datasets.splits import split_by_time
from tests.tune import small_sweep
from tune.config import SweepConfig, TrainConfig
from tune.models import SeedConfig

PRODUCTS = 3
SampleMaker = Callable[..., Samples]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute as the trials of a sweep do, for results that are equal bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def planted(n: int = 2000, seed: int = 0, noise_bps: float = 0.5) -> Samples:
    """Return samples whose first buckets say which side pays, but for some noise."""
    rng = np.random.default_rng(seed)
    beat = np.sort(rng.permutation(2 * n)[:n]).astype(np.int64)
    medians = 50_000 * np.exp(np.cumsum(rng.normal(0, 2e-4, (n, 10)), axis=1))
    bids, asks = rng.dirichlet(np.ones(20), n), rng.dirichlet(np.ones(20), n)
    signal = 100 * (bids[:, 0] - asks[:, 0]) + rng.normal(0, noise_bps, n)
    common = 20 + rng.normal(0, 1, n)
    gains = np.stack([signal, signal - 1, -signal, -signal - 1, np.zeros(n)], axis=1)
    product = rng.integers(0, PRODUCTS, n).astype(np.int32)
    return Samples(beat, product, medians, bids, asks, common[:, None] + gains, np.empty((n, 0)))


@pytest.fixture
def make_samples() -> SampleMaker:
    """Return `make_samples(n, seed, noise_bps) -> Samples`."""
    return planted


@pytest.fixture
def small() -> TrainConfig:
    """Return a training run that takes a fraction of a second."""
    model = SeedConfig(
        products=PRODUCTS,
        lstm_hidden=8,
        book_hidden=(32,),
        embedding_dim=4,
        interaction_hidden=(16,),
    )
    return TrainConfig(model=model, epochs=3, batch_size=128, learning_rate=1e-2)


@pytest.fixture
def sweep(make_samples, small, tmp_path, tmp_path_factory) -> dict:
    """Return the arguments of a sweep of two trials and two epochs."""
    samples = make_samples(2000)
    samples.label[::10] = np.nan
    cached = small_sweep.under(tmp_path_factory.mktemp("data"), samples)
    config = SweepConfig(
        train=msgspec.structs.replace(small, epochs=2),
        space={"objective": ["mse", "bce"]},
        max_failures=0,
    )
    return {
        "samples": cached,
        "splits": split_by_time(cached.open().beat),
        "config": config,
        "name": "grid",
        "products": small_sweep.PRODUCTS,
        "store": Store(str(tmp_path)),
    }
