"""A sweep is judged only on what its models cannot have seen."""

from pathlib import Path

import numpy as np
import pytest

from actors.store import Store
from datasets.recipe import Recipe
from datasets.splits import split_by_time
from market.actions import Fees
from market.errors import QuaverError
from tune.config import SweepConfig
from tune.run_folder import Identity, begin, check_name, check_unseen, digest, trained_on


@pytest.fixture
def started(make_samples, small, tmp_path):
    """Return a store with a sweep begun on some samples, and those samples."""
    samples = make_samples(1200)
    store = Store(str(tmp_path))
    identity = Identity(
        config=SweepConfig(train=small, space={"objective": ["mse"]}),
        products=("BTC-USD",),
        trained=("BTC-USD",),
        recipe=Recipe(),
        data_sha256=digest(*trained_on(samples, split_by_time(samples.beat))),
    )
    begin(store, "first", identity, resume=False)
    return store, samples


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
    ):
        with pytest.raises(QuaverError, match=message):
            check_name(store, name, resume)


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
