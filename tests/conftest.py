"""Fixtures that more than one folder of tests uses."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis.internal.conjecture import providers

from tests.helpers import Quaver, commands
from tests.s3 import S3Server

# Hypothesis mixes constants of all project modules loaded so far into what it draws: a test would
# see other cases after an edit elsewhere, or when other tests run before it.
providers._get_local_constants = lambda: providers._local_constants


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of two CPUs on this machine, started once for all tests that need one."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, started once for all tests that need one."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    try:
        yield server
    finally:
        server.kill9()


@pytest.fixture
def s3_root(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data root in a bucket of its own, a home, and the environment that leads to both.

    Ray's workers take that environment from `s3_server.environment`.
    """
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # Where the spool of such a root lies.
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return s3_server.bucket(f"bucket-{uuid.uuid4().hex[:12]}")


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A data root of each sort."""
    if request.param == "folder":
        return str(tmp_path / "root")
    return str(request.getfixturevalue("s3_root"))


@pytest.fixture
def quaver() -> Iterator[Quaver]:
    """Return a function that starts the command line; what is left of it is ended."""
    with commands() as start:
        yield start
