"""`quaver replay`: a recorded capture on a websocket, until its client has had all of it."""

import asyncio
from pathlib import Path

from rich.console import Console

from sim.replay import Replay


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
