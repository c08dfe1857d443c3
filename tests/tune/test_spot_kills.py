"""A sweep loses machines, workers, its driver and its storage, and ends as if nothing had been.

Each node is a raylet with its workers on this machine; losing it is a SIGKILL of all of them.
"""

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import torch

from actors.store import Store
from datasets.sample_cache import samples_under
from datasets.splits import split_by_time
from tests.s3 import S3Server
from tests.tune.small_sweep import PRODUCTS, RECIPE, under
from tests.tune.spot_sweep import CONFIG, EPOCHS, NAME, allowance, lines, note, notice
from tune.checkpoint import load_model
from tune.results import RESULTS_FILE, SweepResult
from tune.run_folder import trained_on
from tune.search import variant
from tune.training import EpochMetrics, train
from tune.trial_state import TrialFile

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

NODE_KILLS = 10
OUTAGE_S, SHORT_OUTAGE_S = 60.0, 15.0
_AHEAD = 3  # Epochs of all trials that may follow before the next loss.
_STALLED_S = 240.0
_REPOSITORY = Path(__file__).resolve().parents[2]
# What a machine that is gone without a word costs: seconds instead of a minute.
_HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


class Machines:
    """A Ray whose head runs no trials, and machines of one CPU that can be lost."""

    def __init__(self, log: str) -> None:
        from ray.cluster_utils import Cluster

        self._log = log
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "object_store_memory": 100_000_000,
                "_system_config": _HEALTH,
            },
        )
        self.address = self._cluster.address
        self.running: list[Any] = []

    def add(self) -> None:
        """Start a machine."""
        self.running.append(
            self._cluster.add_node(num_cpus=1, object_store_memory=100_000_000, wait=False)
        )

    def of(self, worker: int) -> Any:
        """Return the machine of a worker; any if it is gone."""
        for node in self.running:
            family = psutil.Process(_raylet(node).pid).children(recursive=True)
            if worker in [member.pid for member in family]:
                return node
        return self.running[0]

    def lose(self, node: Any) -> None:
        """End a machine as a power cut does."""
        raylet = _raylet(node)
        family = psutil.Process(raylet.pid).children(recursive=True)
        raylet.kill()
        for member in family:
            member.kill()
        raylet.wait()
        self.running.remove(node)
        note(self._log, time.time(), "node lost")
        self._cluster.remove_node(node, allow_graceful=False)

    def freeze(self, node: Any) -> list[psutil.Process]:
        """Silence a machine until its processes are resumed; they are returned."""
        raylet = psutil.Process(_raylet(node).pid)
        family = [raylet, *raylet.children(recursive=True)]
        for member in family:
            member.suspend()
        self.running.remove(node)
        note(self._log, time.time(), "node silent")
        return family

    def end(self) -> None:
        """End all of it."""
        self._cluster.shutdown()


def _raylet(node: Any) -> "subprocess.Popen[bytes]":
    found: subprocess.Popen[bytes] = node.all_processes["raylet"][0].process
    return found


class Sweep:
    """The driver in a process of its own, and what the log says of its trials."""

    def __init__(self, machines: Machines, root: str, folder: Path) -> None:
        self._machines, self._root = machines, root
        self.log = folder / "log"
        self._output = folder / "output"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start the driver."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.tune.spot_sweep", self._machines.address, self._root,
                 str(self.log), *options],
                cwd=_REPOSITORY,
                env=os.environ | {"PYTHONPATH": str(_REPOSITORY)},
                stdout=output,
                stderr=output,
            )  # fmt: skip

    def kill9(self) -> None:
        """End the driver, and note it down."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        note(str(self.log), time.time(), "driver lost")

    def end(self) -> None:
        """End the driver if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def finished(self) -> None:
        """Wait for the driver's own end."""
        assert self._process is not None
        assert self._process.wait(_STALLED_S) == 0, self.said()

    def said(self) -> str:
        """Return what the driver has printed."""
        return self._output.read_text()[-3000:]

    def lines(self, what: str) -> list[dict[str, Any]]:
        """Return what was noted down of one kind."""
        return [line for line in lines(str(self.log)) if line["what"] == what]

    def progressed(self) -> dict[str, Any]:
        """Wait until another state is saved; a few more may follow, so that it goes on for long."""
        file = allowance(str(self.log))
        part = file.with_suffix(".part")
        part.write_text(str(len(self.lines("saved")) + _AHEAD))
        part.replace(file)
        return self._awaited(lambda line: True)

    def noticed(self) -> dict[str, Any]:
        """Give notice, and wait until a trial has saved where it was in an epoch."""
        allowance(str(self.log)).unlink()
        file = notice(str(self.log))
        file.touch()
        try:
            return self._awaited(lambda line: line["of"][1] > 0)
        finally:
            file.unlink()
            allowance(str(self.log)).write_text("0")

    def stopped(self) -> dict[str, Any]:
        """Wait until both workers wait for leave to save, and hold no lock; return one's state."""
        until = time.monotonic() + _STALLED_S
        while True:
            ready, saved = self.lines("ready"), self.lines("saved")
            done = [(line["pid"], line["trial"], line["of"]) for line in saved]
            waiting = [
                line
                for line in ready
                if (line["pid"], line["trial"], line["of"]) not in done
                and psutil.pid_exists(line["pid"])
            ]
            if len(waiting) > 1 and len(saved) >= int(allowance(str(self.log)).read_text()):
                return waiting[-1]
            assert time.monotonic() < until, f"nothing happens: {self.said()}"
            time.sleep(0.02)

    def _awaited(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        before, until = len(self.lines("saved")), time.monotonic() + _STALLED_S
        while not (found := [line for line in self.lines("saved")[before:] if wanted(line)]):
            assert self._process is not None
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < until, f"nothing happens: {self.said()}"
            time.sleep(0.02)
        return found[0]


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> Iterator[Machines]:
    """Two machines; those of S3 take its environment from `root`."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(_REPOSITORY))
    found = Machines(str(tmp_path / "log"))
    try:
        found.add()
        found.add()
        yield found
    finally:
        found.end()


@pytest.fixture
def sweep(machines: Machines, root: str, tmp_path: Path, make_samples) -> Iterator[Sweep]:
    """A sweep of four trials over samples under a root."""
    under(root, make_samples(2000))
    found = Sweep(machines, root, tmp_path)
    try:
        yield found
    finally:
        found.end()


def kill_worker(sweep: Sweep) -> None:
    """SIGKILL the worker that saved last, its machine lives on."""
    os.kill(sweep.lines("saved")[-1]["pid"], 9)
    note(str(sweep.log), time.time(), "worker lost")


def assert_no_more_than_the_running_epoch_was_repeated(sweep: Sweep) -> None:
    """Whoever takes a trial over begins after the last state that was ever saved."""
    saved, ready = sweep.lines("saved"), sweep.lines("ready")
    for read in sweep.lines("read"):
        of = [s["of"] for s in saved if s["trial"] == read["trial"] and s["at"] < read["at"]]
        assert read["of"] >= max(of, default=[0, 0])
        mine = [r for r in ready if (r["trial"], r["pid"]) == (read["trial"], read["pid"])]
        later = [r["of"] for r in mine if r["at"] > read["at"]]
        if later:
            epoch, batch = read["of"]
            # The next epoch, or further in this one.
            assert later[0] == [epoch + 1, 0] or (later[0][0] == epoch and later[0][1] > batch)


def assert_as_undisturbed(root: str) -> None:
    """Compare weights and metrics of all trials with those of runs at one go, bit for bit."""
    store = Store(root)
    result = msgspec.json.decode(store.read(f"runs/{NAME}/{RESULTS_FILE}"), type=SweepResult)
    samples = samples_under(store, RECIPE).open()
    parts = trained_on(samples, split_by_time(samples.beat))
    assert len(result.trials) == 4
    for index, row in enumerate(result.trials):
        history: list[EpochMetrics] = []
        config = variant(CONFIG, index).train
        expected = train(
            *parts, config, on_epoch=lambda metrics, _, into=history: into.append(metrics)
        )
        file = TrialFile(store, f"runs/{NAME}/{row.name}")
        state, known = file.load(), file.read()
        assert row.metrics == history[-1]
        assert [epoch.metrics for epoch in known.epochs] == history
        assert state.epoch == EPOCHS
        for name, tensor in expected.weights.items():
            assert torch.equal(state.weights[name], tensor), (row.name, name)
        if row.name == result.best:
            model, _ = load_model(store.read(result.model_path), products=PRODUCTS)
            for name, tensor in model.state_dict().items():
                assert torch.equal(expected.best_weights[name], tensor), name
        assert _drawn(store, f"runs/{NAME}/{row.name}") == list(range(1, EPOCHS + 1))


def _drawn(store: Store, folder: str) -> list[int]:
    """Return the steps that TensorBoard shows of a trial."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tempfile.TemporaryDirectory() as copy:
        for path in store.files(folder):
            if ".tfevents." in path:
                Path(copy, Path(path).name).write_bytes(store.read(path))
        events = EventAccumulator(copy)
        events.Reload()
        return [event.step for event in events.Scalars("ray/tune/train_loss")]


def test_a_sweep_outlives_all_that_it_loses(
    sweep: Sweep, machines: Machines, root: str, request: pytest.FixtureRequest
) -> None:
    """Eleven machines (one with notice), a worker, the driver, and once the S3 server, in epochs.

    A replacement comes at once, once the other machine has gone on, or, for the last, never; once
    there is no machine left.
    """
    server: S3Server | None = None
    if root.startswith("s3://"):
        server = request.getfixturevalue("s3_server")
    rng = random.Random(6)
    allowance(str(sweep.log)).write_text("0")
    sweep.start()
    at_batch: dict[str, Any] = {}
    for kill in range(NODE_KILLS):
        saved = sweep.progressed()
        if kill == 2:
            saved = at_batch = sweep.noticed()
        else:
            time.sleep(rng.uniform(0, 0.5))  # Anywhere in an epoch.
        if kill == 3:
            kill_worker(sweep)
            saved = sweep.progressed()
        if kill == 5 and server:
            server.kill9()
        machines.lose(machines.of(saved["pid"]))
        if kill == 4:
            machines.lose(machines.running[0])
            machines.add()
        if kill == 5 and server:
            time.sleep(OUTAGE_S)
            server.restart()
            note(str(sweep.log), time.time(), "server back")
        if kill == 7:
            sweep.kill9()
            sweep.start("--resume")
        if kill % 2 and kill < NODE_KILLS - 1:
            sweep.progressed()
        if kill < NODE_KILLS - 1:
            machines.add()
    allowance(str(sweep.log)).unlink()
    sweep.finished()
    reads = [read for read in sweep.lines("read") if read["trial"] == at_batch["trial"]]
    assert at_batch["of"] in [read["of"] for read in reads if read["at"] > at_batch["at"]]
    assert len(sweep.lines("node lost")) == NODE_KILLS + 1
    assert_no_more_than_the_running_epoch_was_repeated(sweep)
    assert_as_undisturbed(root)


@pytest.mark.parametrize("root", ["s3"], indirect=True)
def test_a_server_that_is_away_when_a_sweep_ends_is_waited_for(
    sweep: Sweep, root: str, s3_server: S3Server
) -> None:
    """All trials have saved their last epoch; the driver has yet to write the table."""
    sweep.start()
    until = time.monotonic() + _STALLED_S
    while sum(line["of"] == [EPOCHS, 0] for line in sweep.lines("saved")) < 4:
        assert time.monotonic() < until, sweep.said()
        time.sleep(0.01)
    s3_server.kill9()
    time.sleep(SHORT_OUTAGE_S)
    s3_server.restart()
    sweep.finished()
    assert_as_undisturbed(root)


@pytest.mark.parametrize("root", ["folder"], indirect=True)
def test_a_machine_that_was_given_up_and_wakes_up_changes_nothing(
    sweep: Sweep, machines: Machines, root: str
) -> None:
    """Its trial is taken over while it is silent; it may still save and report."""
    allowance(str(sweep.log)).write_text("0")
    sweep.start()
    sweep.progressed()
    mine = sweep.stopped()
    silent = machines.freeze(machines.of(mine["pid"]))
    try:
        machines.add()
        while True:
            other = sweep.progressed()
            if other["trial"] == mine["trial"] and other["pid"] != mine["pid"]:
                break
    finally:
        for member in silent:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.resume()
    allowance(str(sweep.log)).unlink()
    sweep.finished()
    assert_as_undisturbed(root)
