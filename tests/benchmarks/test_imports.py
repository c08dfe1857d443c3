"""What the import benchmark imports: whole books and changes as the venue sends them."""

from pathlib import Path

from actors.raw import partitions, read_manifest, read_partition
from actors.store import Store
from benchmarks.imports import frames_of
from datasets.imports import import_capture
from market.events import Kind
from market.products import UNIVERSE


def test_made_frames_are_imported_whole_and_no_book_is_lost(tmp_path: Path) -> None:
    listed = UNIVERSE[:3]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(frame + b"\n" for frame in frames_of(listed, 300)))
    store = Store(str(tmp_path / "root"))
    done = import_capture(store, path, "coinbase-advanced", {})
    assert (done.frames, dict(done.counts)) == (303, {"l2_data": 303})
    assert set(done.products) == {p.id for p in listed}
    kinds: list[int] = []
    for product_id, day in partitions(store):
        manifest = read_manifest(store, product_id, day)
        assert manifest is not None
        assert {gap.reason for gap in manifest.sessions[0].gaps} <= {"start"}
        kinds += read_partition(store, manifest)["kind"].tolist()
    assert (kinds.count(Kind.SNAPSHOT), kinds.count(Kind.CHANGE)) == (3 * 800, 300 * 5)
