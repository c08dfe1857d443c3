"""A sweep is judged only on what its models cannot have seen."""

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from actors.store import Store
from datasets.recipe import Recipe
from datasets.splits import split_by_time
from market.actions import Fees
from market.errors import QuaverError
from tune.config import AshaConfig, SweepConfig, TrainConfig
from tune.plain import LinearConfig
from tune.run_folder import Identity, begin, check_name, check_unseen, digest, trained_on
from tune.spot import SpotConfig

LINEAR = TrainConfig(model=LinearConfig(products=3))


@pytest.fixture
def identity(make_samples, small) -> Identity:
    """Return what a sweep on some samples is started with."""
    samples = make_samples(1200)
    return Identity(
        config=SweepConfig(train=small, space={"objective": ["mse"], "seed": [1]}),
        products=("BTC-USD",),
        trained=("BTC-USD",),
        recipe=Recipe(),
        data_sha256=digest(*trained_on(samples, split_by_time(samples.beat))),
    )


@pytest.fixture
def started(make_samples, identity, tmp_path):
    """Return a store with a sweep begun on some samples, and those samples."""
    store = Store(str(tmp_path))
    begin(store, "first", identity, resume=False)
    return store, make_samples(1200)


def test_the_same_samples_and_split_are_judged(started) -> None:
    store, samples = started
    check_unseen(store, "first", Recipe(), samples, split_by_time(samples.beat))


def test_more_samples_after_the_sweep_would_move_the_borders(started, make_samples) -> None:
    store, _ = started
    more = make_samples(1300)
    with pytest.raises(QuaverError, match="would not be unseen"):
        check_unseen(store, "first", Recipe(), more, split_by_time(more.beat))


def test_another_split_fees_or_horizon_is_refused(started) -> None:
    store, samples = started
    halves = split_by_time(samples.beat, (0.3, 0.2, 0.5))
    usual = split_by_time(samples.beat)
    for recipe, splits in (
        (Recipe(), halves),
        (Recipe(fees=Fees(taker_bps=60.0)), usual),
        (Recipe(horizon_beats=30), usual),
    ):
        with pytest.raises(QuaverError, match="would not be unseen"):
            check_unseen(store, "first", recipe, samples, splits)


def test_a_sweep_that_never_began_is_named(started, tmp_path: Path) -> None:
    store, samples = started
    with pytest.raises(QuaverError, match="second"):
        check_unseen(store, "second", Recipe(), samples, split_by_time(samples.beat))


def test_only_labelled_samples_are_trained_on(make_samples) -> None:
    samples = make_samples(1200)
    samples.label[::3] = np.nan
    splits = split_by_time(samples.beat)
    train, validation = trained_on(samples, splits)
    for part, name in ((train, "train"), (validation, "validation")):
        wanted = samples.select(splits[name] & samples.labelled)
        (found,) = part.in_order(len(samples))
        np.testing.assert_array_equal(found.beat, wanted.beat)
        np.testing.assert_array_equal(found.label, wanted.label)


def test_a_name_that_is_taken_unknown_or_none_is_refused(started) -> None:
    store, _ = started
    assert check_name(store, "second", resume=False) is None
    assert check_name(store, "first", resume=True) is not None
    for name, resume, message in (
        ("first", False, "exists; go on with it .--resume.*another name"),
        ("second", True, "there is no sweep second under .* to resume"),
        ("a/b", False, "the name 'a/b' may hold letters"),
        ("", False, "the name '' may hold letters"),
        ("-x", False, "begins with a letter or a digit"),
        ("a" * 101, False, "at most 100"),
        ("test-looks.json", False, "does not end in .json"),
    ):
        with pytest.raises(QuaverError, match=message):
            check_name(store, name, resume)


def test_a_sweep_goes_on_with_other_settings_of_how_it_runs(started, identity) -> None:
    store, _ = started
    before = store.read("runs/first/sweep.json")
    config = msgspec.structs.replace(
        identity.config,
        trial_resources={"cpu": 2.0, "spot": 1.0},
        wait_for_node_s=-1.0,
        max_failures=7,
        spot=SpotConfig(poll_s=1.0),
    )
    begin(store, "first", msgspec.structs.replace(identity, config=config), resume=True)
    assert check_name(store, "first", True, config) == before
    assert store.read("runs/first/sweep.json") == before


def test_what_differs_from_the_start_of_a_sweep_is_named(started, identity) -> None:
    store, _ = started
    config = identity.config
    train = msgspec.structs.replace(
        config.train, epochs=9, model=msgspec.structs.replace(config.train.model, lstm_hidden=1)
    )
    fees = Recipe(fees=Fees(taker_bps=61.0))
    for changes, message in (
        ({"train": train}, "sweep.train.model.lstm_hidden, sweep.train.epochs"),
        ({"space": {"objective": ["bce"], "seed": [1]}}, "sweep.space"),
        ({"space": {"seed": [1], "objective": ["mse"]}}, "sweep.space"),
        ({"seed": 3, "max_failures": 3}, "sweep.seed"),
        ({"asha": AshaConfig(enabled=True)}, "sweep.asha.enabled"),
        ({"train": LINEAR}, "sweep.train.model.name"),
    ):
        other = msgspec.structs.replace(identity, config=msgspec.structs.replace(config, **changes))
        with pytest.raises(QuaverError, match=f"with another value of .*{re.escape(message)}"):
            begin(store, "first", other, resume=True)
        with pytest.raises(QuaverError, match=re.escape(message)):
            check_name(store, "first", True, other.config)
    for changes, message in (
        ({"products": ("ETH-USD",)}, "the universe"),
        ({"trained": ("ETH-USD",)}, "the products in train"),
        ({"data_sha256": "0"}, "the samples of train and validation"),
        ({"recipe": fees}, "fees.taker_bps"),
    ):
        other = msgspec.structs.replace(identity, **changes)
        with pytest.raises(QuaverError, match=f"with another value of {re.escape(message)} .see"):
            begin(store, "first", other, resume=True)


def test_a_damaged_note_of_the_start_is_named(started, identity) -> None:
    store, _ = started
    for content in (b"{", b"[]"):
        store.write("runs/first/sweep.json", content)
        with pytest.raises(QuaverError, match=r"runs/first/sweep\.json .* cannot be read"):
            begin(store, "first", identity, resume=True)


@pytest.mark.slow
def test_a_bucket_that_does_not_exist_and_wrong_keys_are_named(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(QuaverError, match=r"s3://no-such-bucket/x: .*check that this root"):
        check_name(Store("s3://no-such-bucket/x"), "first", resume=False)
    assert check_name(Store(s3_root), "first", resume=False) is None
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(QuaverError, match="that you have the rights"):
        check_name(Store(s3_root), "first", resume=False)
