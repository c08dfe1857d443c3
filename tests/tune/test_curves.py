"""Every epoch of a trial is one point of its curves, whoever reports it how often."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow import fs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tune.curves import Curves


class OneTrial(SimpleNamespace):
    """What is looked at of one of Tune's trials."""

    __hash__ = object.__hash__

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)


def trial(root: Path, driver: Path) -> OneTrial:
    """Return the trial as the driver that writes its files in a folder has it."""
    storage = SimpleNamespace(
        storage_filesystem=fs.LocalFileSystem(),
        trial_fs_path=str(root),
        trial_driver_staging_path=str(driver),
    )
    return OneTrial(trial_id="one", storage=storage, local_path=str(driver), evaluated_params={})


def report(curves: Curves, told: OneTrial, *epochs: int) -> None:
    """Start a worker of the trial, which reports these epochs."""
    curves.log_trial_start(told)
    for epoch in epochs:
        result = {"epoch": epoch, "loss": 1 / epoch, "history": ((1.0, 2),)}
        result["training_iteration"] = epoch
        curves.log_trial_result(0, told, result)


def copied(driver: Path, root: Path) -> None:
    """Bring the driver's events to the root."""
    root.mkdir(exist_ok=True)
    for file in driver.iterdir():
        (root / file.name).write_bytes(file.read_bytes())


def drawn(root: Path) -> list[int]:
    """Return the steps that TensorBoard shows."""
    events = EventAccumulator(str(root))
    events.Reload()
    found, epochs = (events.Scalars(f"ray/tune/{tag}") for tag in ("loss", "epoch"))
    assert [event.value for event in found] == pytest.approx([1 / event.step for event in found])
    assert {event.step for event in epochs} == {event.step for event in found}
    return [event.step for event in found]


def test_workers_that_are_restarted_draw_no_epoch_again(tmp_path: Path) -> None:
    curves, told = Curves(), trial(tmp_path / "root", tmp_path / "driver")
    report(curves, told, 1, 2)
    report(curves, told, 1, 2, 3)
    report(curves, told, 1)
    report(curves, told, 1, 2, 3, 4)
    curves.log_trial_end(told)
    assert len(list((tmp_path / "driver").iterdir())) == 1
    assert drawn(tmp_path / "driver") == [1, 2, 3, 4]


@pytest.mark.parametrize(("lost", "again"), [(0, []), (5, [3]), (100, []), (150, [2])])
def test_another_driver_draws_what_is_not_whole_in_the_root(
    tmp_path: Path, lost: int, again: list[int]
) -> None:
    """The events of the first have reached the root in part.

    An epoch that breaks off between its curves is drawn anew; nothing is ever missing.
    """
    root, first, second = (tmp_path / name for name in ("root", "1", "2"))
    curves, told = Curves(), trial(root, first)
    report(curves, told, 1, 2, 3)
    (written,) = first.iterdir()
    root.mkdir()
    # Names hold the second, and the second driver would come within it.
    arrived = written.read_bytes()[: written.stat().st_size - lost]
    (root / "events.out.tfevents.1.first").write_bytes(arrived)
    report(Curves(), trial(root, second), 1, 2, 3, 4, 5)
    copied(second, root)
    assert drawn(root) == sorted([1, 2, 3, 4, 5, *again])


def test_a_sweep_that_goes_on_in_the_same_ray_sees_events_that_the_root_lacks(
    tmp_path: Path,
) -> None:
    root, driver = tmp_path / "root", tmp_path / "driver"
    report(Curves(), trial(root, driver), 1, 2)
    (written,) = driver.iterdir()
    written.rename(driver / "events.out.tfevents.1.first")
    report(Curves(), trial(root, driver), 1, 2, 3)
    copied(driver, root)
    assert drawn(root) == [1, 2, 3]
