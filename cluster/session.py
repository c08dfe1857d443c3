"""A Ray for one command: started quietly, stopped with everything in it.

Ray reads its settings from the environment of the process that starts it, so they are put there
before it starts. Its own chatter stays in its log folder; token authentication stays as Ray has it
(on for a local Ray), because Ray listens on all interfaces.
"""

import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import grpc
import ray
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray._private.grpc_utils import init_grpc_channel
from ray.exceptions import RayError

from market.errors import QuaverError

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
LOCAL = "local"  # The address of a Ray that is started for a command.
_REACH_S = 5.0
_OBJECT_STORE_BYTES = 512 << 20


@contextmanager
def ray_session(address: str, extra_env: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Connect to the Ray at `address`, or start one for LOCAL; yield its log folder.

    A Ray that was started is stopped at the end, whatever happened. QuaverError if there is none.
    """
    if address.startswith("ray://"):
        raise QuaverError(
            f"{address!r} is for Ray's client, which Quaver does not use; run on a machine of the "
            "cluster, with ray_address=auto or the cluster's host:port"
        )
    _check_reachable(address)
    os.environ.update(_QUIET | dict(extra_env or {}))
    options: dict[str, object] = {"log_to_driver": False, "logging_level": "error"}
    if address == LOCAL:
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    else:  # Ray itself takes the machine's token along for `auto`, but not for host:port.
        logging.getLogger(maybe_enable_token_auth_if_token_available.__module__).setLevel("ERROR")
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        context = ray.init(address=address, **options)
        logs = Path(context.address_info["session_dir"]) / "logs"
        chatter = (logs / "driver.out").open("a")
    except (OSError, ValueError, RuntimeError, RayError) as e:
        ray.shutdown()
        raise QuaverError(
            f"cannot use a Ray at {address!r}: {e}; start a cluster there or use ray_address=local "
            "(if its machines have a token, it must be in ~/.ray/auth_token here too)"
        ) from None
    signal.signal(signal.SIGTERM, on_terminate)  # Ray's own would end the command half way.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Ray prints what its processes report to the standard output of whoever started it.
    with chatter, redirect_stdout(chatter):
        try:
            yield logs
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise a QuaverError if no Ray listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), _REACH_S).close()
        with init_grpc_channel(address) as channel:  # With TLS, if Ray is told to use it.
            grpc.channel_ready_future(channel).result(_REACH_S)
    except grpc.FutureTimeoutError:
        raise QuaverError(
            f"what answers at {address!r} is no Ray; give the port of `ray start --head` (6379)"
        ) from None
    except (OSError, OverflowError) as e:
        raise QuaverError(
            f"no Ray answers at {address!r}: {e}; start a cluster there or use ray_address=local"
        ) from None
