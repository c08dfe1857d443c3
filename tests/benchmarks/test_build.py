"""What the build benchmark builds, and what it computes from what it measured."""

from pathlib import Path

import numpy as np
import pytest

from actors.raw import partitions, read_manifest, read_partition
from actors.store import Store
from benchmarks.__main__ import PAGE, markers, replaced
from benchmarks.build_table import Cost, Measured, fixed, of_one_more, projected, table_of
from benchmarks.partitions import DAY_BEATS, FIRST_NS, a_day, record_day
from benchmarks.workload import THIN
from datasets.build import build_samples, build_windows
from datasets.recipe import Recipe
from market.events import Kind
from market.windows import BEAT_NS, WindowBuilder

DAY_NS = DAY_BEATS * BEAT_NS
CHANGES, PARTS = 30_000, 8


def test_a_made_day_is_recorded_in_parts_and_every_beat_of_it_is_known(tmp_path: Path) -> None:
    store, made = Store(str(tmp_path)), a_day(THIN, CHANGES)
    days = [record_day(store, "ADA-USD", made, number, PARTS) for number in (0, 1)]
    assert partitions(store) == [("ADA-USD", day) for day in days]
    for number, day in enumerate(days):
        manifest = read_manifest(store, "ADA-USD", day)
        assert manifest is not None
        (session,) = manifest.sessions
        assert len(session.parts) == PARTS and session.live and session.gaps == []
        rest = [part.rows for part in session.parts[1:]]  # The first has the carried book too.
        assert max(rest) < 1.3 * min(rest)
        rows = read_partition(store, manifest)
        assert rows["ns"][0] == FIRST_NS + number * DAY_NS
        assert rows["ns"][-1] == FIRST_NS + (number + 1) * DAY_NS
        kinds = np.bincount(rows["kind"], minlength=7)
        assert kinds[Kind.CARRIED] == 2 * THIN.levels and kinds[Kind.CHANGE] == CHANGES
        assert kinds[Kind.CLOCK] == DAY_BEATS and kinds[Kind.TRADE] > 0
        assert (np.diff(rows["recv_ns"]) >= 0).all() and (rows["recv_ns"] > rows["ns"]).all()
        assert WindowBuilder().feed(rows)["valid"].all()
        assert build_windows(store, "ADA-USD", day).valid == DAY_BEATS
    for day in days:
        built = build_samples(store, "ADA-USD", day, Recipe())
        assert (built.rows, built.valid) == ((DAY_BEATS - 68, DAY_BEATS - 68) if day == days[0]
                                             else (DAY_BEATS, DAY_BEATS - 75))  # fmt: skip


# A build of n partitions takes 2 s and 0.5 s for each of them; 1 + 0.8 n of CPU, 0.01 n of it the
# driver's.
GROWTH = [Cost(n, 2 + 0.5 * n, 1 + 0.8 * n, 0.01 * n) for n in (1, 10, 100)]
MEASURED = Measured(
    growth=GROWTH,
    small=260_000,
    small_cpu_s=0.7,
    mean_changes=5_200_000,
    mean_cpu_s=0.5,
    mean_bytes=40_000_000,
    cores=2,
    start_s=7.0,
)


def test_what_one_more_costs_and_what_a_build_costs_anyway_are_taken_apart() -> None:
    assert of_one_more(*GROWTH[1:]) == pytest.approx((1, 0.5, 0.8, 0.01))
    assert fixed(GROWTH) == pytest.approx((0, 2, 1, 0))


def test_months_cost_their_partitions_and_what_ray_adds_to_each() -> None:
    one = projected(MEASURED, 1)
    # 5,500 partitions of 0.5 s, and 0.1 s of Ray's.
    assert one.cpu_h == pytest.approx(5_500 * 0.6 / 3600)
    assert one.wall_h == pytest.approx((5_500 * 0.6 + 2) / 3600)
    assert one.read_mb_s == pytest.approx(5_500 * 40 / (5_500 * 0.6 + 2))
    assert projected(MEASURED, 16).wall_h == pytest.approx((5_500 * 0.6 / 16 + 2) / 3600)


def test_no_number_of_cores_makes_the_driver_faster() -> None:
    assert projected(MEASURED, 128).wall_h == pytest.approx((5_500 * 0.01 + 2) / 3600)


def test_the_tables_of_building_have_a_place_on_the_page() -> None:
    text = table_of(MEASURED, "Commit abc.")
    assert "| 100 | 52.00 | 81.00 | 0.810 | 0.520 |" in text.splitlines()
    assert "118.8 million beats, 28.6 billion level changes" in text
    assert "| 1 | 0.92 | 55.0 min | 67 |" in text.splitlines()
    page = PAGE.read_text("utf-8")
    assert text in replaced(page, text, *markers("build"))
