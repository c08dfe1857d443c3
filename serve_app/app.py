"""The HTTP side, and how the whole application is built, started and stopped.

Serve behind HAProxy answers about ten times as fast as behind its own proxy, but that, its ports
and its patience are read from the environment of Ray's processes: whoever starts Ray passes
`ray_environment` to it.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import Awaitable
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from fastapi import FastAPI, Request, Response
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from market.actions import Action
from market.errors import QuaverError
from market.policy import decide
from serve_app.bodies import BadInput, body_schema, read_samples
from serve_app.execution import Execution
from serve_app.execution_config import ExecutionConfig, traded
from serve_app.executor import Predict
from serve_app.inputs import external_reader
from serve_app.predictor import Predictor, replica_handle
from tune.checkpoint import ModelMeta, load_model
from tune.objectives import check_edge

APPLICATION = "quaver"
HOST = "127.0.0.1"  # No TLS and no log-in here: what faces a network stands in front of this.
REPLICA_PORTS = 100
# What HAProxy and Serve's own proxy say of an address that they cannot open.
_NOT_OPENED = re.compile(
    r"cannot bind socket \([^)]*\) for \[([^]]*)\]|Failed to bind to address '([^']*)'"
)
_ANSWER_TIMEOUT_S = 2.0
_PREDICT_TIMEOUT_S = 30.0


class ExecutionView(Protocol):
    """What the HTTP side reads of the execution."""

    async def health(self) -> dict[str, Any]:
        """Return the execution's state."""
        ...

    async def positions(self) -> dict[str, Any]:
        """Return the ledger."""
        ...


def create_api(meta: ModelMeta, predict: Predict, execution: ExecutionView) -> FastAPI:
    """Return the HTTP application over a predictor and an execution; it needs no Ray."""
    api = FastAPI(title="Quaver", version=meta.features_version)
    index = {name: meta.products.index(name) for name in meta.trained}
    about, wanted = _about(meta), meta.recipe.signal_names

    @api.post("/v1/predict", openapi_extra=body_schema())
    async def predictions(request: Request) -> Response:
        try:
            samples = read_samples(await request.body(), index, wanted)
        except BadInput as error:
            return _json({"detail": str(error), "field": error.field}, 422)
        inputs = (
            np.array([getattr(sample, name) for sample in samples])
            for name in ("medians", "bids", "asks", "signals")
        )
        product = np.array([index[sample.product] for sample in samples], np.int64)
        try:
            async with asyncio.timeout(_PREDICT_TIMEOUT_S):
                values = await predict(*inputs, product)
        except Exception as error:
            return _json({"detail": f"no prediction: {type(error).__name__}: {error}"}, 503)
        answers = [_answer(s.product, row) for s, row in zip(samples, values, strict=True)]
        return _json({"predictions": answers})

    @api.get("/health")
    async def health() -> Response:
        state = await _within(execution.health())
        lost = "error" in state or state["stream"]["state"] in ("lost", "failed")
        status = "degraded" if lost else "ok"
        return _json({"status": status, "model": about, "execution": state})

    @api.get("/v1/positions")
    async def positions() -> Response:
        state = await _within(execution.positions())
        return _json(state, 503 if "error" in state else 200)

    return api


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=64,
    health_check_period_s=2,
    graceful_shutdown_timeout_s=2,
    ray_actor_options={"num_cpus": 0.1},
)
@serve.ingress()
class Api:
    """The HTTP ingress; it checks and formats, the other two deployments answer."""

    def __init__(
        self, meta: ModelMeta, predictor: DeploymentHandle, execution: DeploymentHandle
    ) -> None:
        self._meta = meta
        self._predictor = replica_handle(predictor)
        self._execution = replica_handle(execution)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve asks for the ASGI application here, once the handles are known."""
        view = _Remote(self._execution)
        return create_api(self._meta, lambda *inputs: self._predictor.predict.remote(*inputs), view)


class _Remote:
    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def health(self) -> dict[str, Any]:
        return await self._handle.health.remote()

    async def positions(self) -> dict[str, Any]:
        return await self._handle.positions.remote()


def build_app(model_file: bytes, execution: ExecutionConfig) -> serve.Application:
    """Return the Serve application; QuaverError if model file and execution do not fit.

    Also if external series that the model takes cannot be read.
    """
    _, meta = load_model(model_file)
    traded(meta, execution)  # Here already: in a replica the error would reach nobody.
    if reader := external_reader(meta.recipe, execution.external_root):
        reader.refresh()
    check_edge(meta.objective, execution.trader.min_edge_bps)
    predictor = Predictor.bind(model_file)
    trading = Execution.bind(meta, execution, predictor)
    return Api.bind(meta, predictor, trading)


class Ports(NamedTuple):
    """The TCP ports of one application. `metrics` and `stats` are open on all interfaces."""

    http: int
    metrics: int
    stats: int
    fallback: int
    replicas: int  # The first of `REPLICA_PORTS`.


def free_ports(http: int = 0) -> Ports:
    """Return ports that nobody listens on at present, `http` itself unless it is 0.

    QuaverError if `http` is taken.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for port in (http, *[0] * (len(Ports._fields) - 1)):
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, port))
            except OSError as error:
                raise QuaverError(
                    f"serve: port {port} cannot be opened ({error.strerror}); choose another "
                    f"with `--set serve.port={port + 1}`, or 0 for any"
                ) from error
            found.append(listener.getsockname()[1])
    return Ports(*found)


def ray_environment(ports: Ports, *, haproxy: bool = True) -> dict[str, str]:
    """Return what must be in the environment of Ray's processes before Ray starts.

    `haproxy=False` is for where HAProxy cannot run (it is a Linux binary): the same application
    behind Serve's own proxy, several times slower per request.
    """
    flag = "1" if haproxy else "0"
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": flag,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # HAProxy and its fallback have fixed default ports; the fallback would even share its own
        # with that of a second Ray on the machine, which SO_REUSEPORT = 0 forbids.
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replicas),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replicas + REPLICA_PORTS),
        "SERVE_SOCKET_REUSE_PORT_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # No balancer in front has to notice that we go: with the defaults stopping takes 31 s.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.1",
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.1",
        # A killed proxy is missed only by this check; the default of 10 s is more than 25 s off.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
        # Errors reach the log when they happen; a thousand lines later is the other default.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def start(model_file: bytes, execution: ExecutionConfig, ports: Ports) -> str:
    """Start the application on a connected Ray; return its base URL once it answers.

    Ray must have been started with `ray_environment(ports)`. QuaverError as from `build_app`, and
    if another process has taken one of the ports.
    """
    app = build_app(model_file, execution)
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    try:
        serve.start(
            http_options=serve.HTTPOptions(host=HOST, port=ports.http), logging_config=dict(quiet)
        )
    except RayTaskError as error:
        if address := _NOT_OPENED.search(str(error)):
            # Other ports would need another Ray, which has these in its environment.
            raise QuaverError(
                f"serve: another process has taken {address[1] or address[2]}, which was free when "
                "starting began; start again"
            ) from None
        raise
    serve.run(app, name=APPLICATION, route_prefix="/", logging_config=dict(quiet))
    return f"http://{HOST}:{ports.http}"


def stop() -> None:
    """Stop the application and all of Serve; Ray goes on."""
    serve.shutdown()


def _answer(product_id: str, values: np.ndarray) -> dict[str, Any]:
    action = decide(values, np.ones(len(Action), bool), 0.0)
    named = {each.name: float(values[each]) for each in Action}
    return {"product": product_id, "values": named, "action": action.name}


def _about(meta: ModelMeta) -> dict[str, Any]:
    return {
        "variant": msgspec.to_builtins(meta.model),
        "objective": meta.objective,
        "trained": list(meta.trained),
        "features_version": meta.features_version,
        "recipe": msgspec.to_builtins(meta.recipe),
        "signals": list(meta.recipe.signal_names),
    }


async def _within(answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """Await the execution's answer; what went wrong instead, if it does not come in time."""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            return await answer
    except Exception as error:
        return {"error": f"the execution does not answer: {type(error).__name__}: {error}"}


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
