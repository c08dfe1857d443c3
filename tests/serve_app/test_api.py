"""The HTTP side without Ray: what it answers, and which field it names when it does not."""

import asyncio
import json
import socket
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from datasets.recipe import Recipe
from market.errors import QuaverError
from market.signals import SignalsConfig
from market.trader import TraderConfig
from serve_app.app import (
    Ports,
    build_app,
    create_api,
    free_ports,
    ray_environment,
)
from serve_app.bodies import MAX_SAMPLES
from serve_app.execution_config import ExecutionConfig
from tests.serve_app.market_walk import PRODUCTS, meta_of, model_file

ACTIONS = ["FORCE_BUY", "CLOSE_BUY", "FORCE_SELL", "CLOSE_SELL", "NO_OP"]
SAMPLE = {
    "product": "ETH-USD",
    "medians": [100.0 + i for i in range(10)],
    "bids": [0.05] * 20,
    "asks": [0.05] * 20,
}


class Stub:
    """Both handles: a model that adds up its inputs, and an execution that says a word."""

    broken = False
    stream = "streaming"

    async def predict(self, *inputs: np.ndarray) -> np.ndarray:
        if self.broken:
            raise RuntimeError("replica gone")
        medians, bids, asks, signals, product = inputs
        assert (medians.shape[1:], bids.shape[1:], asks.shape[1:]) == ((10,), (20,), (20,))
        assert (signals.ndim, signals.dtype) == (2, np.float64)
        rest = bids.sum(axis=1) + asks.sum(axis=1) + signals.sum(axis=1)
        return np.stack([medians[:, -1], rest, product, -rest, 0 * rest], axis=1)

    async def health(self) -> dict[str, Any]:
        if self.broken:
            raise RuntimeError("replica gone")
        return {"stream": {"state": self.stream}, "beats": 3}

    async def positions(self) -> dict[str, Any]:
        if self.broken:
            raise RuntimeError("replica gone")
        return {"usd": "1200.00"}


class Client:
    """Requests to an application in this process."""

    def __init__(self, api: FastAPI) -> None:
        self._api = api

    def request(self, method: str, path: str, **content: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._api)
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
                return await client.request(method, path, **content)

        return asyncio.run(ask())

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(self, path: str, **content: Any) -> httpx.Response:
        return self.request("POST", path, **content)


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def client(stub: Stub) -> Client:
    return Client(create_api(meta_of(), stub.predict, stub))


def test_one_sample_gets_one_prediction(client: Client) -> None:
    answer = client.post("/v1/predict", json=SAMPLE)
    assert answer.status_code == 200
    (prediction,) = answer.json()["predictions"]
    assert prediction["product"] == "ETH-USD"
    assert list(prediction["values"]) == ACTIONS
    assert prediction["values"]["FORCE_BUY"] == 109.0
    assert prediction["values"]["FORCE_SELL"] == 1.0  # The index of its product in the model.
    assert prediction["action"] == "FORCE_BUY"


def test_many_samples_are_answered_in_their_order(client: Client) -> None:
    samples = [{**SAMPLE, "product": name} for name in ("SOL-USD", "BTC-USD")] * 500
    answer = client.post("/v1/predict", json={"samples": samples})
    assert answer.status_code == 200
    predictions = answer.json()["predictions"]
    assert [p["product"] for p in predictions] == [s["product"] for s in samples]
    assert predictions[0]["values"]["FORCE_SELL"] == 2.0


def changed(name: str, value: Any) -> dict[str, Any]:
    return {**SAMPLE, name: value}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in SAMPLE.items() if key != name}


def replaced(name: str, at: int, value: Any) -> dict[str, Any]:
    numbers = list(SAMPLE[name])
    numbers[at] = value
    return {**SAMPLE, name: numbers}


BAD_SAMPLES = [
    (changed("medians", [1.0] * 9), "medians"),
    (changed("bids", [0.05] * 21), "bids"),
    (changed("asks", []), "asks"),
    (changed("asks", None), "asks"),
    (replaced("medians", 3, 0.0), "medians[3]"),
    (replaced("medians", 0, -1.0), "medians[0]"),
    (replaced("medians", 9, "100"), "medians[9]"),
    (replaced("medians", 9, True), "medians[9]"),
    (replaced("bids", 5, -0.1), "bids[5]"),
    (replaced("asks", 19, 1.5), "asks[19]"),
    (replaced("medians", 2, float("nan")), "medians[2]"),
    (replaced("medians", 2, float("inf")), "medians[2]"),
    (replaced("bids", 7, float("nan")), "bids[7]"),
    (replaced("asks", 7, float("-inf")), "asks[7]"),
    (changed("product", "DOGE-USD"), "product"),
    (changed("product", 7), "product"),
    (without("product"), "product"),
    (without("medians"), "medians"),
    ({**SAMPLE, "median": []}, "median"),
]


@pytest.mark.parametrize(("sample", "field"), BAD_SAMPLES)
def test_a_bad_sample_is_refused_by_the_name_of_its_field(
    client: Client, sample: dict[str, Any], field: str
) -> None:
    for body, named in (
        (sample, field),
        ({"samples": [SAMPLE, sample, SAMPLE]}, f"samples[1].{field}"),
        ({"samples": [sample]}, f"samples[0].{field}"),
    ):
        answer = client.post("/v1/predict", content=json.dumps(body))  # Writes NaN and Infinity.
        assert answer.status_code == 422
        assert answer.json()["field"] == named
        assert named in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"samples": []}', "samples"),
        (json.dumps({"samples": [SAMPLE] * (MAX_SAMPLES + 1)}), "samples"),
        ('{"samples": 3}', "samples"),
        (json.dumps({"samples": [SAMPLE], "product": "BTC-USD"}), "product"),
        (json.dumps(SAMPLE).replace("100.0", "1e999"), "medians[0]"),
        ("", "body"),
        ("[]", "body"),
        ("{", "body"),
        ("NaN", "body"),
        (b"\xff\xfe", "body"),
        ("[" * 200_000, "body"),
        ('{"samples": ' * 200_000, "body"),
        ('{"product": NaN, "bids": ' + "[" * 200_000, "body"),
        ("{}", "product"),
    ],
)
def test_a_bad_body_is_refused(client: Client, body: str | bytes, field: str) -> None:
    answer = client.post("/v1/predict", content=body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field


def test_a_model_with_signals_takes_as_many_as_it_was_trained_with(stub: Stub) -> None:
    meta = meta_of(recipe=Recipe(signals=SignalsConfig(spread=True, depth=True)))
    client = Client(create_api(meta, stub.predict, stub))
    wanted = ["spread_bps", "depth_log", "depth_imbalance"]
    assert client.get("/health").json()["model"]["signals"] == wanted
    good = {**SAMPLE, "signals": [10.0, 2, -4]}
    for body in (good, {"samples": [SAMPLE | good] * 3}):
        answer = client.post("/v1/predict", json=body)
        assert answer.status_code == 200
        assert answer.json()["predictions"][-1]["values"]["CLOSE_BUY"] == 2 + 8
    for given, field in (
        ([1.0, 2.0], "signals"),
        ([1.0] * 4, "signals"),
        ([], "signals"),
        (None, "signals"),
        ([1.0, "2", 3.0], "signals[1]"),
        ([1.0, 2.0, float("nan")], "signals[2]"),
        ([1.0, 2.0, 1e300], "signals[2]"),
    ):
        bad = {**SAMPLE, "signals": given}
        for body, named in ((bad, field), ({"samples": [good, bad]}, f"samples[1].{field}")):
            answer = client.post("/v1/predict", content=json.dumps(body))
            assert (answer.status_code, answer.json()["field"]) == (422, named)
    answer = client.post("/v1/predict", json=SAMPLE)
    assert (answer.status_code, answer.json()["field"]) == (422, "signals")
    assert ", ".join(wanted) in answer.json()["detail"]


def test_a_model_without_signals_takes_none(client: Client) -> None:
    assert client.post("/v1/predict", json={**SAMPLE, "signals": []}).status_code == 200
    answer = client.post("/v1/predict", json={**SAMPLE, "signals": [1.0]})
    assert (answer.status_code, answer.json()["field"]) == (422, "signals")
    assert client.get("/health").json()["model"]["signals"] == []


def test_products_that_the_model_was_not_trained_for_are_refused(stub: Stub) -> None:
    client = Client(create_api(meta_of(trained=PRODUCTS[1:]), stub.predict, stub))
    (prediction,) = client.post("/v1/predict", json=SAMPLE).json()["predictions"]
    assert prediction["values"]["FORCE_SELL"] == 1.0  # Still its index in all the products.
    answer = client.post("/v1/predict", json=changed("product", "BTC-USD"))
    assert (answer.status_code, answer.json()["field"]) == (422, "product")
    assert "the model was not trained for 'BTC-USD'" in answer.json()["detail"]
    assert client.get("/health").json()["model"]["trained"] == list(PRODUCTS[1:])


def test_a_size_error_says_how_many_are_allowed(client: Client) -> None:
    answer = client.post("/v1/predict", json={"samples": [SAMPLE] * (MAX_SAMPLES + 1)})
    assert str(MAX_SAMPLES) in answer.json()["detail"]


def test_health_shows_model_and_execution(client: Client) -> None:
    health = client.get("/health").json()
    assert health["status"] == "ok"
    assert health["model"]["trained"] == list(PRODUCTS)
    assert "products" not in health["model"]
    assert health["model"]["objective"] == "mse"
    assert health["model"]["variant"]["lstm_hidden"] == 8
    assert health["model"]["features_version"] == "1"
    assert health["execution"]["beats"] == 3


@pytest.mark.parametrize(
    ("stream", "status"),
    [("lost", "degraded"), ("failed", "degraded"), ("finished", "ok"), ("idle", "ok")],
)
def test_health_is_degraded_while_no_windows_can_come(
    client: Client, stub: Stub, stream: str, status: str
) -> None:
    stub.stream = stream
    assert client.get("/health").json()["status"] == status


def test_positions_are_passed_on(client: Client) -> None:
    assert client.get("/v1/positions").json() == {"usd": "1200.00"}


def test_what_does_not_answer_is_said_to_be_gone(client: Client, stub: Stub) -> None:
    stub.broken = True
    answer = client.post("/v1/predict", json=SAMPLE)
    assert (answer.status_code, "replica gone" in answer.json()["detail"]) == (503, True)
    assert client.get("/v1/positions").status_code == 503
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")


def test_the_schema_lists_both_bodies(client: Client) -> None:
    body = client.get("/openapi.json").json()["paths"]["/v1/predict"]["post"]["requestBody"]
    assert len(body["content"]["application/json"]["schema"]["oneOf"]) == 2


def test_ports_are_distinct_and_all_reach_the_environment() -> None:
    ports = free_ports()
    assert len(set(ports)) == len(ports)
    env = ray_environment(Ports(*ports))
    assert {str(port) for port in ports[1:]} <= set(env.values())
    assert env["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert ray_environment(ports, haproxy=False)["RAY_SERVE_ENABLE_HA_PROXY"] == "0"


def test_a_taken_port_is_an_error() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(QuaverError, match=f"port {port} cannot be opened") as error:
            free_ports(port)
        assert f"--set serve.port={port + 1}" in str(error.value)
    assert free_ports(port).http == port


def test_what_does_not_fit_the_model_is_an_error_before_anything_starts() -> None:
    with pytest.raises(QuaverError, match="no model file"):
        build_app(b"", ExecutionConfig())
    bce = model_file(objective="bce")
    with pytest.raises(QuaverError, match="not trained for DOGE-USD"):
        build_app(bce, ExecutionConfig(products=("BTC-USD", "DOGE-USD")))
    with pytest.raises(QuaverError, match="not trained for SOL-USD"):
        build_app(model_file(trained=PRODUCTS[:2]), ExecutionConfig(products=PRODUCTS))
    for objective in ("bce", "cross_entropy", "decision"):
        logits = model_file(objective=objective)
        with pytest.raises(QuaverError, match=f"trained with {objective} .* leave trader.min_edge"):
            build_app(logits, ExecutionConfig(trader=TraderConfig(min_edge_bps=1.0)))
    build_app(
        model_file(objective="advantage"), ExecutionConfig(trader=TraderConfig(min_edge_bps=1.0))
    )
