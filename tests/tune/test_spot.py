"""A spot notice is seen in each of its forms, and saves a trial at its batch."""

import contextlib
import errno
import io
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from actors.store import Away, Store
from datasets.batches import Part
from market.errors import QuaverError
from tests.tune.metadata import MetadataServer
from tune import trial
from tune.checkpoint import TrainState
from tune.spot import Notice, SpotConfig
from tune.training import EpochMetrics, train
from tune.trial import run_trial
from tune.trial_state import FILE, TrialFile

_WAIT_S = 20.0
FOLDER = "runs/grid"


def taken(notice: Notice) -> bool:
    """Wait until a notice has come, or for long."""
    until = time.monotonic() + _WAIT_S
    while time.monotonic() < until:
        if notice.take():
            return True
        time.sleep(0.005)
    return False


def test_a_notice_at_the_metadata_address_is_taken_once() -> None:
    with MetadataServer() as server:
        config = SpotConfig(metadata_url=server.url, poll_s=0.01)
        with Notice(config) as notice:
            for _ in range(3):
                assert server.asked.acquire(timeout=_WAIT_S)
            assert not notice.take()
            server.notice()
            assert taken(notice)
            while server.asked.acquire(blocking=False):
                pass
            for _ in range(3):
                assert server.asked.acquire(timeout=_WAIT_S)
            assert not notice.take()


def test_a_token_that_has_run_out_is_replaced() -> None:
    with MetadataServer() as server:
        with Notice(SpotConfig(metadata_url=server.url, poll_s=0.01)) as notice:
            assert server.asked.acquire(timeout=_WAIT_S)
            server.expire_token()
            server.notice()
            assert taken(notice)


def test_a_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with MetadataServer() as server:
        server.notice()
        with Notice(SpotConfig(metadata_url=server.url, poll_s=0.01)) as notice:
            assert taken(notice)


def test_a_file_is_a_notice_where_the_metadata_address_is_silent(tmp_path: Path) -> None:
    file = tmp_path / "notice"
    config = SpotConfig(metadata_url="http://127.0.0.1:1", notice_file=str(file), poll_s=0.01)
    with Notice(config) as notice:
        assert not notice.take()
        file.touch()
        assert taken(notice)


def test_nothing_is_looked_for_by_default() -> None:
    with Notice(SpotConfig()) as notice:
        assert not notice.take()


class Samples:
    """What a trial opens, in memory."""

    def __init__(self, samples) -> None:
        self.open = lambda: samples


@pytest.fixture
def arguments(make_samples, small, tmp_path) -> dict:
    """Return the arguments of a trial, whose samples are half train, half validation."""
    samples = make_samples(2000)
    both = Part.of(samples)
    return {
        "config": {"trial": {"name": "one", "params": {}}},
        "train_config": msgspec.structs.replace(small, epochs=3),
        "samples": Samples(samples),
        "train_rows": both.rows[:1000],
        "validation_rows": both.rows[1000:],
        "store": Store(str(tmp_path)),
        "folder": FOLDER,
        "spot": SpotConfig(),
    }


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the epochs that Tune is told of."""
    told: list[int] = []
    monkeypatch.setattr(
        trial.ray_tune, "report", lambda metrics: told.append(metrics["training_iteration"])
    )
    return told


def undisturbed(arguments: dict) -> tuple[TrainState, list[EpochMetrics]]:
    """Train at one go."""
    samples = arguments["samples"].open()
    history: list[EpochMetrics] = []
    state = train(
        Part(samples, arguments["train_rows"]),
        Part(samples, arguments["validation_rows"]),
        arguments["train_config"],
        on_epoch=lambda metrics, _: history.append(metrics),
    )
    return state, history


def assert_as_undisturbed(arguments: dict) -> None:
    """Compare where the trial has ended, bit for bit."""
    file = TrialFile(arguments["store"], f"{FOLDER}/one")
    state, (expected, history) = file.load(), undisturbed(arguments)
    assert [epoch.metrics for epoch in file.read().epochs] == history
    for mine, other in (
        (state.weights, expected.weights),
        (state.best_weights, expected.best_weights),
    ):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)


class InMemory(Store):
    """What a bucket is to a full machine."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._files: dict[str, bytes] = {}

    def read(self, path: str) -> bytes:
        if path not in self._files:
            raise FileNotFoundError(path)
        return self._files[path]

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        self._files[path] = change(self._files.get(path))


class Lost(Exception):
    """The machine is gone."""


def test_a_trial_saves_at_the_notice_and_ends_as_if_it_had_not_been_taken_away(
    arguments, reports, monkeypatch
) -> None:
    """The notice comes after the eleventh batch, the third of the second epoch of eight."""
    asked, real_write = [], TrialFile.write

    class Noticed(Notice):
        def take(self) -> bool:
            asked.append(None)
            return len(asked) == 11 + 1  # Validation is one batch.

    def last_write(self: TrialFile, state, epochs) -> None:
        real_write(self, state, epochs)
        if state.batch:
            raise Lost

    with monkeypatch.context() as patch:
        patch.setattr(trial, "Notice", Noticed)
        patch.setattr(TrialFile, "write", last_write)
        with pytest.raises(Lost):
            run_trial(**arguments)
    known = TrialFile(arguments["store"], f"{FOLDER}/one").read()
    assert (known.epoch, known.batch) == (1, 3)
    run_trial(**arguments)
    assert reports == [1, 1, 2, 3]
    assert_as_undisturbed(arguments)


def test_a_trial_goes_on_after_the_notice_as_long_as_its_machine_does(
    arguments, reports, tmp_path
) -> None:
    notice = tmp_path / "notice"
    notice.touch()
    arguments["spot"] = SpotConfig(notice_file=str(notice), poll_s=0.01)
    run_trial(**arguments)
    assert reports == [1, 2, 3]
    assert_as_undisturbed(arguments)


def test_a_finished_trial_is_reported_and_not_trained_again(
    arguments, reports, monkeypatch
) -> None:
    run_trial(**arguments)
    del reports[:]
    monkeypatch.setattr(TrialFile, "write", lambda *of: pytest.fail("trained"))
    run_trial(**arguments)
    assert reports == [1, 2, 3]


def test_a_machine_that_was_given_up_for_lost_does_not_set_its_trial_back(
    arguments, reports
) -> None:
    run_trial(**arguments)
    store = arguments["store"]
    file, content = TrialFile(store, f"{FOLDER}/one"), store.read(f"{FOLDER}/one/{FILE}")
    known, state = file.read(), file.load()
    state.epoch, state.batch = 2, 7
    file.write(state, known.epochs[:2])
    assert store.read(f"{FOLDER}/one/{FILE}") == content


def test_any_damage_to_a_state_is_named(arguments, reports) -> None:
    run_trial(**arguments)
    store, path = arguments["store"], f"{FOLDER}/one/{FILE}"
    content = store.read(path)
    weights = TrialFile(store, f"{FOLDER}/one").load().weights["head.weight"].numpy().tobytes()
    places = (3, content.index(b"train_loss"), content.index(weights) + 3, len(content) - 1)
    flipped = []
    for place in places:
        flipped.append(bytearray(content))
        flipped[-1][place] ^= 1
    for damaged in (b"", b"\x93half", content[:-100], *flipped):
        store.write(path, bytes(damaged))
        with pytest.raises(QuaverError, match=r"runs/grid/one/state.msgpack .* is damaged"):
            run_trial(**arguments)


def test_a_server_that_is_away_is_waited_for(arguments, reports, monkeypatch) -> None:
    monkeypatch.setattr("actors.patience._POLL_MIN_S", 0.01)
    store, failures = arguments["store"], []

    def away(call):
        def tried(*of):
            if len(failures) % 3 < 2:
                failures.append(call)
                raise Away("no answer")
            failures.append(None)
            return call(*of)

        return tried

    store.is_local = False
    # A store that is not local would ask S3.
    monkeypatch.setattr(store, "check", lambda: None)
    real = Store(store.root)
    for name in ("read", "update"):
        monkeypatch.setattr(store, name, away(getattr(real, name)))
    run_trial(**arguments)
    assert len([call for call in failures if call]) == 2 * 4
    arguments["store"] = real
    assert_as_undisturbed(arguments)


def test_epochs_that_another_worker_has_saved_meanwhile_are_reported_too(
    arguments, reports, monkeypatch, tmp_path
) -> None:
    """A worker given up for lost ends the last epoch, in which this one has its notice."""
    ahead = {**arguments, "store": Store(str(tmp_path / "ahead"))}
    run_trial(**ahead)
    del reports[:]
    asked = []

    class Noticed(Notice):
        def take(self) -> bool:
            asked.append(None)
            if len(asked) != 9 * 2 + 3:  # The third batch of the third epoch.
                return False
            path = f"{FOLDER}/one/{FILE}"
            arguments["store"].write(path, ahead["store"].read(path))
            return True

    monkeypatch.setattr(trial, "Notice", Noticed)
    run_trial(**arguments)
    assert reports == [1, 2, 3]


def test_a_metadata_service_that_once_answers_nonsense_is_asked_again() -> None:
    for nonsense in (
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 30\r\n\r\ncut",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe",
    ):
        answers = iter([nonsense])
        with socket.create_server(("127.0.0.1", 0)) as server:

            def serve(server: socket.socket = server, answers: Iterator[bytes] = answers) -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = server.accept()
                        with connection:
                            connection.recv(65536)
                            good = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\ntoken"
                            connection.sendall(next(answers, good))

            threading.Thread(target=serve, daemon=True).start()
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            with Notice(SpotConfig(metadata_url=url, poll_s=0.01)) as notice:
                assert taken(notice), nonsense
            server.shutdown(socket.SHUT_RDWR)


def test_no_temporary_folder_is_needed_to_save_and_go_on(arguments, reports, monkeypatch) -> None:
    """That of a worker's machine may be full."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("mkdtemp", "mkstemp"):
        monkeypatch.setattr(tempfile, name, full)
    real = torch.save

    def in_memory(content, target) -> None:
        assert isinstance(target, io.BytesIO)
        real(content, target)

    monkeypatch.setattr(torch, "save", in_memory)
    arguments["store"] = InMemory(arguments["store"].root)
    run_trial(**arguments)
    run_trial(**arguments)
    assert reports == [1, 2, 3] * 2


def test_each_report_holds_the_looks_of_all_epochs_up_to_its_own(arguments, monkeypatch) -> None:
    told: list[dict] = []
    monkeypatch.setattr(trial.ray_tune, "report", told.append)
    run_trial(**arguments)
    run_trial(**arguments)
    assert told[3:] == told[:3]
    _, history = undisturbed(arguments)
    for index, report in enumerate(told[:3]):
        looks = [msgspec.structs.astuple(metrics.look) for metrics in history[: index + 1]]
        assert list(report["history"]) == looks


def test_a_second_notice_is_taken_once_the_first_was_withdrawn(tmp_path: Path) -> None:
    file = tmp_path / "notice"
    file.touch()
    with MetadataServer() as server:
        # It is asked only while there is no file.
        config = SpotConfig(metadata_url=server.url, notice_file=str(file), poll_s=0.01)
        with Notice(config) as notice:
            assert taken(notice)
            file.unlink()
            assert server.asked.acquire(timeout=_WAIT_S)
            file.touch()
            assert taken(notice)
