"""Samples straight from the market are those of its feed, and the planted rule knows no future."""

import dataclasses

import msgspec
import numpy as np
import pytest

from benchmarks.planted import START_BEAT, Planted, planted, planted_rule
from datasets.samples import Samples
from market.actions import Fees
from market.features import LOOKBACK_BEATS
from market.labels import HORIZON_BEATS
from market.products import product
from sim.flow import FlowConfig

pytestmark = pytest.mark.slow

PRODUCTS = [product("STRK-USD"), product("CRV-USD")]
CONFIG = FlowConfig(tick_s=4.0, activity=0.2, edge_bps=20.0)
BEATS = 200


@pytest.fixture(scope="module")
def found() -> Planted:
    return planted(PRODUCTS, CONFIG, BEATS, Fees())


def test_every_beat_is_valid_and_has_what_its_windows_allow(found: Planted) -> None:
    each = BEATS - LOOKBACK_BEATS
    assert len(found.samples) == len(found.drift) == 2 * each
    wanted = START_BEAT + LOOKBACK_BEATS + np.arange(each)
    for at in (slice(None, each), slice(each, None)):
        np.testing.assert_array_equal(found.samples.beat[at], wanted)
        assert found.samples.labelled[at].sum() == each - HORIZON_BEATS
    assert np.unique(found.samples.product).tolist() == [53, 54]


def test_what_comes_later_changes_no_sample_and_no_drift(found: Planted) -> None:
    shorter = planted(PRODUCTS[:1], CONFIG, 150, Fees())
    n = len(shorter.drift)
    np.testing.assert_array_equal(shorter.drift, found.drift[:n])
    for name in ("beat", "medians", "bids", "asks"):
        np.testing.assert_array_equal(
            getattr(shorter.samples, name), getattr(found.samples, name)[:n]
        )


def test_the_drift_is_that_of_the_end_of_the_beat(found: Planted) -> None:
    """With a drift and no noise, the price moves as the drift at the ends of the beats says."""
    quiet = msgspec.structs.replace(
        CONFIG, volatility_bps=0.0, trend_bps=0.0, stick_bps=0.0, edge_bps=60.0, reversion_s=1e9
    )
    made = planted(PRODUCTS[:1], quiet, 400, Fees())
    moves = np.diff(np.log(made.samples.medians[:, -1]))
    both = [np.corrcoef(moves[1:-1], made.drift[i : i + len(moves) - 2])[0, 1] for i in (1, 2)]
    assert min(both) > 0.9  # A move lies between the drifts at its two ends.


def synthetic(n: int = 4000) -> Planted:
    """The side that pays is the sign of the drift, and acting costs 1 bp."""
    rng = np.random.default_rng(0)
    drift = rng.normal(0, 1, n)
    gains = np.stack([drift - 1, drift - 2, -drift - 1, -drift - 2, np.zeros(n)], axis=1)
    label = gains + rng.normal(0, 1, (n, 1))
    empty = np.empty((n, 0))
    samples = Samples(np.arange(n), np.zeros(n, np.int32), empty, empty, empty, label, empty)
    return Planted(samples, drift)


def test_the_rule_takes_what_pays_at_a_drift_and_knows_the_labels_of_train_alone() -> None:
    found = synthetic()
    train = np.arange(4000) < 2000
    chosen = planted_rule(found, train)
    clear = np.abs(np.abs(found.drift) - 1) > 0.15
    wanted = np.where(found.drift > 1, 0, np.where(found.drift < -1, 2, 4))
    np.testing.assert_array_equal(chosen[clear], wanted[clear])
    label = found.samples.label.copy()
    label[~train] = label[~train][:, ::-1]
    other = Planted(dataclasses.replace(found.samples, label=label), found.drift)
    np.testing.assert_array_equal(planted_rule(other, train), chosen)
