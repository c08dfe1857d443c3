"""The curves of a sweep for TensorBoard: every epoch of a trial is drawn once.

A worker tells the epochs that its trial has in its file anew wherever it starts. What an earlier
driver has drawn stands in the trial's events, so an epoch whose events were lost with that driver
is drawn when it is told again.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError
from pyarrow import fs
from ray.tune.logger import TBXLoggerCallback
from tensorboardX.proto.event_pb2 import Event

_LAST = "epoch"  # Drawn after all else of an epoch: where it stands, the epoch is whole.


class Curves(TBXLoggerCallback):
    """Tune's writer of events, for results that may be reported again."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn: dict[str, int] = {}  # Highest epoch by trial.

    def log_trial_start(self, trial: Any) -> None:
        """Open the events of a trial; a worker that is restarted goes on in them."""
        if trial not in self._trial_writer:
            super().log_trial_start(trial)
            # Its thread would write epochs in parts, up to half a minute later.
            events = self._trial_writer[trial].file_writer.event_writer
            events.add_event = events._ev_writer.write_event

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """Draw an epoch."""
        if trial.trial_id not in self._drawn:
            self._drawn[trial.trial_id] = drawn(trial)
        epoch = result["training_iteration"]
        if epoch > self._drawn[trial.trial_id]:
            others = {name: value for name, value in result.items() if name != _LAST}
            super().log_trial_result(iteration, trial, {**others, _LAST: epoch})
            self._drawn[trial.trial_id] = epoch


def drawn(trial: Any) -> int:
    """Return the highest epoch that is whole in the events of a trial, 0 without any.

    They are looked for in the root, and where the driver writes them first: in one Ray a sweep that
    goes on writes in the same place.
    """
    storage = trial.storage
    places = (
        (storage.storage_filesystem, storage.trial_fs_path),
        (fs.LocalFileSystem(), storage.trial_driver_staging_path),
    )
    steps = [0]
    for filesystem, folder in places:
        for found in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
            if ".tfevents." in found.base_name:
                with filesystem.open_input_stream(found.path) as file:
                    steps += _steps(file.read())
    return max(steps)


def _steps(content: bytes) -> Iterator[int]:
    """Yield the epochs that are whole in a file, which may break off."""
    while len(content) >= 16:  # Length, its checksum, the event and its checksum.
        length = int.from_bytes(content[:8], "little")
        if len(content) < 16 + length:
            return
        try:
            event = Event.FromString(content[12 : 12 + length])
        except DecodeError:
            return
        if any(value.tag == f"ray/tune/{_LAST}" for value in event.summary.value):
            yield int(event.step)
        content = content[16 + length :]
