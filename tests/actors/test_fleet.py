"""The fleet on a real Ray: found again, restarted by itself, and nothing lost that was received."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import ray

from actors import fleet
from actors.plan import FleetConfig
from actors.raw import partitions, read_manifest, read_partition
from actors.status import CollectorStatus
from actors.store import Store
from market.errors import QuaverError
from market.events import Kind
from tests.actors.market import LIMIT_S, Consumer, assert_recorded, market, specs, wait_for

IDS = ("BTC-USD", "ETH-USD", "SOL-USD")
TWO_ACTORS = FleetConfig(products_per_connection=2)
SECOND_NS = 1_000_000_000

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def url(ray_local: None) -> Iterator[str]:
    """A market, five times as fast as ours; what was started against it is ended."""
    with market(IDS, speed=5.0) as url:
        try:
            yield url
        finally:
            fleet.stop(fleet.running(), patience_s=30.0)


def status_of(actors: dict[str, Any], name: str) -> CollectorStatus | None:
    status = fleet.statuses({name: actors[name]}, 5.0)[name]
    return status if isinstance(status, CollectorStatus) else None


def all_synced(actors: dict[str, Any]) -> bool:
    told = fleet.statuses(actors, 5.0).values()
    return all(isinstance(s, CollectorStatus) and s.synced == len(s.products) for s in told)


def test_a_killed_collector_goes_on_by_itself_and_loses_a_second_at_most(
    url: str, tmp_path: Path
) -> None:
    running = fleet.start(specs(url, str(tmp_path), IDS, TWO_ACTORS))
    assert running.started == ("collector-0", "collector-1")
    consumer = Consumer(running.actors)
    wait_for(lambda: all(consumer.valid(i) >= 2 for i in IDS))
    victim = wait_for(lambda: status_of(running.actors, "collector-0"))
    theirs = set(victim.products)
    before = {i: consumer.valid(i) for i in IDS}
    os.kill(victim.pid, signal.SIGKILL)
    killed_ns = time.time_ns()
    # Nobody calls it: it reads again, and its windows come, by themselves.
    wait_for(lambda: all(consumer.valid(i) >= before[i] + 3 for i in IDS))
    again = wait_for(lambda: status_of(running.actors, "collector-0"))
    assert again.pid != victim.pid and set(again.products) == theirs
    ray.get([actor.stop.remote() for actor in running.actors.values()], timeout=LIMIT_S)
    streamed = consumer.all()
    assert all(isinstance(s, CollectorStatus) for s in fleet.stop(running.actors).values())
    assert fleet.running() == {}
    store = Store(str(tmp_path))
    assert_recorded(store, streamed)
    for product_id, day in partitions(store):
        manifest = read_manifest(store, product_id, day)
        assert manifest is not None
        sessions = manifest.sessions
        assert len(sessions) == (2 if product_id in theirs else 1)
        rows = read_partition(store, manifest)
        trades = rows["trade_id"][rows["kind"] == Kind.TRADE]
        assert len(set(trades.tolist())) == len(trades) > 0
        if product_id in theirs:
            received = rows["recv_ns"][(rows["recv_ns"] > 0) & (rows["recv_ns"] < killed_ns)]
            assert killed_ns - int(received.max()) <= SECOND_NS
            assert all(s.last_ns <= t.first_ns for s, t in pairwise(sessions))


_ANOTHER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
from actors import fleet
from actors.plan import FleetConfig
from market.errors import QuaverError
from tests.actors.market import specs
url, root = sys.argv[2:4]
ids = tuple(sys.argv[4].split(","))
try:
    running = fleet.start(specs(url, root, ids, FleetConfig(products_per_connection=2)))
    print(sorted(running.actors), running.started)
except QuaverError as e:
    print("refused:", e)
"""


def another_driver(url: str, root: Path, ids: tuple[str, ...]) -> str:
    """What another process says that starts a fleet in the same Ray."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", _ANOTHER, address, url, str(root), ",".join(ids)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    return done.stdout.strip()


def test_a_new_driver_finds_the_running_fleet_or_is_told_how_it_differs(
    url: str, tmp_path: Path
) -> None:
    running = fleet.start(specs(url, str(tmp_path), IDS, TWO_ACTORS))
    wait_for(lambda: all_synced(running.actors))
    pids = {status_of(running.actors, name).pid for name in running.actors}
    assert another_driver(url, tmp_path, IDS) == "['collector-0', 'collector-1'] ()"
    said = another_driver(url, tmp_path, IDS[:1])
    assert said.startswith("refused:") and "collector-1" in said and "--stop" in said
    said = another_driver(url, tmp_path / "other", IDS)
    assert said.startswith("refused:") and "root of collector-0" in said and "other" in said
    with pytest.raises(QuaverError, match="connection of collector-0"):
        wanted = specs(url, str(tmp_path), IDS, TWO_ACTORS)
        fleet.start([_impatient(spec) for spec in wanted])
    # Those drivers are gone; the fleet is as it was.
    assert all_synced(running.actors)
    assert {status_of(running.actors, name).pid for name in running.actors} == pids


def _impatient(spec: Any) -> Any:
    config = msgspec.structs.replace(spec.connection, silence_s=1.0)
    return msgspec.structs.replace(spec, connection=config)


def test_metrics_reach_the_port_that_prometheus_reads(url: str) -> None:
    running = fleet.start(specs(url, None, IDS[:1], TWO_ACTORS))
    wait_for(lambda: all_synced(running.actors))
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def published() -> str:
        with urllib.request.urlopen(address, timeout=LIMIT_S) as answer:
            text: str = answer.read().decode()
        return text if "ray_quaver_freshness_seconds{" in text else ""

    text = wait_for(published)
    for name in (
        "frames_total",
        "updates_total",
        "latency_seconds_bucket",
        "buffered_rows",
        "spool_bytes",
        "books_synced",
    ):
        assert f"ray_quaver_{name}{{" in text, name
    assert 'collector="collector-0"' in text and 'product="BTC-USD"' in text


def test_a_fleet_outlives_the_raylet_of_a_node(tmp_path: Path) -> None:
    """In a process of its own, as it starts a cluster of two nodes."""
    command = [sys.executable, "-m", "tests.actors.two_nodes", str(tmp_path)]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "survived" in done.stdout
