"""The demo end to end on a short market, and what is left when it is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

SHORT = ["--set", "demo.hours=2", "--set", "demo.live_beats=20", "--set", "demo.live_speed=40"]
FAST_SWEEP = ["--set", "sweep.train.epochs=2", "--set", 'sweep.grid={objective=["mse","bce"]}']


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator:
    """Return a function that starts a short demo in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        code = "from cluster.cli import main; main()"
        command = [sys.executable, "-c", code, "demo", "--out", str(tmp_path / "demo")]
        process = subprocess.Popen(
            [*command, *SHORT, *FAST_SWEEP],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for member in family:
                if member.is_running():
                    member.kill()
            process.wait(timeout=30)


@pytest.mark.ray
@pytest.mark.slow
def test_the_demo_trades_and_writes_a_report_twice(start_demo, tmp_path: Path) -> None:
    for _ in range(2):
        shown, _ = start_demo().communicate(timeout=200)
        assert "report:" in shown, shown
    page = tmp_path / "demo" / "reports" / "demo" / "report.html"
    numbers = json.loads(page.with_name("metrics.json").read_text())
    assert page.read_text().startswith("<!doctype html>")
    assert numbers["live"]["beats"] >= 20
    assert numbers["live"]["predictions"] >= 80
    assert numbers["live"]["latency_ms"]["p50"] > 0
    assert len(numbers["sweep"]["trials"]) == 2
    assert numbers["backtest"]["model"]["decisions"] > 0
    score = numbers["score"]
    assert sum(map(sum, score["confusion"])) == score["samples"] > 0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["raw", "runs"])
def test_an_interrupt_stops_everything_that_the_demo_started(
    start_demo, tmp_path: Path, stage: str
) -> None:
    process = start_demo()
    deadline = time.monotonic() + 120
    while not (tmp_path / "demo" / stage).exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > 3
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
