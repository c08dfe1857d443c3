"""`quaver sweep` as a command, on a Ray that runs already: stopped, gone on with, refused."""

import re
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray

from actors.store import Store
from cluster import session
from market.errors import QuaverError
from tests.helpers import Quaver

LIMIT_S = 120
SMALL = [
    *("--set", "sweep.train.epochs=40", "--set", "sweep.train.patience_epochs=39"),
    *("--set", "sweep.space.seed=[1, 2]", "--set", 'sweep.space."model.lstm_hidden"=[4]'),
]


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_on_a_running_ray_is_stopped_gone_on_with_and_not_begun_twice(
    ray_local: None, quaver: Quaver, two_hours: Store
) -> None:
    where = ("--set", f"ray_address={ray.get_runtime_context().gcs_address}")
    sweep = ("sweep", "--data", two_hours.root, "--name", "first", *where, *SMALL)
    stopped = quaver(*sweep)
    until = time.monotonic() + LIMIT_S
    while not list(Path(two_hours.root).glob("runs/first/*/state.msgpack")):
        assert stopped.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)  # Which ends in what Ctrl-C does.
    said, _ = stopped.communicate(timeout=LIMIT_S)
    assert stopped.returncode == 130 and "go on with --resume" in said, said
    assert "Traceback" not in said and "Fatal" not in said

    again = quaver(*sweep)
    said, _ = again.communicate(timeout=LIMIT_S)
    assert again.returncode == 1 and re.search(r"exists; go on with it \(--resume\)", said)

    resumed = quaver(*sweep, "--resume")
    said, _ = resumed.communicate(timeout=LIMIT_S)
    assert resumed.returncode == 0, said
    assert "Traceback" not in said
    names = ("00_seed-1_lstm_hidden-4", "01_seed-2_lstm_hidden-4")
    rows = [line.split() for line in said.splitlines() if line.startswith(names)]
    assert sorted(row[0] for row in rows) == sorted(names), said
    assert [row[3] for row in rows] == ["40", "40"]
    assert re.search(r"best of 2 trials and 80 epochs: Sharpe ratio|too short to tell", said)
    assert f"next: quaver report --data {two_hours.root} --name first --set ray_address=" in said
    assert (Path(two_hours.root) / "runs" / "first" / "best" / "model.safetensors").exists()


def test_what_listens_there_but_is_no_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_REACH_S", 0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"127.0.0.1:{server.server_address[1]}"
        try:
            with pytest.raises(QuaverError, match="is no Ray"), session.ray_session(address):
                pass
        finally:
            server.shutdown()
            thread.join()
