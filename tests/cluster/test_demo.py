"""The demo end to end on a short market, and what is left when it is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

SHORT = ["--set", "demo.hours=1.5", "--set", "demo.live_beats=20", "--set", "demo.live_speed=40"]
FAST_SWEEP = ["--set", "sweep.train.epochs=2", "--set", 'sweep.grid={objective=["mse","bce"]}']

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the demo's output goes."""
    return tmp_path / "output.txt"


@pytest.fixture
def start_demo(tmp_path: Path, log: Path) -> Iterator[Start]:
    """Return a function that starts a short demo; what it leaves running is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        code = "from cluster.cli import main; main()"
        command = [sys.executable, "-c", code, "demo", "--out", str(tmp_path / "demo")]
        environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *SHORT, *FAST_SWEEP],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            for member in [process, *family]:
                member.kill()
            process.wait(timeout=30)


@pytest.mark.ray
@pytest.mark.slow
def test_the_demo_trades_and_writes_a_report_twice(
    start_demo: Start, log: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        assert start_demo().wait(timeout=200) == 0, log.read_text()
        assert "report: " in log.read_text()
    assert "raylet" not in log.read_text() and "INFO" not in log.read_text()
    page = tmp_path / "demo" / "reports" / "demo" / "report.html"
    numbers = json.loads(page.with_name("metrics.json").read_text())
    assert page.read_text().lower().startswith("<!doctype html>")
    assert numbers["live"]["beats"] >= 20
    assert numbers["live"]["predictions"] >= 80
    assert numbers["live"]["latency_ms"]["p50"] > 0
    assert len(numbers["sweep"]["trials"]) == 2
    assert numbers["backtest"]["model"]["decisions"] > 0
    score = numbers["score"]
    assert sum(map(sum, score["confusion"])) == score["samples"] > 0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("after", ["start Ray", "judge"])
def test_an_interrupt_stops_everything_that_the_demo_started(
    start_demo: Start, log: Path, after: str
) -> None:
    """Once while it collects, once while Serve comes up."""
    process = start_demo()
    deadline = time.monotonic() + 150
    while f"{after}: " not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    time.sleep(2)  # Not for an outcome: to be well inside the stage.
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > 3
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130, log.read_text()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert "Traceback" not in log.read_text()
