"""The look-ahead check finds leaks that were planted, names them, and finds nothing else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from actors.raw import partitions
from actors.store import Store
from datasets.leakage import DayChecked, Finding, check_features
from datasets.partition import build_samples, build_windows
from datasets.recipe import Recipe
from datasets.tables import (
    SAMPLES_FORMAT,
    SAMPLES_SCHEMA,
    decode_table,
    read_windows,
    samples_table,
    table_path,
    write_samples,
    write_windows,
)
from market.actions import Fees
from market.errors import QuaverError
from market.features import Features, features
from market.labels import labels
from tests.actors.test_spool import live
from tests.actors.wire import (
    BEAT_NS,
    BTC,
    DAYS,
    DISCONNECT,
    ETH,
    MIDNIGHT_NS,
    SECOND_NS,
    START_NS,
    Walk,
    record,
)
from tests.helpers import import_into, recording

RECIPE = Recipe()
BORDER = MIDNIGHT_NS // BEAT_NS
FIRST = BORDER - 150  # Of the stream over midnight; its first sample is 69 beats later.
MANY = 60  # Cuts: in twenty minutes of a product, every fifth beat.
Windows = NDArray[np.void]


def build_all(store: Store) -> None:
    for product_id, day in partitions(store):
        build_windows(store, product_id, day)
    for product_id, day in partitions(store):
        build_samples(store, product_id, day, RECIPE)


def over_midnight(store: Store, product_ids: tuple[str, ...] = (BTC,), seed: int = 1) -> None:
    """Record and build ten minutes on each side of midnight."""
    walk, half = Walk(seed, product_ids), 600 * SECOND_NS
    frames = walk.snapshots(MIDNIGHT_NS - half)
    frames += walk.frames(MIDNIGHT_NS - half + SECOND_NS, MIDNIGHT_NS + half)
    record(store, frames, product_ids)


def check(store: Store, cuts: int = MANY, seed: int = 1, days: list[str] | None = None):  # type: ignore[no-untyped-def]
    todo = [(p, day) for p, day in partitions(store) if day in (days or [day])]
    return check_features(store, RECIPE, todo, cuts, seed)


def found_in(checked: list[DayChecked]) -> dict[tuple[str, str], Finding]:
    """Findings by table and column, of the first day that has them."""
    found: dict[tuple[str, str], Finding] = {}
    for one in (one for day in checked for one in day.findings):
        found.setdefault((one.table, one.column), one)
    return found


def test_an_unbroken_recording_over_midnight_leaks_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    over_midnight(store, (BTC, ETH))
    build_all(store)
    checked = check(store, 120)
    assert [(day.product, day.day) for day in checked] == partitions(store)
    assert found_in(checked) == {}
    for day in checked:
        assert len(day.cuts) > 20 and day.windows > 120
    assert checked[0].samples > 50


def broken(seed: int, start_ns: int, seconds: int) -> list[bytes]:
    """A recording with a lost connection after a third and a lost frame after two."""
    walk, third_ns = Walk(seed), seconds // 3 * SECOND_NS
    frames = walk.snapshots(start_ns)
    frames += walk.frames(start_ns + SECOND_NS, start_ns + third_ns)
    walk.wire.sequence = 0
    frames += [DISCONNECT, *walk.snapshots(start_ns + third_ns)]
    frames += walk.frames(start_ns + third_ns + SECOND_NS, start_ns + 2 * third_ns)
    walk.wire.sequence += 1
    return frames + list(walk.frames(start_ns + 2 * third_ns, start_ns + 3 * third_ns))


def test_gaps_lost_connections_and_overlapping_recordings_leak_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for seed, start_s in ((1, 0), (2, 700), (3, 4_000)):
        live(store, broken(seed, START_NS + start_s * SECOND_NS, 1_200))
    build_all(store)
    windows = read_windows(store, BTC, DAYS[0])
    assert 0 < windows["valid"].sum() < len(windows)
    checked = check(store, 120)
    assert found_in(checked) == {}
    for day in checked:
        assert len(day.cuts) > 40 and day.samples > 0


def test_the_last_beat_and_a_recording_that_breaks_off_leak_nothing(tmp_path: Path) -> None:
    for end in (True, False):
        store, walk = Store(str(tmp_path / str(end))), Walk(5, (BTC,))
        frames = [*walk.snapshots(START_NS), *walk.frames(START_NS, START_NS + 641 * SECOND_NS)]
        record(store, frames, (BTC,), end=end)
        build_all(store)
        (day,) = check(store, cuts=300)
        assert day.findings == []
        assert day.cuts[-1] == read_windows(store, BTC, DAYS[0])["beat"][-1]


@pytest.mark.slow
def test_a_real_recording_leaks_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    path = recording("exchange-btc-usd-2018-45min.jsonl.gz")
    import_into(store, path, {BTC: ("0.01", "0.00000001")})
    build_all(store)
    (day,) = check(store, cuts=200)
    assert day.findings == []
    assert day.samples > 400


def test_cuts_are_seeded_and_reach_ends_and_gaps(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    over_midnight(store, (BTC, ETH))
    build_all(store)
    once, again, other = check(store, 40), check(store, 40), check(store, 40, seed=2)
    assert [day.cuts for day in once] == [day.cuts for day in again]
    assert [day.cuts for day in once] != [day.cuts for day in other]
    assert sum(len(day.cuts) for day in once) > 30
    (only,) = check(store, 1)
    assert len(only.cuts) == 1


def peeking(windows: Windows, tick: float) -> Features:
    """Features of which the newest median is that of the beat after, where there is one."""
    found = features(windows, tick)
    at = np.searchsorted(windows["beat"], found.beats + 1)
    known = at < len(windows)
    after = windows[np.minimum(at, len(windows) - 1)]
    found.medians[known, -1] = ((after["bid"] + after["ask"]) * tick / 2)[known]
    return found


def scaled_by_all(windows: Windows, tick: float) -> Features:
    """Features of which medians are standardised by all that were given."""
    found = features(windows, tick)
    if len(found.medians):
        found.medians[:] = (found.medians - found.medians.mean()) / (found.medians.std() or 1.0)
    return found


def with_a_label(windows: Windows, tick: float) -> Features:
    """Features of which one share is a label."""
    found = features(windows, tick)
    label = labels(windows, RECIPE.fees)[np.searchsorted(windows["beat"], found.beats)]
    found.asks[:, 7] = label[:, 0]
    return found


@pytest.mark.parametrize(
    ("planted", "column", "ahead"),
    [(peeking, "medians", 1), (scaled_by_all, "medians", None), (with_a_label, "asks", 75)],
)
def test_features_that_look_ahead_are_found_in_code_and_in_what_it_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    planted: Callable[[Windows, float], Features],
    column: str,
    ahead: int | None,
) -> None:
    store = Store(str(tmp_path))
    over_midnight(store)
    with monkeypatch.context() as patch:
        patch.setattr("datasets.partition.features", planted)
        build_all(store)
        checked = check(store)
    found = found_in(checked)
    assert set(found) == {("samples", column)}
    one = found["samples", column]
    assert (one.product, one.day, one.built_so) == (BTC, DAYS[0], True)
    # Where the median stays for a beat, only another future shows that it was looked at.
    assert one.how in ("future cut off", "future scrambled")
    if ahead:  # What the code says with that future and without it differs near a cut alone.
        assert one.cut - ahead < one.beat <= one.cut
    else:
        assert one.beat == FIRST + 69
    # The code is sound again, but the files are still there.
    one = found_in(check(store))["samples", column]
    assert (one.beat, one.how, one.built_so) == (first_moved(store, ahead), "future cut off", False)
    build_all(store)
    assert found_in(check(store)) == {}


def first_moved(store: Store, ahead: int | None) -> int:
    """The first beat with a sample whose median is another a beat later, if one looks there."""
    windows = read_windows(store, BTC, DAYS[0])
    middle = dict(zip(windows["beat"].tolist(), windows["bid"] + windows["ask"], strict=True))
    beat = FIRST + 69
    while ahead == 1 and middle[beat] == middle[beat + 1]:
        beat += 1
    return beat


def test_a_windows_file_that_holds_the_book_of_the_next_beat_is_found(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    over_midnight(store)
    build_all(store)
    windows = read_windows(store, BTC, DAYS[1])
    for name in ("bid", "ask", "bid_depth", "ask_depth"):
        windows[name][100:-1] = windows[name][101:]
    write_windows(store, BTC, DAYS[1], windows)
    checked = check(store, days=[DAYS[1]])
    found = found_in(checked)
    of_windows = {column: one for (table, column), one in found.items() if table == "windows"}
    assert set(of_windows) == {"bid", "ask", "bid_depth", "ask_depth"}
    # The touch may stay where it is from beat to beat; of 40 levels one always changes.
    assert BORDER + 100 in {one.beat for one in of_windows.values()}
    assert all(BORDER + 100 <= one.beat and not one.built_so for one in of_windows.values())


def test_samples_made_of_windows_shifted_by_a_beat_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built from windows that know the next beat, which were put right afterwards."""
    store = Store(str(tmp_path))
    over_midnight(store)
    build_all(store)
    sound = read_windows(store, BTC, DAYS[1])
    shifted = sound.copy()
    for name in ("bid", "ask"):
        shifted[name][:-1] = sound[name][1:]
    found = features(shifted, 0.01)
    label = labels(shifted, RECIPE.fees)
    at = np.searchsorted(shifted["beat"], found.beats)
    none = np.empty((len(at), 0))
    write_samples(store, BTC, DAYS[1], samples_table(found, 0, label[at], none), RECIPE)
    one = found_in(check(store, days=[DAYS[1]]))["samples", "medians"]
    assert one.beat >= BORDER + 68 and not one.built_so


def far_sighted(windows: Windows, fees: Fees, horizon: int) -> NDArray[np.float64]:
    """Labels over one beat more than they should."""
    return labels(windows, fees, horizon + 1)


def nostalgic(windows: Windows, fees: Fees, horizon: int) -> NDArray[np.float64]:
    """Labels in units of the first price there is."""
    return labels(windows, fees, horizon) * (windows["bid"][0] / 1e4 if len(windows) else 1.0)


@pytest.mark.parametrize(
    ("planted", "how"),
    [(far_sighted, "future cut off"), (nostalgic, "past scrambled")],
)
def test_labels_that_look_beyond_their_horizon_or_back_are_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    planted: Callable[[Windows, Fees, int], NDArray[np.float64]],
    how: str,
) -> None:
    store = Store(str(tmp_path))
    over_midnight(store)
    monkeypatch.setattr("datasets.partition.labels", planted)
    build_all(store)
    found = found_in(check(store))
    assert set(found) == {("samples", "label")}
    assert (found["samples", "label"].how, found["samples", "label"].built_so) == (how, True)


def test_features_that_reach_too_far_back_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reaching(windows: Windows, tick: float) -> Features:
        found = features(windows, tick)
        at = np.searchsorted(windows["beat"], found.beats) - 69
        found.medians[at >= 0, 0] = windows["bid"][at[at >= 0]] * tick
        return found

    store = Store(str(tmp_path))
    over_midnight(store)
    monkeypatch.setattr("datasets.partition.features", reaching)
    build_all(store)
    assert found_in(check(store))["samples", "medians"].how == "past scrambled"


def test_a_leak_into_labels_of_the_day_before_is_found_from_the_day_after(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    over_midnight(store)
    build_all(store)
    path = table_path("samples", BTC, DAYS[0])
    table = decode_table(store.read(path), path, SAMPLES_SCHEMA, SAMPLES_FORMAT)
    rows = table["label"].to_pylist()
    rows[-60][2] += 1e-9  # Its horizon ends 15 beats after midnight.
    label = pa.array(rows, SAMPLES_SCHEMA.field("label").type)
    place = table.schema.get_field_index("label")
    changed = table.set_column(place, SAMPLES_SCHEMA.field("label"), label)
    write_samples(store, BTC, DAYS[0], changed, RECIPE)
    (day,) = check(store, days=[DAYS[1]])
    (one,) = day.findings
    assert (one.day, one.column, one.beat, one.beats) == (DAYS[0], "label", BORDER - 60, 1)
    assert not one.built_so


def test_samples_too_many_or_too_few_are_found_by_their_beat(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    over_midnight(store)
    build_all(store)
    path = table_path("samples", BTC, DAYS[1])
    table = decode_table(store.read(path), path, SAMPLES_SCHEMA, SAMPLES_FORMAT)
    fewer = pa.concat_tables([table.slice(0, 30), table.slice(33)])
    write_samples(store, BTC, DAYS[1], fewer, RECIPE)
    one = found_in(check(store, days=[DAYS[1]]))["samples", "beat"]
    assert (one.beat, one.beats) == (BORDER + 30, 3)
    write_samples(store, BTC, DAYS[1], table, RECIPE)
    windows = read_windows(store, BTC, DAYS[1])
    write_windows(store, BTC, DAYS[1], np.delete(windows, 5))
    one = found_in(check(store, days=[DAYS[1]]))["windows", "beat"]
    assert (one.beat, one.beats) == (BORDER + 5, 1)


def test_what_cannot_be_checked_is_one_error(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    over_midnight(store)
    with pytest.raises(QuaverError, match=r"no windows of BTC-USD.*quaver build"):
        check(store)
    build_windows(store, BTC, DAYS[0])
    with pytest.raises(QuaverError, match=r"no samples of BTC-USD.*quaver build"):
        check(store)
    build_all(store)
    other = Recipe(fees=Fees(taker_bps=7.0))
    with pytest.raises(QuaverError, match="build again"):
        check_features(store, other, partitions(store), 5, 1)
