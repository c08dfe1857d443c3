"""`quaver check-leakage`: what it shows, how it exits, and its answers to mistakes."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from actors.store import Store
from cluster.config import Config, DemoConfig, load_config
from cluster.leakage import ModelChecked, print_checked, run_check, text_of
from datasets.leakage import DayChecked, Finding
from datasets.partition import build_samples, build_windows
from datasets.recipe import Recipe
from datasets.tables import read_windows, write_windows
from market.errors import QuaverError
from market.products import product
from sim.flow import FlowMarket
from sim.wire import Frame
from sim.world import World
from tests.actors.wire import BTC, DAYS, MIDNIGHT_NS, SECOND_NS, START_NS, Walk, record
from tests.cluster.test_cli import quaver
from tests.datasets.test_leakage import build_all
from tests.helpers import import_into, recording
from tests.tune.test_shuffled import market
from tune.shuffled import Border, check_shuffled

BEATS = 8


def built(root: str, start_ns: int = MIDNIGHT_NS - 350 * SECOND_NS, seconds: int = 700) -> Store:
    """A recording, over midnight by default, with its tables."""
    store, walk = Store(root), Walk(1, (BTC,))
    frames = walk.snapshots(start_ns)
    frames += walk.frames(start_ns + SECOND_NS, start_ns + seconds * SECOND_NS)
    record(store, frames, (BTC,))
    build_all(store)
    return store


def checked(store: Store, as_json: bool = False, days: str | None = None) -> tuple[bool, str]:
    shown = io.StringIO()
    console = Console(file=shown, width=100)
    fine = run_check(Config(), store, None, days, BEATS, 1, as_json, console)
    return fine, shown.getvalue()


def spoil(store: Store) -> None:
    """Give each window of the second day the touch of the next one."""
    windows = read_windows(store, BTC, DAYS[1])
    for name in ("bid", "ask"):
        windows[name][:-1] = windows[name][1:]
    write_windows(store, BTC, DAYS[1], windows)


def test_a_sound_root_is_fine_and_a_spoilt_one_is_not(root: str) -> None:
    store = built(root)
    fine, shown = checked(store)
    assert fine
    assert "nothing leaks; 8 beats tried" in shown
    assert "no model was trained: split: nothing is left for" in shown
    spoil(store)
    fine, shown = checked(store)
    assert not fine
    assert f"{BTC} {DAYS[1]} windows: bid of beat" in shown and "quaver build --force" in shown
    fine, shown = checked(store, days=DAYS[0])  # Its samples read the second day's windows.
    assert f"{BTC} {DAYS[1]}" not in shown


def test_json_has_all_that_the_table_has(tmp_path: Path) -> None:
    store = built(str(tmp_path))
    fine, shown = checked(store, as_json=True)
    said = json.loads(shown)
    assert fine and said["fine"] and said["root"] == str(tmp_path)
    assert [day["day"] for day in said["days"]] == list(DAYS)
    assert sum(len(day["cuts"]) for day in said["days"]) == BEATS
    assert said["model"]["skipped"] and said["model"]["shuffled"] is None
    spoil(store)
    fine, shown = checked(store, as_json=True)
    said = json.loads(shown)
    assert not fine and not said["fine"]
    (bid,) = [
        f for f in said["days"][1]["findings"] if (f["table"], f["column"]) == ("windows", "bid")
    ]
    assert bid["beat"] >= MIDNIGHT_NS // (4 * SECOND_NS) and not bid["built_so"]


def test_what_is_shown_of_a_model_and_of_borders() -> None:
    samples = market(1, 5.0)
    splits = {
        "train": samples.beat < 4_000,
        "validation": samples.beat >= 4_143,
        "test": np.zeros(len(samples), bool),
    }
    border = Border(parts=("train", "validation"), beat=7, samples=1_430, why="share beats with")
    model = ModelChecked(days=2, borders=[border], shuffled=check_shuffled(samples, splits, 1))
    shown = io.StringIO()
    print_checked(
        [DayChecked(product=BTC, day=DAYS[0], cuts=[1, 2])], model, 1, Console(file=shown)
    )
    text = shown.getvalue()
    assert "1,430 samples of validation, the first of beat 7, share beats with train" in text
    assert "by its choice of time (99.8% interval" in text and "nothing\n" in text
    assert "on the true labels: +" in text
    assert "1 leaks; 2 beats tried" in text


@pytest.mark.parametrize(
    ("built_so", "why"), [(True, "this code looks there"), (False, "quaver build --force")]
)
def test_a_finding_names_column_beat_and_whose_it_is(built_so: bool, why: str) -> None:
    one = Finding(
        product=BTC,
        day=DAYS[0],
        table="samples",
        column="medians",
        beat=17,
        beats=2_001,
        cut=99,
        how="future scrambled",
        built_so=built_so,
    )
    assert text_of(one).startswith(
        f"{BTC} {DAYS[0]} samples: medians of beat 17 and 2,000 more is not what is stored "
        "with other rows after beat 99; "
    )
    assert why in text_of(one)


def test_mistakes_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(QuaverError, match="no raw partitions"):
        checked(Store(str(tmp_path)))
    store = built(str(tmp_path / "built"), START_NS, 300)
    with pytest.raises(QuaverError, match="--days 2026-01-01"):
        checked(store, days="2026-01-01")
    other = load_config(None, ["fees.taker_bps=60"])
    with pytest.raises(QuaverError, match="quaver build again"):
        run_check(other, store, None, None, BEATS, 1, False, Console(file=io.StringIO()))


def simulated(store: Store, edge_bps: float, hours: float) -> None:
    """The demo's market, quieter, with two products, recorded and built."""
    market = msgspec.structs.replace(DemoConfig().market, edge_bps=edge_bps, activity=0.03)
    ids = ("SOL-USD", "XRP-USD")
    world = World(
        FlowMarket([product(i) for i in ids], market, START_NS - 60 * SECOND_NS), START_NS
    )

    def frames() -> Iterator[Frame]:
        for product_id in ids:
            opening = world.opening("level2", product_id, START_NS)
            assert opening is not None
            yield opening
        for ns in range(START_NS, START_NS + round(hours * 3_600) * SECOND_NS, world.step_ns):
            yield from world.step(ns, lambda channel, product_id: channel != "status")

    sent = (f for f in frames() if f.channel != "status")
    numbered = (frame.numbered(number) for number, frame in enumerate(sent))
    record(store, numbered, ids, source="simulated exchange")
    build_all(store)


@pytest.mark.slow
@pytest.mark.parametrize("edge_bps", [0.0, 28.0])
def test_a_simulated_market_leaks_nothing_with_and_without_an_edge(
    tmp_path: Path, edge_bps: float
) -> None:
    store = Store(str(tmp_path))
    simulated(store, edge_bps, hours=3.2)
    fine, shown = checked(store, as_json=True)
    model = json.loads(shown)["model"]
    assert fine and model["borders"] == []
    assert model["shuffled"]["shuffled"]["low_bps"] <= 0
    if edge_bps:
        assert model["shuffled"]["true"]["low_bps"] > 0  # The model does learn what is there.


@pytest.mark.slow
def test_the_command_exits_with_0_1_and_2(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    import_into(
        Store(root),
        recording("exchange-btc-usd-2018-45min.jsonl.gz"),
        {BTC: ("0.01", "0.00000001")},
    )
    missing = quaver("check-leakage", "--data", root)
    assert missing.returncode == 1 and "quaver build" in missing.stderr
    assert "Traceback" not in missing.stderr
    store, day = Store(root), "2018-04-24"
    build_windows(store, BTC, day)
    build_samples(store, BTC, day, Recipe())
    fine = quaver("check-leakage", "--data", root, "--beats", "20")
    assert fine.returncode == 0 and "nothing leaks; 20 beats tried" in fine.stdout
    windows = read_windows(store, BTC, day)
    windows["bid_depth"][:-1] = windows["bid_depth"][1:]
    write_windows(store, BTC, day, windows)
    leaks = quaver("check-leakage", "--data", root, "--beats", "20")
    assert leaks.returncode == 2 and "bid_depth" in leaks.stdout
    assert "Traceback" not in leaks.stderr
