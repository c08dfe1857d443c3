"""Whether any node could run a trial, said after seconds: Tune itself waits in silence.

A Ray that the command has started cannot grow, so a shortage is an error at once. A cluster may: it
scales by itself, or a lost spot machine is replaced. There it is a warning that repeats, and an
error once no trial could run for `wait_for_node_s`.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping

from market.errors import QuaverError

LOOK_S = 2.0  # Between two looks at the nodes.
REPEAT_S = 10.0  # Between two warnings.
BUSY_S = 30.0  # Without a running trial, before nodes that fit are called busy.
LEAST_CPU = 1e-4  # Ray counts no finer.
_RAYS_NAMES = {"cpu": "CPU", "gpu": "GPU"}


def check_resources(needed: Mapping[str, float]) -> None:
    """Raise a QuaverError where Ray would take a trial's resources otherwise than they look."""
    for name in needed:
        if name.lower() in _RAYS_NAMES and name not in _RAYS_NAMES:
            # CPU is the same to Ray: given both, one would be dropped.
            raise QuaverError(f"sweep.trial_resources: write {name.lower()}, not {name}")
    if needed.get("cpu", 0) < LEAST_CPU:
        raise QuaverError(
            "sweep.trial_resources: cpu must be given, and more than 0: it sets how many trials "
            "run at once"
        )


def shortage(needed: Mapping[str, float], nodes: Iterable[Mapping[str, float]]) -> str:
    """Return why none of the nodes can run a trial, in words; empty if one can.

    `needed` are a trial's resources, `nodes` all that each node has, by Ray's names.
    """
    wanted = {_RAYS_NAMES.get(name, name): value for name, value in needed.items() if value > 0}
    found = list(nodes)
    if any(all(node.get(n, 0) >= value for n, value in wanted.items()) for node in found):
        return ""
    most = {name: max((node.get(name, 0) for node in found), default=0) for name in wanted}
    asked = ", ".join(f"{value:g} {name}" for name, value in wanted.items())
    has = ", ".join(f"{value:g} {name}" for name, value in most.items())
    apart = ", not all on the same one" if all(most[n] >= v for n, v in wanted.items()) else ""
    return f"a trial asks for {asked}, but a node has at most {has}{apart}"


class Capacity:
    """Looks after a sweep in which nothing runs."""

    def __init__(
        self,
        needed: Mapping[str, float],
        nodes: Callable[[], Iterable[Mapping[str, float]]],
        wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch `nodes()`; `wait_s` is 0 where no node can come, -1 without bound."""
        self._needed = needed
        self._nodes = nodes
        self._wait_s = math.inf if wait_s < 0 else wait_s
        self._clock = clock
        self._short_since: float | None = None
        self._busy_since: float | None = None
        self._looked = self._said = -math.inf

    def check(self, idle: bool) -> str:
        """Return what to warn of, mostly nothing; `idle` if trials wait and none runs.

        QuaverError where no node that could run one has come in time.
        """
        now = self._clock()
        if not idle:
            self._short_since = self._busy_since = None
            return ""
        if now - self._looked < LOOK_S:
            return ""
        self._looked = now
        found = shortage(self._needed, self._nodes())
        if not found:
            self._short_since = None
            self._busy_since = now if self._busy_since is None else self._busy_since
            busy_s = now - self._busy_since
            busy = f"no trial has run for {busy_s:.0f} s: the nodes that could run one are busy"
            return self._say(now, busy) if busy_s >= BUSY_S else ""
        self._busy_since = None
        self._short_since = now if self._short_since is None else self._short_since
        short_s = now - self._short_since
        if short_s >= self._wait_s:
            waited = f"; waited {short_s:.0f} s (sweep.wait_for_node_s)" if self._wait_s else ""
            raise QuaverError(
                f"sweep: {found}; lower sweep.trial_resources, or add such a node{waited}"
            )
        return self._say(now, f"waiting for a node: {found}")

    def _say(self, now: float, text: str) -> str:
        if now - self._said < REPEAT_S:
            return ""
        self._said = now
        return text
