"""The quarantine: what was corrupt is found again verbatim, whatever happens to its writer."""

import base64
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from actors.quarantine import Quarantine, QuarantineConfig, corrupt_line
from actors.raw import DAY_NS
from actors.store import Store

SOON = QuarantineConfig(flush_s=0.01)
LIMIT_S = 30.0


def kept(root: Path) -> list[dict[str, object]]:
    files = sorted((root / "quarantine").glob("*"))
    return [json.loads(line) for path in files for line in path.read_bytes().splitlines()]


def wait_for(what: Callable[[], object]) -> None:
    """Wait until a condition holds; a test that waits for ever fails."""
    until = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_frames_are_kept_verbatim(tmp_path: Path) -> None:
    quarantine = Quarantine(Store(str(tmp_path / "root")), tmp_path / "local", "a", SOON)
    quarantine.keep(1, "no JSON", b'{"half')
    quarantine.keep(2, "envelope", b"\xff\x00")
    quarantine.close(LIMIT_S)
    assert kept(tmp_path / "root") == [
        {"recv_ns": 1, "reason": "no JSON", "frame": '{"half'},
        {
            "recv_ns": 2,
            "reason": "envelope",
            "frame_base64": base64.b64encode(b"\xff\x00").decode(),
        },
    ]
    assert list((tmp_path / "local").glob("[!.]*")) == []


def test_nothing_corrupt_leaves_no_file(tmp_path: Path) -> None:
    Quarantine(Store(str(tmp_path / "root")), tmp_path / "local", "a", SOON).close(LIMIT_S)
    assert not (tmp_path / "root").exists()


def test_two_collectors_of_one_name_and_folder_do_not_meet(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    both = [Quarantine(store, tmp_path / "local", "a", SOON) for _ in range(2)]
    for place, quarantine in enumerate(both):
        quarantine.keep(place, "same", b"same")
    for quarantine in both:
        quarantine.close(LIMIT_S)
    assert sorted(row["recv_ns"] for row in kept(tmp_path / "root")) == [0, 1]


def test_a_day_has_a_limit_that_is_told_once_and_the_next_day_has_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = corrupt_line(1, "x", b"frame")
    config = msgspec.structs.replace(SOON, max_bytes_per_day=2 * len(line))
    quarantine = Quarantine(Store(str(tmp_path / "root")), tmp_path / "local", "a", config)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            quarantine.keep(1, "x", b"frame")
        quarantine.keep(1 + DAY_NS, "x", b"frame")
    quarantine.close(LIMIT_S)
    assert quarantine.left_out == 3
    assert [row["recv_ns"] for row in kept(tmp_path / "root")] == [1, 1, 1 + DAY_NS]
    assert len(caplog.records) == 1 and "1970-01-01" in caplog.text


def test_a_day_has_its_limit_once_however_often_the_collector_is_started(tmp_path: Path) -> None:
    line = corrupt_line(1, "no JSON", b"frame")
    config = msgspec.structs.replace(SOON, max_bytes_per_day=2 * len(line))
    store, left_out = Store(str(tmp_path / "root")), 0
    for _ in range(3):
        quarantine = Quarantine(store, tmp_path / "local", "a", config)
        quarantine.keep(1, "no JSON", b"frame")
        quarantine.close(LIMIT_S)
        left_out += quarantine.left_out
    assert (len(kept(tmp_path / "root")), left_out) == (2, 1)


def test_a_huge_frame_leaves_room_for_others(tmp_path: Path) -> None:
    config = msgspec.structs.replace(SOON, max_bytes_per_day=1 << 20)
    quarantine = Quarantine(Store(str(tmp_path / "root")), tmp_path / "local", "a", config)
    quarantine.keep(1, "x", bytes(64 << 20))
    quarantine.keep(2, "x", b"frame")
    quarantine.keep(3, "x", b"\xff" * 900_000)  # It fits, but not in base64.
    quarantine.close(LIMIT_S)
    assert quarantine.left_out == 2
    assert [row["recv_ns"] for row in kept(tmp_path / "root")] == [2]


def test_a_root_that_is_away_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    root.write_text("a file where a folder should be")
    config = msgspec.structs.replace(SOON, rotate_s=0.01)
    quarantine = Quarantine(Store(str(root)), tmp_path / "local", "a", config)
    with caplog.at_level(logging.ERROR):
        quarantine.keep(1, "x", b"frame")
        wait_for(lambda: caplog.records)
    root.unlink()
    wait_for(lambda: kept(root))
    quarantine.close(LIMIT_S)
    assert [row["recv_ns"] for row in kept(root)] == [1]


_KILLED = """
import sys, time
from pathlib import Path
from actors.quarantine import Quarantine, QuarantineConfig
from actors.store import Store
local = Path(sys.argv[2])
quarantine = Quarantine(Store(sys.argv[1]), local, "a", QuarantineConfig(flush_s=0.01))
for i in range(3):
    quarantine.keep(i, "x", b"frame")
while not sum(path.read_bytes().count(b"\\n") for path in local.glob("[!.]*")) == 3:
    time.sleep(0.005)
print("flushed", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_collector_had_flushed_is_moved_by_the_next(tmp_path: Path) -> None:
    root, local = tmp_path / "root", tmp_path / "local"
    command = [sys.executable, "-c", _KILLED, str(root), str(local)]
    killed = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert killed.stdout and killed.stdout.readline() == b"flushed\n"
        # A living writer's file is left alone.
        Quarantine(Store(str(root)), local, "b", SOON).close(LIMIT_S)
        assert kept(root) == []
        os.kill(killed.pid, signal.SIGKILL)
    finally:
        killed.kill()
        killed.communicate()
    (torn,) = local.glob("[!.]*")
    with torn.open("ab") as file:
        file.write(b'{"recv_ns":3,"rea')
    Quarantine(Store(str(root)), local, "c", SOON).close(LIMIT_S)
    assert [row["recv_ns"] for row in kept(root)] == [0, 1, 2]
    assert list(local.glob("[!.]*")) == []
