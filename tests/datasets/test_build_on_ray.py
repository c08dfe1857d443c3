"""The build as a user runs it, on Ray: killed, without its server, and what it shows."""

import io
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from actors.store import Store
from cluster.build import BuildView, build_tables
from cluster.config import Config
from cluster.progress import Display
from datasets.build import Failure, build, find_todo
from datasets.partition import Built
from market.errors import QuaverError
from tests.actors.wire import BTC, ETH
from tests.datasets.building import (
    DAYS,
    RECIPE,
    SPLIT,
    everything,
    in_process,
    record_days,
    run,
    steps,
)
from tests.datasets.test_build_bad_input import first_part
from tests.helpers import Quaver
from tests.s3 import S3Server

__all__ = ["in_process"]
LIMIT_S = 120.0
RAY = [pytest.mark.ray, pytest.mark.slow,
       pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")]  # fmt: skip


def ray(test: Callable[..., None]) -> Callable[..., None]:
    for mark in RAY:
        test = mark(test)
    return test


class Deadly(Store):
    """A root whose reader dies, with all its process, at the parts of one partition."""

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return (Deadly, (self.root,))

    def read(self, path: str) -> bytes:
        if path.startswith(f"raw/product={BTC}/day={DAYS[0]}/part"):
            os._exit(9)
        return super().read(path)


def wait_for_windows(process: "subprocess.Popen[str]", store: Store, n: int) -> None:
    """Wait until a build has written so many files; it ends by itself at some time."""
    never = threading.Event()
    while len(store.files("windows")) < n and process.poll() is None:
        never.wait(0.002)


@ray
def test_a_driver_killed_in_the_middle_is_finished_by_the_next(
    tmp_path: Path, quaver: Quaver
) -> None:
    root, whole = Store(str(tmp_path / "root")), Store(str(tmp_path / "whole"))
    for store in (root, whole):
        record_days(store)
    first = quaver("build", "--data", root.root)
    wait_for_windows(first, root, 3)
    family = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=LIMIT_S)
    assert first.returncode == -signal.SIGKILL
    for left in psutil.wait_procs(family, LIMIT_S / 4)[1]:
        left.kill()
    assert not find_todo(root, RECIPE).is_empty()
    second = quaver("build", "--data", root.root)
    said, _ = second.communicate(timeout=LIMIT_S)
    assert second.returncode == 0, said
    with pytest.MonkeyPatch.context() as patched:
        in_process.__wrapped__(patched)  # type: ignore[attr-defined]
        run(whole)
    assert everything(Path(root.root)) == everything(Path(whole.root))


@ray
def test_a_server_killed_during_a_build_is_waited_for(
    s3_server: S3Server, s3_root: str, quaver: Quaver
) -> None:
    store = Store(s3_root)
    record_days(store)
    process = quaver("build", "--data", s3_root)
    assert process.stdout
    wait_for_windows(process, store, 1)
    s3_server.kill9()
    try:
        said = next((line for line in process.stdout if "waiting, will try again" in line), None)
    finally:
        s3_server.restart()
    rest, _ = process.communicate(timeout=LIMIT_S)
    assert said and process.returncode == 0, rest
    assert "8 windows and 8 samples partitions built" in rest
    assert find_todo(store, RECIPE).is_empty()


@ray
def test_a_task_that_dies_stops_no_other_partition(tmp_path: Path, ray_local: None) -> None:
    store = Store(str(tmp_path))
    record_days(store, 1)
    outcome = build(Deadly(store.root), find_todo(store, RECIPE), SPLIT)
    (failure,) = outcome.failures
    assert (failure.product, failure.day, failure.stage) == (BTC, DAYS[0], "windows")
    assert "killed" in failure.why
    assert steps(outcome) == [("samples", ETH, DAYS[0]), ("windows", ETH, DAYS[0])]


# What a person sees.


def test_what_is_shown_counts_partitions_rows_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    with Display(console) as display, display.stage("build") as stage:
        view = BuildView(stage)
        for i in range(3):
            now_s[0] += 6.0
            view.done(Built(BTC, DAYS[i], "windows", 3_000, 10, 9, ""), 8)
        now_s[0] += 2.0
        view.done(Failure(BTC, DAYS[3], "windows", "bad"), 8)
        now_s[0] += 1.0
        view.done(Built(BTC, DAYS[0], "samples", 500, 10, 9, ""), 7)
        view.waiting("it is away")
        now_s[0] += 10.0
        view.done(Built(BTC, DAYS[1], "samples", 500, 10, 9, ""), 7)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == [
        "build: 2 of 8 partitions, 6,000 rows, 500 rows/s, 0:00:36 left",
        "build: waiting, will try again: it is away",
        "build: 6 of 7 partitions, 10,000 rows, 323 rows/s, 0:00:05 left, 1 failed",
        "build: 6 of 7 partitions, 10,000 rows, 323 rows/s, 0:00:05 left, 1 failed (0 s)",
    ]


@pytest.mark.usefixtures("in_process")
def test_a_build_with_failures_prints_each_and_is_an_error(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record_days(store, 2)
    store.delete(first_part(store))
    store.write("raw/notes/x.txt", b"")
    console = Console(file=io.StringIO(), force_terminal=False, width=80)
    with (
        pytest.raises(QuaverError, match="2 partitions could not be built, all others are"),
        Display(console) as display,
        display.stage("build") as stage,
    ):
        build_tables(store, Config(), stage)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"failed: windows of {BTC} on {DAYS[1]}: " in said and "missing; import" in said
    assert f"failed: {store.root}/raw/notes is no raw partition" in said
    assert len(said.splitlines()) == 2
