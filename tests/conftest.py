"""Fixtures that more than one folder of tests uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Drop compiled code older than any of market/: numba looks only at a function's own file.

    A change in `book.py` would otherwise leave `windows.py` running the old one.
    """
    market = Path(__file__).resolve().parents[1] / "market"
    changed_s = max(source.stat().st_mtime for source in market.glob("*.py"))
    compiled = [*market.glob("__pycache__/*.nbi"), *market.glob("__pycache__/*.nbc")]
    if any(file.stat().st_mtime < changed_s for file in compiled):
        for file in compiled:
            file.unlink()


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
