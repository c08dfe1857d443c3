"""The loader: samples into a training model, beside the same model fed from tensors in memory.

Both run the same steps of the seed model over the same rows in shuffled batches, in alternation.
The bare loader, with no model behind it, is measured beside the same tensors and beside Ray Data
over the same Parquet files.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data.collate_fn import ArrowBatchCollateFn
from torch import Tensor

from actors.store import Store
from benchmarks.decode import SEED
from benchmarks.harness import Result, compare, report
from datasets.batches import Batches, Part
from datasets.recipe import Recipe
from datasets.sample_cache import samples_under
from datasets.tables import samples_table, write_samples
from market.features import Features
from market.products import UNIVERSE
from tune import objectives
from tune.config import TrainConfig
from tune.models import build
from tune.scaled import ScaledModel
from tune.training import features_of

FILES, ROWS = 50, 20_000  # As many files as products, each about a day.
TRAINED = 32 * 1024  # Rows of a run of the model, an epoch: short, so that runs meet equal times.
CONFIG = TrainConfig()
Batch = tuple[tuple[Tensor, ...], Tensor]


def measure() -> list[Result]:
    """Measure with a model behind the loader, and without."""
    folder = Path(tempfile.mkdtemp(prefix="quaver-loader-"))
    torch.set_num_threads(1)  # As in a trial.
    try:
        store = Store(str(folder))
        _write(store)
        samples = samples_under(store, Recipe()).open()
        part = Part.of(samples)
        return [*_training(Part(samples, part.rows[:TRAINED])), *_bare(part, folder)]
    finally:
        shutil.rmtree(folder)


def _write(store: Store) -> None:
    """Write samples of arbitrary content, a file a product."""
    rng = np.random.default_rng(SEED)
    for index, listed in enumerate(UNIVERSE[:FILES]):
        medians = 50_000 * np.exp(np.cumsum(rng.normal(0, 2e-4, (ROWS, 10)), axis=1))
        bids, asks = (rng.dirichlet(np.ones(20), ROWS) for _ in range(2))
        features = Features(np.arange(ROWS), medians, bids, asks)
        table = samples_table(features, index, rng.normal(0, 10, (ROWS, 5)), np.empty((ROWS, 0)))
        write_samples(store, listed.id, "2026-08-09", table, Recipe())


def _training(part: Part) -> list[Result]:
    """Measure an epoch of the seed model."""
    in_memory = _Tensors(part)
    models = [build(CONFIG.model, 0) for _ in range(2)]
    return compare(
        "training the seed model, fed by the loader",
        "samples/s",
        lambda: _train(models[0], _from_disk(part)),
        {"the same model, fed from tensors in memory": (
            lambda: _train(models[1], in_memory.shuffled()), len(part)
        )},
        len(part),
        runs=25,
    )  # fmt: skip


def _bare(part: Part, folder: Path) -> list[Result]:
    in_memory = _Tensors(part)
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        return compare(
            "samples read in shuffled batches",
            "samples/s",
            lambda: _read(_from_disk(part)),
            {
                "tensors in memory, by index": (lambda: _read(in_memory.shuffled()), len(part)),
                "Ray Data, iter_torch_batches": (lambda: _by_ray(folder), len(part)),
            },
            len(part),
        )
    finally:
        ray.shutdown()


class _Tensors:
    """A part that was loaded whole, shuffled row by row."""

    def __init__(self, part: Part) -> None:
        (samples,) = part.in_order(len(part))
        self._features = features_of(samples)
        self._wanted = objectives.targets(CONFIG.objective, samples.label)

    def shuffled(self) -> Iterable[Batch]:
        order = torch.from_numpy(np.random.default_rng(SEED).permutation(len(self._wanted)))
        for rows in order.split(CONFIG.batch_size):
            yield tuple(column[rows] for column in self._features), self._wanted[rows]


def _from_disk(part: Part) -> Iterable[Batch]:
    for batch in Batches(part, CONFIG.batch_size, SEED).epoch(1):
        yield features_of(batch), objectives.targets(CONFIG.objective, batch.label)


def _train(model: ScaledModel, batches: Iterable[Batch]) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=CONFIG.learning_rate, fused=True)
    for features, wanted in batches:
        optimiser.zero_grad(set_to_none=True)
        loss = objectives.loss(CONFIG.objective, model(*features), wanted, model.output_scale)
        loss.backward()
        optimiser.step()


def _read(batches: Iterable[Batch]) -> None:
    for _ in batches:
        pass


class _Collate(ArrowBatchCollateFn):
    """A batch of Ray Data's as tensors; its own collation makes objects of our lists."""

    def __call__(self, batch: pa.Table) -> dict[str, Tensor]:
        found = {}
        for name in batch.column_names:
            column = batch[name].combine_chunks()
            values = column
            if pa.types.is_fixed_size_list(column.type):
                values = column.flatten()
            found[name] = torch.from_numpy(values.to_numpy().reshape(len(column), -1).copy())
        return found


def _by_ray(folder: Path) -> None:
    columns = ["product", "medians", "bids", "asks", "label"]
    path = str(folder / "samples")
    # The folders' names say product=..., which would take the place of the column.
    dataset = ray.data.read_parquet(path, partitioning=None).select_columns(columns)
    batches = dataset.iter_torch_batches(
        batch_size=CONFIG.batch_size, collate_fn=_Collate(), local_shuffle_buffer_size=ROWS
    )
    if sum(len(batch["product"]) for batch in batches) != FILES * ROWS:
        raise SystemExit("Ray Data does not give our rows")


if __name__ == "__main__":
    report(measure())
