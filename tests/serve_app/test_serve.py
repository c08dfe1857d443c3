"""The whole application on a Ray of its own: HTTP, trading on a stream, and a clean end."""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch

from datasets.recipe import Recipe
from market.signals import names
from serve_app.brokers import Paper
from serve_app.executor import Executor
from tests.serve_app import driver
from tests.serve_app.market_walk import ALL, PRODUCTS, meta_of, model_file
from tune.checkpoint import load_model

ROOT = Path(__file__).resolve().parents[2]
MARK = "QUAVER_TEST_MARK"


def marked(mark: str) -> list[psutil.Process]:
    """The processes that inherited `mark` in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def until(condition: Callable[[], Any], limit_s: float = 30.0) -> Any:
    end = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < end, "did not come about in time"
        time.sleep(0.05)
    return value


def in_process(model: torch.nn.Module) -> Executor:
    """The same windows and the same model without any Ray."""

    async def predict(*inputs: np.ndarray) -> np.ndarray:
        return values_of(model, inputs)

    executor = Executor(meta_of(recipe=Recipe(signals=ALL)), driver.EXECUTION, predict, Paper())
    windows = driver.streams()
    half = driver.BEATS // 2

    async def run() -> None:
        await executor.on_item([(name, rows[:half]) for name, rows in windows.items()])
        await executor.withdraw()
        await executor.on_item([(name, rows[half:]) for name, rows in windows.items()])
        await executor.withdraw()

    asyncio.run(run())
    return executor


def values_of(model: torch.nn.Module, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    with torch.inference_mode():
        return model(*(torch.tensor(each) for each in inputs)).double().numpy()


def check_prediction(client: httpx.Client, model: torch.nn.Module) -> None:
    rng = np.random.default_rng(0)
    n = 55
    medians = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, (n, 10)), axis=1))
    bids, asks = rng.dirichlet(np.ones(20), n), rng.dirichlet(np.ones(20), n)
    signals = rng.normal(size=(n, len(names(ALL))))
    index = np.arange(n) % len(PRODUCTS)
    samples = [
        {
            "product": PRODUCTS[index[i]],
            "medians": medians[i].tolist(),
            "bids": bids[i].tolist(),
            "asks": asks[i].tolist(),
            "signals": signals[i].tolist(),
        }
        for i in range(n)
    ]
    answer = client.post("/v1/predict", json={"samples": samples})
    assert answer.status_code == 200
    served = [list(each["values"].values()) for each in answer.json()["predictions"]]
    np.testing.assert_array_equal(served, values_of(model, (medians, bids, asks, signals, index)))
    one = client.post("/v1/predict", json=samples[0]).json()["predictions"]
    alone = [column[:1] for column in (medians, bids, asks, signals, index)]
    direct = values_of(model, tuple(alone))
    np.testing.assert_array_equal([list(one[0]["values"].values())], direct)
    bad = client.post("/v1/predict", json={**samples[0], "bids": [1.0]})
    assert (bad.status_code, bad.json()["field"]) == (422, "bids")


@pytest.mark.ray
@pytest.mark.slow
def test_the_application_predicts_trades_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_file(recipe=Recipe(signals=ALL)))
    torch.set_num_threads(1)
    model, _ = load_model(path)
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.serve_app.driver", str(path)],
        cwd=ROOT,
        env={**os.environ, MARK: mark, "RAY_AUTH_MODE": "disabled"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        facts = json.loads(process.stdout.readline())
        with httpx.Client(base_url=facts["url"], timeout=30) as client:
            check_prediction(client, model)

            def finished() -> dict[str, Any] | None:
                state = client.get("/health").json()
                return state if state["execution"]["stream"]["state"] == "finished" else None

            health = until(finished)
            positions = client.get("/v1/positions").json()
        assert health["status"] == "ok"
        expected = in_process(model)
        execution = health["execution"]
        assert execution["fills"] > 10
        assert (execution["errors"], "breaks off" in execution["last_error"]) == (1, True)
        for name in ("beats", "windows", "predictions", "orders", "fills", "actions", "blocked"):
            assert execution[name] == expected.health()[name], name
        assert positions == {**expected.positions(), "started": execution["started"]}
        assert any("haproxy" in each.name() for each in marked(mark))
        assert len(marked(mark)) > 5
        out, _ = process.communicate("", timeout=60)
        assert process.returncode == 0
        assert json.loads(out.splitlines()[-1])["stop_s"] < 15
        until(lambda: not marked(mark))
    finally:
        for each in marked(mark):
            each.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            pipe.close()


TAKEN = """
import os, socket, sys
import ray
from market.errors import QuaverError
from serve_app.app import free_ports, ray_environment, start, stop
from tests.serve_app.driver import EXECUTION

ports = free_ports()
os.environ.update(ray_environment(ports))
with socket.socket() as other:
    port = getattr(ports, sys.argv[2])
    other.bind(("127.0.0.1", port))
    other.listen()
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error")
    try:
        start(open(sys.argv[1], "rb").read(), EXECUTION, ports)
    except QuaverError as e:
        print(str(e).replace(f":{port},", ":PORT,"))
    finally:
        stop()
        ray.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("which", "host"), [("stats", "0.0.0.0"), ("fallback", "127.0.0.1")])
def test_a_port_that_is_taken_while_ray_starts_is_one_message(
    tmp_path: Path, which: str, host: str
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_file(recipe=Recipe(signals=ALL)))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TAKEN, str(path), which],
        cwd=ROOT,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = f"serve: another process has taken {host}:PORT, which was free when starting began"
    assert said in done.stdout
