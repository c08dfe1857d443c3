"""`quaver exchange` from the command line."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from typer.testing import CliRunner
from websockets.asyncio.client import connect

from cluster import cli
from cluster.exchange import load_key
from cluster.options import parse_speed
from market.errors import QuaverError
from sim.auth import Keyring, key_file, new_key, sign
from sim.rest_calls import PREFIX
from sim.tape import read_tape

ROOT = Path(__file__).resolve().parents[2]
START = [sys.executable, "-c", "from cluster.cli import main; main()", "exchange"]


def started(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*START, *options], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def addresses(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait until the exchange says where it listens."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "REST:" in line:
            break
    found = re.search(r"(ws://\S+).*?(http://\S+)", said, re.DOTALL)
    assert found, said
    return found[1], found[2].removesuffix(PREFIX)


@pytest.mark.slow
def test_it_runs_for_its_time_and_takes_orders_of_the_key_that_it_wrote(tmp_path: Path) -> None:
    key, tape = tmp_path / "key.json", tmp_path / "tape"
    process = started(
        *("--products", "STRK-USD", "--speed", "max", "--duration", "20"),
        *("--key-file", str(key), "--tape", str(tape), "--usd", "500"),
    )

    async def client(ws: str, http: str) -> int:
        said = json.loads(key.read_text())
        path = f"{PREFIX}/accounts"
        uri = f"GET {http.removeprefix('http://')}{path}"
        token = sign(said["name"], said["privateKey"], uri)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
            async with session.get(http + path) as answer:
                (wallet,) = (await answer.json())["accounts"]
                assert wallet["available_balance"] == {"value": "500", "currency": "USD"}
        async with connect(ws, max_size=None) as socket:
            for channel in ("heartbeats", "level2"):
                request = {"type": "subscribe", "channel": channel, "product_ids": ["STRK-USD"]}
                await socket.send(json.dumps(request))
            return len([frame async for frame in socket])

    try:
        frames = asyncio.run(asyncio.wait_for(client(*addresses(process)), 60))
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
    assert key.stat().st_mode & 0o077 == 0
    assert len(read_tape(tape).frames[1]) == frames > 50


@pytest.mark.slow
def test_ctrl_c_stops_it_without_a_traceback() -> None:
    process = started("--products", "STRK-USD")
    try:
        addresses(process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors.strip()) == (130, "stopped")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--speed", "fast"), "--speed 'fast': write a positive number, or `max`"),
        (("--faults", "3"), "'3' is no schedule of faults"),
        (("--products", "NOPE-USD"), "'NOPE-USD' is not one of the 55 products"),
        (("--products", ""), "'' is not one of the 55 products"),
        (("--products", "STRK-USD,"), "'' is not one of the 55 products"),
        (("--usd", "much"), "--usd 'much' is no amount of money"),
        (("--products", "STRK-USD", "--tape", "/dev/null/tape"), "cannot keep a tape"),
        (("--products", "STRK-USD,STRK-USD"), "given a product twice"),
        (("--key-file", "/nowhere/key.json"), "cannot write the key"),
    ],
)
def test_wrong_input_is_an_error_of_one_line(options: tuple[str, ...], said: str) -> None:
    error = CliRunner().invoke(cli.app, ["exchange", *options]).exception
    assert isinstance(error, QuaverError)
    assert said in str(error) and len(str(error).splitlines()) == 1


def test_a_speed_is_a_positive_number_or_max() -> None:
    assert (parse_speed("max"), parse_speed("2.5")) == (None, 2.5)
    for wrong in ("0", "-1", "nan", "inf", "x", ""):
        with pytest.raises(QuaverError):
            parse_speed(wrong)


def test_a_key_is_written_once_read_again_and_never_put_in_place_of_another(
    tmp_path: Path,
) -> None:
    path = tmp_path / "key.json"
    key = load_key(path)
    said = json.loads(path.read_text())
    assert Keyring((key,)).check(sign(said["name"], said["privateKey"])) == key
    assert load_key(path) == key
    for other in ("nonsense", "{}", key_file("organizations/real/apiKeys/1", new_key("x", "y")[1])):
        path.write_text(other)
        with pytest.raises(QuaverError):
            load_key(path)
        assert path.read_text() == other
