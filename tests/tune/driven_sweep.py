"""A sweep in a process of its own, which a test kills: `python driven_sweep.py ADDRESS PICKLE`."""

import pickle
import sys
from pathlib import Path

import ray

from tune.sweep import run_sweep

if __name__ == "__main__":
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
    run_sweep(
        **pickle.loads(Path(sys.argv[2]).read_bytes()),
        on_progress=lambda now: print(now.finished_trials, flush=True),  # noqa: T201
    )
