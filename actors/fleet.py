"""The fleet: collectors as named, detached Ray actors that restart by themselves.

A collector begins to read in its constructor, so that one that Ray starts anew, on another node if
its own is gone, goes on without any driver. Whoever wants the same fleet finds it by its names.

No call is retried by Ray (`max_task_retries` stays 0): a retried stream would begin anew, and Ray
would leave out as many of its items as were read before, though they are others.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import msgspec
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from actors.collector import STOP_PATIENCE_S, Closed, Collector, CollectorSpec
from actors.metrics import Metrics
from actors.status import CollectorStatus
from actors.warm_up import spare_from_collection, warm_up
from market.errors import QuaverError

NAMESPACE = "quaver"
_PREFIX = "collector-"
_METRICS_S = 1.0
_AGAIN_S = 5.0  # A collector that could not begin dies after this long, to be started anew.
_ANSWER_S = 60.0  # For a collector that starts, or starts anew on another node.
_STREAM_AHEAD = 16  # Items a collector may be ahead of its consumer.
_REOPEN_S = 0.5
_SHOWN = 120  # Characters of a setting in an error.
_STATUS_S = 5.0


class _Hosted(Collector):
    """A collector that works from its constructor on: Ray runs it in the actor's event loop."""

    def __init__(self, spec: CollectorSpec) -> None:
        self._failed: QuaverError | None = None
        try:
            super().__init__(spec)
        except QuaverError as e:
            # Ray gives up an actor whose constructor raises, and starts one anew that dies.
            self._failed = e
            asyncio.get_running_loop().call_later(_AGAIN_S, os._exit, 1)
            return
        self._metrics = Metrics(spec.name)
        self._beginning = asyncio.create_task(self._begin())

    async def told(self) -> CollectorSpec:
        """Return what this collector was told to do; QuaverError if it cannot do that."""
        self._check()
        return self.spec

    async def status(self) -> CollectorStatus:
        """Return what can be known of it; QuaverError if it could not begin."""
        self._check()
        return await super().status()

    async def finished(self) -> None:
        """Wait as for every collector, also for one that has yet to begin."""
        self._check()
        await asyncio.shield(self._beginning)
        await super().finished()

    async def stop(self) -> None:
        """Stop as every collector does; QuaverError if it could not begin."""
        self._check()
        await asyncio.shield(self._beginning)
        await super().stop()

    async def _begin(self) -> None:
        """Connect once nothing is left to compile; answer calls meanwhile."""
        await asyncio.to_thread(warm_up, self.spec.wire_format)
        spare_from_collection()
        self.start()
        self._publishing = asyncio.create_task(self._publish())

    def _check(self) -> None:
        if self._failed:
            raise self._failed

    async def _publish(self) -> None:
        while True:
            self._metrics.update(await self.status())
            await asyncio.sleep(_METRICS_S)


# SPREAD goes from node to node only for actors that ask for something: a byte is always there, and
# a collector that starts anew never waits for a CPU that training has taken.
CollectorActor = ray.remote(num_cpus=0, memory=1, max_concurrency=16, scheduling_strategy="SPREAD")(
    _Hosted
)


class Fleet(NamedTuple):
    """Collectors by name, and which of them this process started."""

    actors: dict[str, Any]
    started: tuple[str, ...]


def name_of(place: int) -> str:
    """Return the name of the collector at a place of the plan."""
    return f"{_PREFIX}{place}"


def start(specs: Sequence[CollectorSpec]) -> Fleet:
    """Start these collectors, or find them where they run already.

    QuaverError if those that run do something else, or one cannot begin; then nothing is started.
    """
    found = running()
    wanted = {spec.name: spec for spec in specs}
    if found:
        _check_same(wanted, _told(found))
    actors = {
        name: CollectorActor.options(
            name=name,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
        ).remote(spec)
        for name, spec in wanted.items()
    }
    ours = tuple(name for name in wanted if name not in found)
    try:
        _check_same(wanted, _told(actors))  # Another driver may have come between.
    except BaseException:
        for name in ours:
            ray.kill(actors[name], no_restart=True)
        raise
    return Fleet(actors, ours)


def running() -> dict[str, Any]:
    """Return the collectors that run in this Ray, by name; empty if there are none."""
    names = sorted(
        actor["name"]
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(_PREFIX)
    )
    return {name: ray.get_actor(name, NAMESPACE) for name in names}


def statuses(actors: dict[str, Any], timeout_s: float) -> dict[str, CollectorStatus | str]:
    """Return the status of each collector, or in words why there is none."""
    asked = {name: actor.status.remote() for name, actor in actors.items()}
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout_s)
    told: dict[str, CollectorStatus | str] = {}
    for name, ref in asked.items():
        try:
            told[name] = ray.get(ref) if ref in ready else "no answer"
        except RayActorError:
            told[name] = "restarting"
        except RayError as e:
            told[name] = _short(getattr(e, "cause", None) or e)
    return told


def stop(
    actors: dict[str, Any], patience_s: float = STOP_PATIENCE_S + 10.0
) -> dict[str, CollectorStatus | str]:
    """Stop collectors and end them; return the last status of each, or in words what went wrong.

    What they recorded is on disk then: under the root, or in the spool that the next start empties.
    """
    last: dict[str, CollectorStatus | str] = {}
    until = time.monotonic() + patience_s
    stopping = {name: actor.stop.remote() for name, actor in actors.items()}
    for name, ref in stopping.items():
        try:
            ray.get(ref, timeout=max(0.1, until - time.monotonic()))
        except GetTimeoutError:
            last[name] = f"did not stop within {patience_s:.0f} s"
        except RayError as e:
            last[name] = _short(getattr(e, "cause", None) or e)
    last = statuses(actors, _STATUS_S) | last
    for actor in actors.values():
        ray.kill(actor, no_restart=True)
    return last


async def windows(actors: dict[str, Any]) -> AsyncIterator[Closed]:
    """Yield what the collectors stream, each in its own order, until all have ended by themselves.

    A collector is read anew once it has restarted; the windows that it had not streamed when it
    was killed are in its recording only. Whoever reads slowly makes the collectors keep them, and
    in the end drop the oldest.
    """
    merged: asyncio.Queue[Closed | None] = asyncio.Queue(1)
    reading = [asyncio.create_task(_read(name, actor, merged)) for name, actor in actors.items()]
    try:
        left = len(reading)
        while left:
            if (item := await merged.get()) is None:
                left -= 1
            else:
                yield item
        await asyncio.gather(*reading)
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


async def _read(name: str, actor: Any, merged: "asyncio.Queue[Closed | None]") -> None:
    """Put every item of one collector's stream; then None, also if it raises."""
    try:
        while True:
            stream = actor.stream.options(
                num_returns="streaming", _generator_backpressure_num_objects=_STREAM_AHEAD
            ).remote()
            try:
                async for ref in stream:
                    await merged.put(await ref)
                return
            except RayActorError:
                if name not in await asyncio.to_thread(running):
                    raise QuaverError(f"{name} was ended while its windows were read") from None
                await asyncio.sleep(_REOPEN_S)
    finally:
        await merged.put(None)


def _told(actors: dict[str, Any]) -> dict[str, CollectorSpec]:
    """Ask collectors what they were told to do; one that restarts is waited for."""
    told: dict[str, CollectorSpec] = {}
    until = time.monotonic() + _ANSWER_S
    for name, actor in actors.items():
        while name not in told:
            try:
                told[name] = ray.get(
                    actor.told.remote(), timeout=max(0.1, until - time.monotonic())
                )
            except (GetTimeoutError, RayActorError) as e:
                if time.monotonic() > until:
                    raise QuaverError(
                        f"{name} has not answered for {_ANSWER_S:.0f} s: {e}; look at Ray's log, "
                        "or end it with quaver record --stop"
                    ) from None
                time.sleep(_REOPEN_S)
    return told


def _check_same(wanted: dict[str, CollectorSpec], told: dict[str, CollectorSpec]) -> None:
    """Raise a QuaverError that names how the running fleet differs, if it does."""
    differs = [f"it has {name} as well" for name in told.keys() - wanted.keys()]
    for name in sorted(told.keys() & wanted.keys()):
        ours, theirs = _described(wanted[name]), _described(told[name])
        differs += [
            f"{key} of {name} is {_short(theirs[key])}, asked for is {_short(ours[key])}"
            for key in ours
            if ours[key] != theirs[key]
        ]
    if differs:
        raise QuaverError(
            f"a fleet that does something else runs in this Ray: {'; '.join(differs[:3])}; "
            "end it with quaver record --stop, or ask for the same"
        )


def _described(spec: CollectorSpec) -> dict[str, object]:
    """What a collector was told, in the order in which a difference is of interest."""
    ids = ",".join(listed.id for group in spec.groups for listed in group)
    return {"products": ids, **msgspec.structs.asdict(spec)}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
