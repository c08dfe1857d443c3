"""The host-wide limiter: never more grants in a second than allowed, however its users end."""

import array
import asyncio
import multiprocessing
import os
import signal
import stat
import time
from itertools import pairwise
from pathlib import Path

import pytest
from filelock import FileLock

from actors.pace import Pace
from market.errors import QuaverError

pytestmark = pytest.mark.slow


PER_S = 8


def hammer(path: Path, seconds: float, leave: int) -> list[tuple[float, float]]:
    """Take as often as possible; return between which times each grant was given."""
    pace, given, end = Pace(path, PER_S), [], time.monotonic() + seconds
    while (before := time.monotonic()) < end:
        if (wait_s := pace.take(leave)) == 0:
            given.append((before, time.monotonic()))
        else:
            time.sleep(min(wait_s, 0.02))
    return given


def assert_never_faster(given: list[tuple[float, float]]) -> None:
    """No `PER_S` + 1 grants that surely lie within a second: from the first's start to its end."""
    given = sorted(given)
    for first, last in zip(given, given[PER_S:], strict=False):
        assert last[1] - first[0] >= 1.0


@pytest.mark.slow
def test_three_processes_together_never_exceed_the_pace(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        jobs = [pool.apply_async(hammer, (tmp_path / "p", 2.5, n)) for n in (0, 0, 2)]
        given = [grant for job in jobs for grant in job.get(60)]
        pool.close()
        pool.join()
    assert_never_faster(given)
    first = min(given)[0]
    # They are not slower than need be either: a whole set at once, the next after the window.
    assert sum(at - first < 1.0 for at, _ in given) >= PER_S - 1
    assert len(given) > PER_S


def test_many_waiters_of_one_loop_are_all_served_in_time(tmp_path: Path) -> None:
    paces = [Pace(tmp_path / "p", PER_S) for _ in range(12)]
    turns: list[tuple[float, float]] = []

    async def one(pace: Pace) -> None:
        await pace.turn()
        turns.append((time.monotonic(), time.monotonic()))

    async def test() -> None:
        ticks = [time.monotonic()]
        waiting = asyncio.gather(*map(one, paces))
        while not waiting.done():
            await asyncio.sleep(0.005)
            ticks.append(time.monotonic())
        await waiting
        # The loop ran on all the time.
        assert sorted(after - before for before, after in pairwise(ticks))[len(ticks) // 2] < 0.05

    asyncio.run(test())
    assert len(turns) == 12
    assert_never_faster(turns)


def test_a_grant_that_leaves_some_is_given_only_while_there_are_more(tmp_path: Path) -> None:
    pace = Pace(tmp_path / "p", PER_S)
    assert [pace.take(leave=3) for _ in range(5)] == [0.0] * 5
    assert 0 < pace.take(leave=3) <= 1.1
    assert [pace.take() for _ in range(3)] == [0.0] * 3
    assert pace.take() > 0
    for wrong in (-1, PER_S):
        with pytest.raises(ValueError, match="0 to 7"):
            pace.take(wrong)


def test_other_files_have_a_pace_of_their_own(tmp_path: Path) -> None:
    assert Pace(tmp_path / "a", 1).take() == Pace(tmp_path / "b", 1).take() == 0
    assert Pace(tmp_path / "a", 1).take() > 0


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "p.lock", held))
    holder.start()
    try:
        assert held.wait(30)
        pace = Pace(tmp_path / "p", PER_S)
        assert 0 < pace.take() < 0.1  # Not given, but the loop does not wait for the lock.
        assert holder.pid
        os.kill(holder.pid, signal.SIGKILL)
        holder.join(30)
        assert pace.take() == 0
    finally:
        holder.kill()
        holder.join()


def test_a_holder_that_is_stopped_with_the_lock_holds_up_nobody_for_long(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "p.lock", held))
    holder.start()
    try:
        assert held.wait(30)
        assert holder.pid
        os.kill(holder.pid, signal.SIGSTOP)
        pace, began = Pace(tmp_path / "p", PER_S), time.monotonic()

        async def turns() -> None:
            for _ in range(PER_S):
                await pace.turn()

        asyncio.run(asyncio.wait_for(turns(), 30))
        assert time.monotonic() - began < 3.0
        assert pace.take() > 0  # Those grants count.
    finally:
        holder.kill()
        holder.join()


def hold(path: Path, held: object) -> None:
    with FileLock(path):
        held.set()  # type: ignore[attr-defined]
        time.sleep(60)


@pytest.mark.parametrize(
    "content",
    [
        array.array("d", [time.monotonic() + 1e6] * PER_S).tobytes(),
        array.array("d", [float("nan"), float("inf"), -float("inf")] * 3).tobytes(),
        b"no times at all" * 30,
        b"",
    ],
    ids=["of a clock since set back", "no numbers", "garbage", "empty"],
)
def test_times_that_cannot_be_hold_nobody_up(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p"
    path.write_bytes(content)
    pace = Pace(path, PER_S)
    assert [pace.take() for _ in range(PER_S)] == [0.0] * PER_S
    assert pace.take() > 0


def test_the_wall_clock_plays_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(tmp_path / "p", 1)
    assert pace.take() == 0
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 < pace.take() <= 1.1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.2)
    assert pace.take() == 0


def test_a_folder_that_cannot_be_made_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(QuaverError, match=r"pace_folder.*folder that can be written"):
        Pace(tmp_path / "file" / "p", PER_S)


def test_the_file_is_small_and_the_users_own(tmp_path: Path) -> None:
    pace = Pace(tmp_path / "p", PER_S)
    for _ in range(PER_S):
        pace.take()
    found = (tmp_path / "p").stat()
    assert (found.st_size, stat.S_IMODE(found.st_mode)) == (8 * PER_S, 0o600)
