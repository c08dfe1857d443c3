"""Steps of the seed model in float32, beside bfloat16 and a compiled model.

By processor time, on one thread and one batch in memory: what docs/decisions.md says of `precision`
and of torch.compile. Where the ratio is below 1, the other one is faster.
"""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.decode import SEED
from benchmarks.harness import Result, compare_cpu, report
from tune.allocator import keep_freed_memory
from tune.config import TrainConfig
from tune.models import build
from tune.objectives import loss
from tune.optimisers import Stepper

STEPS = 8


def measure() -> list[Result]:
    """Measure with the batches of the default configuration and of the demo's."""
    torch.set_num_threads(1)  # As in a trial.
    keep_freed_memory()
    return [one for batch_size in (1024, 256) for one in _measure(batch_size)]


def _measure(batch_size: int) -> list[Result]:
    return compare_cpu(
        f"training the seed model in float32, batches of {batch_size}",
        "samples/s",
        _steps(batch_size),
        {
            "autocast to bfloat16": _steps(batch_size, dtype=torch.bfloat16),
            "torch.compile": _steps(batch_size, compiled=True),
        },
        batch_size * STEPS,
        limit=None,
        runs=25,
    )


def _steps(
    batch_size: int, *, dtype: torch.dtype | None = None, compiled: bool = False
) -> Callable[[], None]:
    """Return what takes some steps on one batch."""
    config = TrainConfig()
    torch.manual_seed(SEED)
    model = build(config.model, 0)
    stepper = Stepper(model, config, STEPS)
    forward = torch.compile(model) if compiled else model
    rng = np.random.default_rng(SEED)
    features = (
        torch.from_numpy(50_000 * np.exp(np.cumsum(rng.normal(0, 2e-4, (batch_size, 10)), axis=1))),
        *(torch.from_numpy(rng.dirichlet(np.ones(20), batch_size)).float() for _ in range(2)),
        torch.empty(batch_size, 0),
        torch.from_numpy(rng.integers(0, 55, batch_size)),
    )
    wanted = torch.from_numpy(rng.normal(0, 10, (batch_size, 5))).float()

    def run() -> None:
        for _ in range(STEPS):
            stepper.zero_grad()
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                outputs = forward(*features)
            loss(config.objective, outputs.float(), wanted, model.output_scale).backward()
            stepper.step()

    return run


if __name__ == "__main__":
    report(measure())
