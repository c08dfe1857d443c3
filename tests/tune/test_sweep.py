"""A sweep writes what it promises after every epoch, and goes on by name after a stop."""

import errno
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.fs
import pytest
import ray
import torch
from ray.air.execution._internal import event_manager
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError

from actors.store import Store
from datasets.recipe import Recipe
from market.errors import QuaverError
from tests.tune.small_sweep import NAMES, PRODUCTS, RECIPE, stopped, under
from tune import own_errors, run_folder
from tune import sweep as sweep_module
from tune.checkpoint import load_model
from tune.run_folder import trained_on
from tune.search import variant
from tune.sweep import run_sweep
from tune.training import train
from tune.trial_state import TrialFile

pytestmark = pytest.mark.ray


class Bucket(Store):
    """bucket/prefix in a file system that is not simply the local one, as with S3."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.is_local = False
        self._fs = pyarrow.fs.SubTreeFileSystem(str(root), pyarrow.fs.LocalFileSystem())
        self._base = "bucket/prefix"
        # S3 has no folders that could be missing, this has.
        for name in ("best", *NAMES):
            self._fs.create_dir(f"{self._base}/runs/grid/{name}")

    def __reduce__(self) -> tuple[type["Bucket"], tuple[Path]]:
        return (Bucket, (Path(self.root),))

    def check(self) -> None:
        pass

    def write(self, path: str, data: bytes | memoryview) -> None:
        with self._fs.open_output_stream(f"{self._base}/{path}") as out:
            out.write(data)

    def read(self, path: str) -> bytes:
        with self._fs.open_input_file(f"{self._base}/{path}") as f:
            return bytes(f.read())

    def exists(self, path: str) -> bool:
        return self._fs.get_file_info(f"{self._base}/{path}").type == pyarrow.fs.FileType.File

    def sizes(self, under: str) -> dict[str, int]:
        selector = pyarrow.fs.FileSelector(f"{self._base}/{under}", recursive=True)
        found = [one for one in self._fs.get_file_info(selector) if one.is_file]
        return {one.path.removeprefix(f"{self._base}/"): one.size for one in found}

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        self.write(path, change(self.read(path) if self.exists(path) else None))


class Full(Store):
    """A folder in which there is room for each file once."""

    def __reduce__(self) -> tuple[type["Full"], tuple[str]]:
        return (Full, (self.root,))

    def write(self, path: str, data: bytes | memoryview) -> None:
        with self._named("write", path):
            if self.exists(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(path, data)


class Deadly(Store):
    """A folder in which whoever writes the state of the first trial dies."""

    def __reduce__(self) -> tuple[type["Deadly"], tuple[str]]:
        return (Deadly, (self.root,))

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        if path.endswith(f"{NAMES[0]}/state.msgpack"):
            os.kill(os.getpid(), signal.SIGKILL)
        super().update(path, change)


class Fatal(Store):
    """A folder that no worker survives getting."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return (_die_unless, (os.getpid(),))


def _die_unless(pid: int) -> None:
    if os.getpid() != pid:
        os.kill(os.getpid(), signal.SIGKILL)


def _scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(f"ray/tune/{tag}")]


def test_checkpoints_scalars_table_and_best_model(ray_local, sweep, tmp_path, capfd) -> None:
    progress = []
    on_interrupt = signal.getsignal(signal.SIGINT)
    result = run_sweep(**sweep, on_progress=progress.append)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert signal.getsignal(signal.SIGINT) is on_interrupt

    assert tuple(row.name for row in result.trials) == NAMES
    assert result.trials[1].params == {"objective": "bce"}
    best = max(result.trials, key=lambda row: row.metrics.best_value_bps)
    assert result.best == best.name
    folder = tmp_path / "runs" / "grid"
    assert json.loads((folder / "results.json").read_bytes())["best"] == result.best

    for row in result.trials:
        state = TrialFile(sweep["store"], f"runs/grid/{row.name}").read()
        assert (state.epoch, state.batch, state.epochs[-1].metrics) == (2, 0, row.metrics)
        for tag in ("train_loss", "validation_loss", "validation_value_bps"):
            scalars = _scalars(folder / row.name, tag)
            assert [step for step, _ in scalars] == [1, 2]
            assert scalars[-1][1] == pytest.approx(getattr(row.metrics, tag), rel=1e-5)

    finished = [report.finished_epochs for report in progress]
    assert finished == sorted(finished)
    assert progress[-1].finished_epochs == progress[-1].total_epochs == 4
    assert progress[-1].finished_trials == progress[-1].total_trials == 2
    assert progress[-1].best_value_bps == best.metrics.best_value_bps

    _, meta = load_model(tmp_path / result.model_path, products=PRODUCTS)
    assert meta.objective == best.params["objective"]
    assert meta.recipe == RECIPE


def test_interrupted_sweep_goes_on_by_name(ray_local, sweep, make_samples, tmp_path) -> None:
    epochs = 8
    train_config = msgspec.structs.replace(sweep["config"].train, epochs=epochs)
    sweep["config"] = msgspec.structs.replace(sweep["config"], train=train_config)
    sweep["store"] = Bucket(tmp_path)

    def interrupt(progress) -> None:
        if progress.finished_epochs >= 3:
            signal.raise_signal(signal.SIGINT)

    assert re.search("interrupted, .*--resume", stopped(**sweep, on_progress=interrupt))
    folder = tmp_path / "bucket/prefix/runs/grid"
    states = [TrialFile(sweep["store"], f"runs/grid/{name}").read() for name in NAMES]
    before = sum(state.epoch for state in states if state)
    assert 3 <= before < 2 * epochs
    with pytest.raises(QuaverError, match=r"exists; .*--resume"):
        run_sweep(**sweep)
    other = msgspec.structs.replace(sweep["config"], seed=1)
    foreign = under(tmp_path / "foreign", make_samples(2000), Recipe())
    for change, what in (({"config": other}, "sweep.seed"), ({"samples": foreign}, "fees.taker_b")):
        with pytest.raises(QuaverError, match=f"was started with another value of {what}"):
            run_sweep(**{**sweep, **change}, resume=True)

    progress = []
    sweep["config"] = msgspec.structs.replace(
        sweep["config"], trial_resources={"cpu": 2.0}, max_failures=1
    )
    result = run_sweep(**sweep, resume=True, on_progress=progress.append)
    assert max(report.running_trials for report in progress) == 1  # That is all that fits.
    # A trial may have stored one epoch that Tune had not heard of yet.
    assert progress[0].finished_epochs >= before - len(NAMES)
    assert progress[-1].finished_epochs == 2 * epochs
    parts = trained_on(sweep["samples"].open(), sweep["splits"])
    for index, row in enumerate(result.trials):
        steps = [step for step, _ in _scalars(folder / row.name, "train_loss")]
        # All of them: what the first driver had not yet brought to the root is told anew.
        assert steps == list(range(1, epochs + 1))
        undisturbed = []
        state = train(
            *parts,
            variant(sweep["config"], index).train,
            on_epoch=lambda metrics, _, into=undisturbed: into.append(metrics),
        )
        assert row.metrics == undisturbed[-1]
        if row.name == result.best:
            model, _ = load_model(tmp_path / "bucket/prefix" / result.model_path, products=PRODUCTS)
            for name, tensor in model.state_dict().items():
                assert torch.equal(tensor, state.best_weights[name]), name
    assert run_sweep(**sweep, resume=True) == result  # Finished: nothing is left to do.


def test_failed_trial_is_named_and_can_be_resumed(
    ray_local, sweep, make_samples, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "FEATURE_ROWS", 1)
    sweep["config"] = msgspec.structs.replace(sweep["config"], space={"objective": ["mse"]})
    samples = make_samples(2000)
    medians = samples.medians.copy()
    samples.medians[999] = np.nan  # The digest takes the features of the first row alone.
    sweep["samples"] = under(tmp_path / "data", samples)
    message = stopped(**sweep)
    assert re.search("all 1 trials of grid failed, first 00_mse: .*not finite", message)
    log = tmp_path / "runs" / "grid" / "00_mse" / "error.txt"
    assert str(log) in message
    assert "not finite" in log.read_text()
    samples.medians[:] = medians
    sweep["samples"] = under(tmp_path / "data", samples)
    result = run_sweep(**sweep, resume=True)
    assert [row.metrics.epoch for row in result.trials] == [2]


@pytest.mark.slow
def test_a_full_disk_is_named_and_nothing_is_lost_once_there_is_room(
    ray_local, sweep, tmp_path
) -> None:
    sweep["config"] = msgspec.structs.replace(sweep["config"], space={})
    sweep["store"] = Full(str(tmp_path))
    message = stopped(**sweep)
    assert "No space left on device" in message and "--resume" in message
    assert TrialFile(sweep["store"], "runs/grid/00").read().epoch == 1
    sweep["store"] = Store(str(tmp_path))
    result = run_sweep(**sweep, resume=True)
    assert [row.metrics.epoch for row in result.trials] == [2]


@pytest.mark.slow
def test_a_trial_that_kills_its_workers_is_a_row_of_the_table(
    ray_local, sweep, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_errors, "MAX_DEATHS", 2)
    result = run_sweep(**{**sweep, "store": Deadly(str(tmp_path))})
    assert "its workers died again and again" in result.trials[0].error
    assert [row.metrics and row.metrics.epoch for row in result.trials] == [None, 2]
    assert result.best == NAMES[1]


def test_error_in_on_progress_reaches_the_caller(ray_local, sweep) -> None:
    def fail(progress) -> None:
        if progress.finished_epochs:
            raise QuaverError("from the caller")

    assert stopped(**sweep, on_progress=fail) == "from the caller"


def test_refusals_before_anything_starts(sweep, tmp_path) -> None:
    for change, message in (
        ({"name": "a/b"}, "the name 'a/b'"),
        ({"products": PRODUCTS[:2]}, "the universe has 2"),
        ({"resume": True}, "no sweep grid"),
    ):
        with pytest.raises(QuaverError, match=message):
            run_sweep(**{**sweep, **change})
    assert not list(tmp_path.iterdir())


def test_a_part_without_labels_is_refused_before_anything_starts(
    sweep, make_samples, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "_nodes", lambda: [{"CPU": 1.0}])
    monkeypatch.setattr(sweep_module, "_fitted", lambda *_: pytest.fail("trials were started"))
    samples = make_samples(2000)
    beats = sweep["samples"].open().beat[sweep["splits"]["validation"]]  # By product, not in time.
    samples.label[np.isin(samples.beat, beats)] = np.nan
    sweep["samples"] = under(tmp_path / "data", samples)
    with pytest.raises(QuaverError, match="no labelled validation"):
        run_sweep(**sweep)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_trial_whose_workers_ray_kills_for_memory_is_a_row_of_the_table(
    ray_local, sweep, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray kills by what the whole machine uses; here workers die, with the error that it gives."""
    real = ray.get

    def get(refs, **options):
        try:
            return real(refs, **options)
        except RayActorError as error:
            text = "1 worker(s) were killed due to the node running low on memory."
            raise OutOfMemoryError(text) from error

    monkeypatch.setattr(event_manager.ray, "get", get)
    monkeypatch.setattr(own_errors, "MAX_DEATHS", 2)
    result = run_sweep(**{**sweep, "store": Deadly(str(tmp_path))})
    assert "want of memory" in result.trials[0].error
    assert [row.metrics and row.metrics.epoch for row in result.trials] == [None, 2]


@pytest.mark.slow
def test_a_trial_whose_workers_never_start_is_given_up(
    ray_local, sweep, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_errors, "MAX_DEATHS", 1)
    sweep["config"] = msgspec.structs.replace(sweep["config"], space={})
    message = stopped(**{**sweep, "store": Fatal(str(tmp_path))})
    assert re.search("all 1 trials of grid failed, first 00: its workers died", message)


def test_an_error_of_ray_that_tune_does_not_know_is_no_traceback(
    sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[None] = []

    class Tuner:
        def fit(self) -> None:
            tried.append(None)
            raise RuntimeError("Caught unexpected exception") from NodeDiedError("gone")

    monkeypatch.setattr(sweep_module, "_tuner", lambda *_: Tuner())
    monkeypatch.setattr(sweep_module, "answers", lambda *_: None)
    sweep["store"].is_local = False  # Nor does it pass for an outage of a server.
    args = (None, sweep["config"], sweep["store"], "grid", None, False)
    with pytest.raises(QuaverError, match=r"was interrupted: Caught .*--resume"):
        sweep_module._fitted(*args)
    assert len(tried) == 1
