"""A recording on S3 is byte for byte the one in a folder."""

from pathlib import Path

import pytest

from actors.store import Store
from tests.actors.test_recorder import MIDNIGHTS
from tests.actors.wire import Walk, assert_same_windows, live_windows, rebuilt_windows, record


@pytest.mark.slow
@pytest.mark.parametrize("name", MIDNIGHTS)
def test_a_recording_on_s3_is_the_one_in_a_folder(tmp_path: Path, s3_root: str, name: str) -> None:
    frames, stores = MIDNIGHTS[name](Walk(1)), (Store(str(tmp_path)), Store(s3_root))
    for part_rows in (40, 200_000):  # Again in fewer parts: none is left behind.
        for store in stores:
            record(store, frames, part_rows=part_rows)
        folder, s3 = ({path: store.read(path) for path in store.files("")} for store in stores)
        assert folder == s3
    assert_same_windows(rebuilt_windows(stores[1]), live_windows(frames))
