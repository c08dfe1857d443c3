"""A program: a fleet on two nodes of which one is killed. Says `survived` if all is as it must be.

The raylet and all below it are killed, and the raylet is waited for: workers take a zombie for
alive.
"""

import sys
import time

import psutil
import ray
from ray.cluster_utils import Cluster

from actors import fleet
from actors.plan import FleetConfig
from actors.raw import partitions, read_manifest
from actors.status import CollectorStatus
from actors.store import Store
from tests.actors.market import LIMIT_S, Consumer, assert_recorded, market, specs, wait_for

IDS = ("BTC-USD", "ETH-USD")
_SOON = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


def node_of(actor: object) -> str:
    """Return the node that an actor runs on."""
    ran = actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
    return str(ray.get(ran, timeout=LIMIT_S))


def main(root: str) -> None:
    """Record under `root`."""
    memory = 100_000_000
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "object_store_memory": memory,
            "include_dashboard": False,
            "_system_config": _SOON,
        },
    )
    try:
        doomed = cluster.add_node(num_cpus=1, object_store_memory=memory)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        with market(IDS, speed=5.0) as url:
            _survive(url, root, doomed)
        ray.shutdown()
    finally:
        cluster.shutdown()


def _survive(url: str, root: str, doomed: object) -> None:
    running = fleet.start(specs(url, root, IDS, FleetConfig(products_per_connection=1)))
    nodes = {name: node_of(actor) for name, actor in running.actors.items()}
    assert len(set(nodes.values())) == 2, nodes  # Spread.
    (victim,) = [name for name, node in nodes.items() if node == doomed.node_id]
    consumer = Consumer(running.actors)
    wait_for(lambda: all(consumer.valid(i) >= 2 for i in IDS))
    before = {i: consumer.valid(i) for i in IDS}
    raylet = doomed.all_processes["raylet"][0].process
    below = psutil.Process(raylet.pid).children(recursive=True)
    raylet.kill()
    for process in below:
        process.kill()
    raylet.wait()
    killed_at = time.monotonic()
    wait_for(lambda: all(consumer.valid(i) >= before[i] + 3 for i in IDS))
    recovered_s = time.monotonic() - killed_at
    assert node_of(running.actors[victim]) != doomed.node_id
    ray.get([actor.stop.remote() for actor in running.actors.values()], timeout=LIMIT_S)
    streamed = consumer.all()
    told = fleet.stop(running.actors)
    assert all(isinstance(status, CollectorStatus) for status in told.values()), told
    store = Store(root)
    assert_recorded(store, streamed)
    (theirs,) = [i for i in IDS if i in told[victim].products]
    for product_id, day in partitions(store):
        manifest = read_manifest(store, product_id, day)
        assert len(manifest.sessions) == (2 if product_id == theirs else 1)
    sys.stdout.write(f"survived; windows of the lost node came again after {recovered_s:.1f} s\n")


if __name__ == "__main__":
    main(sys.argv[1])
