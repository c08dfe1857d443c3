"""`quaver replay`: a recorded capture on a websocket, until its client has had all of it."""

import asyncio
from pathlib import Path

from rich.console import Console

from market.errors import QuaverError
from sim.replay import Replay

MAX = "max"


def parse_speed(text: str) -> float | None:
    """Return event seconds per second, None for `max`; QuaverError if it is neither."""
    if text == MAX:
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise QuaverError(f"--speed {text!r} is neither a number above 0 nor {MAX}")
    return speed


def run_replay(files: list[Path], speed: float | None, port: int, console: Console) -> None:
    """Serve captures, one after the other, and say where and how many frames went out."""
    asyncio.run(_replay(files, speed, port, console))


async def _replay(files: list[Path], speed: float | None, port: int, console: Console) -> None:
    async with Replay(files, speed, port) as replay:
        console.print(
            f"serving on {replay.url} from the first subscription to level2 on; Ctrl-C stops",
            soft_wrap=True,
            highlight=False,
        )
        await replay.finished()
    console.print(f"{replay.sent:,} frames sent")
