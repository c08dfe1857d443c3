"""A program that serves a model fed by a made collector: its own process, for its own Ray.

Serve reads its environment when Ray starts, so this cannot share the Ray of the other tests. It
prints one JSON line when it answers, and stops all of it when its standard input ends.
"""

import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import ray

from market.policy import Limits
from market.trader import TraderConfig
from serve_app.app import free_ports, ray_environment, start, stop
from serve_app.execution_config import ExecutionConfig
from tests.serve_app.market_walk import PRODUCTS, walk

BEATS = 300
NAMESPACE = "tests"
COLLECTOR = "collector"
EXECUTION = ExecutionConfig(
    products=PRODUCTS[:2],
    trader=TraderConfig(limits=Limits(max_data_age_s=1e12, max_orders_per_minute=1_000_000)),
    source=COLLECTOR,
    source_namespace=NAMESPACE,
    predict_timeout_s=60.0,
)


def streams() -> dict[str, np.ndarray]:
    """Return the windows that the collector streams."""
    return {name: walk(BEATS, seed) for seed, name in enumerate(EXECUTION.products)}


@ray.remote(num_cpus=0)
class Collector:
    """Streams all windows, a beat at a time; the first stream breaks off in the middle."""

    def __init__(self) -> None:
        self._sent = 0
        self._opened = 0

    async def stream(self) -> AsyncIterator[list[tuple[str, np.ndarray]]]:
        self._opened += 1
        windows = streams()
        while self._sent < BEATS:
            if self._opened == 1 and self._sent == BEATS // 2:
                raise ConnectionError("the first stream breaks off")
            i, self._sent = self._sent, self._sent + 1
            yield [(name, rows[i : i + 1]) for name, rows in windows.items()]


def main() -> None:
    """Serve the model file named by the first argument."""
    ports = free_ports()
    os.environ.update(ray_environment(ports, haproxy="--no-haproxy" not in sys.argv))
    began = time.monotonic()
    ray.init(
        address="local",
        num_cpus=2,
        namespace=NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    ray_s = time.monotonic() - began
    collector = Collector.options(name=COLLECTOR).remote()
    began = time.monotonic()
    url = start(Path(sys.argv[1]).read_bytes(), EXECUTION, ports)
    facts = {"url": url, "ray_s": ray_s, "start_s": time.monotonic() - began}
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    began = time.monotonic()
    stop()
    stopped = time.monotonic()
    del collector
    ray.shutdown()
    facts = {"stop_s": stopped - began, "ray_stop_s": time.monotonic() - stopped}
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
