"""Fixtures that more than one folder of tests uses."""

from collections.abc import Iterator

import pytest
from hypothesis.internal.conjecture import providers

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
