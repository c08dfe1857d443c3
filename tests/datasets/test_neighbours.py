"""The nearest coins: correlation on train, nothing from later, the same file from the same."""

import math
import statistics
from pathlib import Path

import msgspec
import numpy as np
import pytest

from actors.raw import day_start_ns
from actors.store import Store
from datasets.neighbours import (
    LEAST_RETURNS,
    NEIGHBOURS_PATH,
    Neighbours,
    check_before,
    find_neighbours,
    nearest_coins,
    read_neighbours,
    with_nearest,
    write_neighbours,
)
from datasets.recipe import Recipe
from datasets.splits import split_by_time
from datasets.tables import write_windows
from market.cross import MOST_NEIGHBOURS, CrossConfig, Mids, mids, references_of
from market.errors import QuaverError
from market.features import features
from market.windows import BEAT_NS, WINDOW

DAYS = ("2026-08-09", "2026-08-10")
MIDNIGHT = day_start_ns(DAYS[1]) // BEAT_NS
FIRST = MIDNIGHT - 2_000
COINS = ("ADA-USD", "BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD")


def market(
    weights: dict[str, float], count: int = 4_000, seed: int = 1, broken: float = 0.0
) -> dict[str, np.ndarray]:
    """Windows of products that follow one common move, each as much as its weight says."""
    rng = np.random.default_rng(seed)
    common = np.cumsum(rng.normal(0, 5e-4, count))
    found = {}
    for name, weight in weights.items():
        own = np.cumsum(rng.normal(0, 5e-4, count))
        windows = np.zeros(count, WINDOW)
        windows["beat"] = FIRST + np.arange(count)
        windows["valid"] = rng.random(count) >= broken
        windows["bid"] = 1e7 * np.exp(weight * common + own)
        windows["ask"] = windows["bid"] + 2
        found[name] = windows
    return found


WEIGHTS = {"BTC-USD": 3.0, "ETH-USD": 2.0, "SOL-USD": 1.0, "XRP-USD": 0.3, "ADA-USD": -1.0}


def medians(windows: dict[str, np.ndarray]) -> dict[str, Mids]:
    return {name: mids(rows) for name, rows in windows.items()}


def plain(a: np.ndarray, b: np.ndarray, until_beat: int) -> tuple[int, float]:
    """Returns in common and their correlation, by dicts and the standard library."""
    returns = []
    for windows in (a, b):
        mid = {int(w["beat"]): int(w["bid"]) + int(w["ask"]) for w in windows if w["valid"]}
        returns.append(
            {
                beat: math.log(mid[beat] / mid[beat - 8])
                for beat in mid
                if beat % 8 == 0 and beat - 8 in mid and beat < until_beat
            }
        )
    common = sorted(returns[0].keys() & returns[1].keys())
    columns = [[each[beat] for beat in common] for each in returns]
    return len(common), statistics.correlation(*columns)


@pytest.mark.parametrize("broken", [0.0, 0.2])
@pytest.mark.parametrize("until_beat", [FIRST + 1_003, FIRST + 3_000, FIRST + 9_000])
def test_against_the_standard_library(broken: float, until_beat: int) -> None:
    windows = market(WEIGHTS, broken=broken)
    if broken:  # A product that starts late, and beats that are missing.
        windows["SOL-USD"] = windows["SOL-USD"][333:]
        windows["ETH-USD"] = np.delete(windows["ETH-USD"], np.arange(0, 4_000, 17))
    found = nearest_coins(medians(windows), until_beat, least_returns=20)
    assert found.products == COINS and found.until_beat == until_beat
    for name in COINS:
        others = {other: plain(windows[name], windows[other], until_beat) for other in COINS}
        del others[name]
        wanted = sorted(others, key=lambda other: -others[other][1])
        assert found.of(name) == tuple(wanted)
        for near in found.nearest[name]:
            common, correlation = others[near.product]
            assert near.returns == common
            assert near.correlation == pytest.approx(correlation, abs=1e-6)


def test_beats_from_the_end_of_train_on_change_nothing() -> None:
    windows, until_beat = market(WEIGHTS), FIRST + 2_801
    wanted = nearest_coins(medians(windows), until_beat)
    scrambled = market({name: -5.0 * weight for name, weight in WEIGHTS.items()}, seed=9)
    for name, rows in windows.items():
        rows[2_801:] = scrambled[name][2_801:]
    assert nearest_coins(medians(windows), until_beat) == wanted
    cut = {name: rows[:2_801] for name, rows in windows.items()}
    assert nearest_coins(medians(cut), until_beat) == wanted
    assert nearest_coins(medians(windows), FIRST + 4_000).nearest != wanted.nearest
    windows["ADA-USD"]["bid"][2_800 - (FIRST + 2_800) % 8] -= 1  # The last one on the grid.
    assert nearest_coins(medians(windows), until_beat).inputs_sha256 != wanted.inputs_sha256


def test_ties_go_by_name_whatever_the_order_of_the_products() -> None:
    one = market({"BTC-USD": 1.0})["BTC-USD"]
    same = {name: one for name in ("XRP-USD", "ADA-USD", "SOL-USD", "BTC-USD", "ETH-USD")}
    found = nearest_coins(medians(same), FIRST + 4_000)
    assert found.of("ETH-USD") == ("ADA-USD", "BTC-USD", "SOL-USD", "XRP-USD")
    again = nearest_coins(medians(dict(sorted(same.items()))), FIRST + 4_000)
    assert msgspec.json.encode(again) == msgspec.json.encode(found)


def test_a_pair_with_too_few_returns_in_common_or_that_never_moves_is_not_compared() -> None:
    windows = market(WEIGHTS)
    windows["ADA-USD"] = windows["ADA-USD"][-500:]
    windows["XRP-USD"]["bid"], windows["XRP-USD"]["ask"] = 99, 101
    found = nearest_coins(medians(windows), FIRST + 4_000)
    assert found.of("BTC-USD") == ("ETH-USD", "SOL-USD")
    assert found.of("ADA-USD") == found.of("XRP-USD") == found.of("DOGE-USD") == ()


def test_the_border_of_enough_is_exact() -> None:
    windows = market({"BTC-USD": 1.0, "ETH-USD": 1.0})
    grid = np.arange(-(-FIRST // 8) * 8, FIRST + 4_000, 8)
    until_beat = int(grid[LEAST_RETURNS]) + 1  # N returns need N + 1 medians.
    assert nearest_coins(medians(windows), until_beat).nearest["BTC-USD"][0].returns == 300
    with pytest.raises(QuaverError, match=r"no two have 300 .* before beat .* the most are 299"):
        nearest_coins(medians(windows), until_beat - 1)


@pytest.mark.parametrize("products", [{}, {"BTC-USD": 1.0}])
def test_too_few_products_say_so(products: dict[str, float]) -> None:
    with pytest.raises(QuaverError, match=f"of {len(products)} products no two .* record more"):
        nearest_coins(medians(market(products)), FIRST + 4_000)


def test_there_are_always_enough_for_a_configuration() -> None:
    many = {f"COIN{i}-USD": 1.0 for i in range(20)} | {"BTC-USD": 3.0, "ETH-USD": 3.0}
    found = nearest_coins(medians(market(many)), FIRST + 4_000)
    every = CrossConfig(btc_eth=True, neighbours=MOST_NEIGHBOURS)
    for name in many:
        references = references_of(name, every, found.of(name))
        assert None not in references[2:] and name not in references


def put(store: Store, windows: dict[str, np.ndarray]) -> None:
    """Write windows as the build does, day by day."""
    for name, rows in windows.items():
        write_windows(store, name, DAYS[0], rows[rows["beat"] < MIDNIGHT])
        write_windows(store, name, DAYS[1], rows[rows["beat"] >= MIDNIGHT])


SPLIT = (0.6, 0.2, 0.2)
NEAR = Recipe(cross=CrossConfig(btc_eth=True, neighbours=2))


def test_train_ends_where_it_does_for_the_samples(tmp_path: Path) -> None:
    store, windows = Store(str(tmp_path)), market(WEIGHTS, broken=0.002)
    put(store, windows)
    put(store, {"NOBODY-USD": market({"NOBODY-USD": 1.0}, count=9_000)["NOBODY-USD"]})
    sampled = np.concatenate([features(rows, 0.01).beats for rows in windows.values()])
    splits = split_by_time(sampled, SPLIT)
    found = find_neighbours(store, SPLIT, least_returns=100)
    assert found.until_beat == sampled[splits["train"]].max() + 1 > MIDNIGHT
    assert found == nearest_coins(medians(windows), found.until_beat, least_returns=100)
    assert found.first_beat == -(-FIRST // 8) * 8 and "NOBODY-USD" not in found.products
    write_neighbours(store, found)
    check_before(store, NEAR, int(sampled[splits["validation"]].min()))
    check_before(store, Recipe(), 0)
    with pytest.raises(QuaverError, match=r"before .* but validation begins at"):
        check_before(store, NEAR, found.until_beat - 1)


def test_what_comes_after_train_does_not_change_the_file(tmp_path: Path) -> None:
    windows = market(WEIGHTS)
    files = []
    for root in ("as it was", "scrambled"):
        store = Store(str(tmp_path / root))
        put(store, windows)
        found = find_neighbours(store, SPLIT, least_returns=200)
        write_neighbours(store, found)
        files.append(store.read(NEIGHBOURS_PATH))
        scrambled = market({name: -weight for name, weight in WEIGHTS.items()}, seed=9)
        for name, rows in windows.items():
            after = rows["beat"] >= found.until_beat
            assert after.sum() > 1_000
            rows[after] = scrambled[name][after]
    assert files[0] == files[1]


def test_what_is_written_is_read_back_and_becomes_part_of_the_recipe(root: str) -> None:
    store = Store(root)
    with pytest.raises(QuaverError, match=f"{NEIGHBOURS_PATH} is not there; run quaver build"):
        with_nearest(store, NEAR)
    found = nearest_coins(medians(market(WEIGHTS)), FIRST + 4_000)
    write_neighbours(store, found)
    assert read_neighbours(store) == found
    assert with_nearest(store, Recipe()) == Recipe()
    recipe = with_nearest(store, NEAR)
    assert recipe == Recipe(cross=NEAR.cross, nearest={name: found.of(name) for name in COINS})
    near = [other for other in found.of("SOL-USD") if other not in ("BTC-USD", "ETH-USD")]
    assert recipe.references_of("SOL-USD") == ("BTC-USD", "ETH-USD", *near)
    assert recipe.references_of("DOGE-USD") == ("BTC-USD", "ETH-USD", None, None)
    assert len(recipe.signal_names) == 16


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"{}", "cannot be read: Object missing required field"),
        (b"\xff", "cannot be read"),
        (None, "has format quaver.neighbours.0 with returns over 8 beats"),
        (b"by hand", "was written by somebody else"),
    ],
)
def test_a_file_of_another_version_or_none_says_so(
    tmp_path: Path, data: bytes | None, what: str
) -> None:
    store = Store(str(tmp_path))
    found: Neighbours = nearest_coins(medians(market(WEIGHTS)), FIRST + 4_000)
    if data == b"by hand":
        data = msgspec.json.encode(found)
    elif data is None:
        data = msgspec.json.encode(msgspec.structs.replace(found, format="quaver.neighbours.0"))
    store.write(NEIGHBOURS_PATH, data)
    with pytest.raises(QuaverError, match=what):
        read_neighbours(store)


def test_a_root_without_windows_or_with_too_few_says_so(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(QuaverError, match=r"there are no windows in .*; run quaver build"):
        find_neighbours(store, SPLIT)
    put(store, market({"BTC-USD": 1.0}))
    with pytest.raises(QuaverError, match=f"^{tmp_path}: nearest coins: of 1 products"):
        find_neighbours(store, SPLIT)
