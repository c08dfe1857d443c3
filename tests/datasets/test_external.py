"""External series: what a beat gets was known before it ended, in a batch as live."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.store import Store
from datasets.external import ExternalReader, inputs_sha256, parse_external
from market.errors import QuaverError
from market.external import ExternalConfig, external, names
from market.windows import BEAT_NS

FIRST = 446_563_257
PATH = "signals/news.parquet"
Rows = list[tuple[int, str, float]]


def parquet(rows: Rows, **types: pa.DataType) -> bytes:
    """A file with these rows, in this order."""
    kinds = {"ns": pa.int64(), "name": pa.string(), "value": pa.float64()} | types
    columns = zip(*rows, strict=True) if rows else ([], [], [])
    arrays = [pa.array(list(c), kind) for c, kind in zip(columns, kinds.values(), strict=True)]
    return of_table(pa.table(arrays, names=list(kinds)))


def of_table(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def plain(beat: int, rows: Rows, config: ExternalConfig) -> list[float]:
    """The columns of a beat, by looking at every row."""
    end_ns = (beat + 1) * 4_000_000_000
    found = []
    for name in config.series:
        best: tuple[int, float] | None = None
        for ns, row_name, value in rows:
            if row_name == name and ns < end_ns and (best is None or ns >= best[0]):
                best = (ns, value)
        if best and config.max_age_s is not None and end_ns - best[0] > config.max_age_s * 10**9:
            best = None
        found += [best[1], 1.0] if best else [0.0, 0.0]
    return found


def joined(beats: np.ndarray, rows: Rows, config: ExternalConfig) -> np.ndarray:
    return external(beats, parse_external(parquet(rows), "news"), config)


def config(*series: str, max_age_s: float | None = None) -> ExternalConfig:
    return ExternalConfig(path=PATH, series=series, max_age_s=max_age_s)


@st.composite
def files(draw: st.DrawFn) -> Rows:
    """Rows in any order, many of them right at the border of a beat, and some twice."""
    border = st.builds(
        lambda beat, off: (FIRST + beat) * BEAT_NS + off,
        st.integers(-3, 22),
        st.sampled_from([-1, 0, 1, BEAT_NS // 2]),
    )
    value = st.one_of(st.integers(-9, 9).map(float), st.floats(-1e15, 1e15))
    return draw(st.lists(st.tuples(border, st.sampled_from("abc"), value), max_size=40))


@settings(max_examples=40, deadline=None)
@given(rows=files(), max_age_s=st.sampled_from([None, 4.0, 8.0, 8.000000001, 2.0, 1e9]))
def test_against_a_plain_loop(rows: Rows, max_age_s: float | None) -> None:
    wanted = config("b", "a", "nobody's", max_age_s=max_age_s)
    beats = FIRST + np.arange(20)
    found = joined(beats, rows, wanted)
    assert found.tolist() == [plain(int(beat), rows, wanted) for beat in beats]
    assert np.isfinite(found).all()


def test_a_value_counts_for_a_beat_only_if_it_was_known_before_the_beat_ended() -> None:
    beats = FIRST + np.arange(-1, 2)
    end_ns = (FIRST + 1) * BEAT_NS
    assert joined(beats, [(end_ns - 1, "a", 7.0)], config("a"))[:, 0].tolist() == [0, 7, 7]
    assert joined(beats, [(end_ns, "a", 7.0)], config("a"))[:, 0].tolist() == [0, 0, 7]


def test_a_value_as_old_as_allowed_is_known_and_not_a_nanosecond_longer() -> None:
    beats = FIRST + np.arange(2)
    first_end = (FIRST + 1) * BEAT_NS
    for early, wanted in ((0, [1, 0]), (1, [0, 0]), (-1, [1, 0])):
        rows = [(first_end - 6_000_000_000 - early, "a", 7.0)]
        assert joined(beats, rows, config("a", max_age_s=6.0))[:, 1].tolist() == wanted


def test_of_rows_with_one_time_and_name_the_last_one_counts_however_the_file_is_sorted() -> None:
    at, beats = FIRST * BEAT_NS, np.array([FIRST])
    rows = [(at, "a", 1.0), (at - 5, "a", 2.0), (at, "b", 3.0), (at, "a", 4.0), (at - 9, "b", 5.0)]
    assert joined(beats, rows, config("a", "b")).tolist() == [[4.0, 1.0, 3.0, 1.0]]
    assert joined(beats, rows[::-1], config("a", "b")).tolist() == [[1.0, 1.0, 3.0, 1.0]]


def test_nothing_after_a_beat_changes_what_it_gets() -> None:
    rng = random.Random(5)
    rows = [
        (FIRST * BEAT_NS + rng.randrange(20 * BEAT_NS), rng.choice("ab"), rng.random())
        for _ in range(200)
    ]
    for beat in (FIRST, FIRST + 7, FIRST + 19):
        end_ns = (beat + 1) * BEAT_NS
        past = [row for row in rows if row[0] < end_ns]
        scrambled = past + [(end_ns + rng.randrange(9 * BEAT_NS), "a", -1.0) for _ in range(50)]
        beats = np.arange(FIRST, beat + 1)
        wanted = joined(beats, rows, config("a", "b")).tobytes()
        assert joined(beats, past, config("a", "b")).tobytes() == wanted
        assert joined(beats, scrambled, config("a", "b")).tobytes() == wanted


def test_columns_are_named_in_the_order_of_the_configuration() -> None:
    assert names(config("b", "a")) == (
        "external_b",
        "external_b_known",
        "external_a",
        "external_a_known",
    )
    assert names(ExternalConfig()) == ()
    beats = FIRST + np.arange(3)
    assert external(beats, {}, ExternalConfig()).shape == (3, 0)
    assert external(beats[:0], {}, config("a")).shape == (0, 2)


def test_all_sorts_of_strings_and_further_columns_are_read() -> None:
    rows = [(FIRST * BEAT_NS, "a", 1.0)]
    for kind in (pa.string(), pa.large_string()):
        assert list(parse_external(parquet(rows, name=kind), "news")) == ["a"]
    table = pq.read_table(pa.BufferReader(parquet(rows)))
    wider = table.append_column("source", pa.array(["wire"]))
    assert list(parse_external(of_table(wider), "news")) == ["a"]
    assert parse_external(parquet([]), "news") == {}


GOOD = [((FIRST + i) * BEAT_NS, "ab"[i % 2], float(i)) for i in range(6)]


def but(row: int, column: int, value: Any) -> Rows:
    changed: list[Any] = [list(each) for each in GOOD]
    changed[row][column] = value
    return changed


def without(column: str) -> bytes:
    return of_table(pq.read_table(pa.BufferReader(parquet(GOOD))).drop_columns([column]))


def twice(column: str) -> bytes:
    table = pq.read_table(pa.BufferReader(parquet(GOOD)))
    return of_table(table.append_column(column, table[column]))


UNSOUND: dict[str, tuple[Callable[[], bytes], str]] = {
    "nan": (
        lambda: parquet(but(3, 2, float("nan"))),
        "value is not finite, or beyond 1e[+]15 in row 3 ",
    ),
    "too large": (lambda: parquet(but(5, 2, 1.1e15)), "beyond 1e[+]15 in row 5 "),
    "inf": (
        lambda: parquet(but(5, 2, float("-inf"))),
        "value is not finite, or beyond 1e[+]15 in row 5 ",
    ),
    "null value": (lambda: parquet(but(0, 2, None)), "column value is null in row 0 "),
    "null ns": (lambda: parquet(but(2, 0, None)), "column ns is null in row 2 "),
    "null name": (lambda: parquet(but(1, 1, None)), "column name is null in row 1 "),
    "milliseconds": (lambda: parquet(but(4, 0, FIRST * 4000)), "column ns is no time .* in row 4 "),
    "negative": (lambda: parquet(but(4, 0, -1)), "column ns is no time .* in row 4 "),
    "far future": (lambda: parquet(but(4, 0, 2**62 + 1)), "column ns is no time .* in row 4 "),
    "float ns": (lambda: parquet([], ns=pa.float64()), "column ns has the type double"),
    "float32": (lambda: parquet(GOOD, value=pa.float32()), "column value has the type float;"),
    "timestamps": (
        lambda: parquet(GOOD, ns=pa.timestamp("ns")),
        r"column ns has the type timestamp\[ns\]",
    ),
    "bytes": (lambda: parquet(GOOD, name=pa.binary()), "column name has the type binary"),
    "no value": (lambda: without("value"), "column value is not there, .* among ns, name;"),
    "no ns": (lambda: without("ns"), "column ns is not there, .* among name, value;"),
    "two values": (lambda: twice("value"), "column value is not there, or more than once"),
    "text": (lambda: b"ns,name,value\n1,a,2\n", "cannot be read"),
    "empty": (lambda: b"", "cannot be read"),
    "cut off": (lambda: parquet(GOOD)[:-9], "cannot be read"),
    "a page damaged": (
        lambda: (data := parquet(GOOD))[:20] + bytes(60) + data[80:],
        "cannot be read",
    ),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_a_file_that_is_not_sound_is_one_error_that_says_where(case: str, tmp_path: Path) -> None:
    make, what = UNSOUND[case]
    store = Store(str(tmp_path))
    store.write(PATH, make())
    with pytest.raises(QuaverError, match=f"^{tmp_path}/{PATH}:? .*{what}") as error:
        ExternalReader(store, config("a")).refresh()
    assert "ns (int64), name (string) and value (float64)" in str(error.value)


def test_a_file_is_read_from_any_root(root: str) -> None:
    store, found = Store(root), ExternalReader(Store(root), config("b", "a"))
    store.write(PATH, parquet(GOOD))
    assert found.refresh()
    beats = FIRST + np.arange(6)
    wanted = [plain(int(beat), GOOD, config("b", "a")) for beat in beats]
    assert external(beats, found.series, config("b", "a")).tolist() == wanted


def test_the_hash_of_inputs_changes_with_what_the_beats_may_read_and_nothing_else() -> None:
    """Of beats FIRST + 2 and FIRST + 3: what the first one gets, and all until the end."""
    start, first_end, end = FIRST * BEAT_NS, (FIRST + 3) * BEAT_NS, (FIRST + 4) * BEAT_NS
    rows = [(start, "a", 1.0), (first_end - 1, "a", 2.0), (first_end, "a", 3.0), (end, "a", 4.0)]
    rows += [(start, "b", 1.0)]
    wanted = config("a", "late")

    def of(rows: Rows, config: ExternalConfig = wanted) -> str:
        series = parse_external(parquet(rows), "news")
        return inputs_sha256(series, config, FIRST + 2, FIRST + 4)

    rng, beats = random.Random(1), FIRST + np.arange(2, 4)
    for _ in range(60):
        changed = [row for row in rows if rng.random() < 0.8]
        ns = rng.choice([start, first_end - 1, first_end, end - 1, end, end + 1])
        changed.append((ns, rng.choice(["a", "b", "late"]), rng.choice([1.0, 2.0, 5.0])))
        reads = joined(beats, changed, wanted).tobytes() != joined(beats, rows, wanted).tobytes()
        assert of(changed) != of(rows) or not reads
    for at, stale in ((0, False), (1, True), (2, True), (3, False), (4, False)):
        without_one = rows[:at] + rows[at + 1 :]
        assert (of(without_one) != of(rows)) == stale, at
        another = [(ns, name, value + (i == at)) for i, (ns, name, value) in enumerate(rows)]
        assert (of(another) != of(rows)) == stale, at
    assert len({of(rows, config(*names)) for names in (("a",), ("b",), ("a", "b"))}) == 3


def test_a_file_or_a_series_that_is_not_there_says_so(root: str) -> None:
    store = Store(root)
    with pytest.raises(QuaverError, match=f"{PATH} is not there"):
        ExternalReader(store, config("a")).refresh()
    store.write(PATH, parquet(GOOD))
    with pytest.raises(QuaverError, match=f"{PATH}: no row has the name fear; it has a, b;"):
        ExternalReader(store, config("a", "fear")).refresh()


def test_live_gives_the_bits_of_the_batch_for_what_was_in_the_file(root: str) -> None:
    """The file grows by rows of the past and of the future; some beats see no new one."""
    store, rng = Store(root), random.Random(3)
    wanted = config("a", "late", "b", max_age_s=30.0)
    reader = ExternalReader(store, wanted)
    rows = [((FIRST + 99) * BEAT_NS, name, 0.0) for name in wanted.series]
    for beat in range(FIRST, FIRST + 30):
        replaced = beat == FIRST or rng.random() < 0.5
        if replaced:
            for _ in range(rng.randrange(4)):
                ns = (beat + 1) * BEAT_NS + rng.choice([-BEAT_NS, -1, 0, 1, BEAT_NS])
                name = rng.choice("ab") if beat < FIRST + 15 else "late"
                rows.append((ns, name, rng.random()))
            rng.shuffle(rows)
            store.write(PATH, parquet(rows))
        assert replaced or not reader.refresh()
        reader.refresh()
        batch = external(np.array([beat]), parse_external(parquet(rows), "news"), wanted)[0]
        assert reader.row(beat).tobytes() == batch.tobytes()
        assert reader.row(beat).tolist() == plain(beat, rows, wanted)
    assert reader.row(FIRST + 29)[3] == 1


def test_a_replaced_file_is_noticed_though_size_and_time_are_those_of_before(
    tmp_path: Path,
) -> None:
    store, path = Store(str(tmp_path)), tmp_path / PATH
    reader = ExternalReader(store, config("a"))
    for value in range(5):
        data = parquet([(FIRST * BEAT_NS, "a", float(value))])
        store.write(PATH, data)
        os.utime(path, ns=(10**18, 10**18))
        assert reader.refresh() and not reader.refresh()
        assert reader.row(FIRST).tolist() == [value, 1]


def test_a_file_that_breaks_or_goes_is_told_of_every_time_and_what_was_read_stays(
    root: str,
) -> None:
    store = Store(root)
    reader = ExternalReader(store, config("a"))
    assert reader.row(FIRST).tolist() == [0, 0]
    store.write(PATH, parquet(GOOD))
    reader.refresh()
    before = reader.row(FIRST + 5).tolist()
    store.write(PATH, parquet(but(4, 2, float("nan"))))
    for _ in range(2):
        with pytest.raises(QuaverError, match="row 4 "):
            reader.refresh()
        assert reader.row(FIRST + 5).tolist() == before
    store.write(PATH, parquet([(FIRST * BEAT_NS, "b", 9.0)]))
    for _ in range(2):
        with pytest.raises(QuaverError, match="no row has the name a; it has b"):
            reader.refresh()
        assert reader.row(FIRST + 5).tolist() == before
    store.delete(PATH)
    for _ in range(2):
        with pytest.raises(QuaverError, match="is not there"):
            reader.refresh()
        assert reader.row(FIRST + 5).tolist() == before
    store.write(PATH, parquet([(FIRST * BEAT_NS, "a", 9.0)]))
    assert reader.refresh() and reader.row(FIRST + 5).tolist() == [9, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": PATH},
        {"series": ("a",)},
        {"path": PATH, "series": ("a", "b", "a")},
        {"path": PATH, "series": ("a",), "max_age_s": 0.0},
        {"path": PATH, "series": ("a",), "max_age_s": float("inf")},
        {"path": PATH, "series": ("a",), "max_age_s": float("nan")},
        {"path": PATH, "series": "a"},
        {"path": 7, "series": ("a",)},
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(QuaverError, match=r"^external: "):
        ExternalConfig(**wrong)
