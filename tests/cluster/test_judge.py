"""A model that does not fit the samples under a root is refused in a sentence, before any look."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from actors.store import Store
from cluster import stages
from cluster.config import load_config
from cluster.judge import judge
from datasets.recipe import Recipe
from datasets.tables import samples_table, write_samples, write_windows
from market.actions import Fees
from market.errors import QuaverError
from market.features import Features
from market.signals import SignalsConfig
from market.windows import WINDOW
from tune.checkpoint import ModelMeta, export
from tune.looks import LOOKS_PATH
from tune.models import SeedConfig, build
from tune.objectives import Objective
from tune.results import RESULTS_FILE, SweepResult, TrialResult
from tune.run_folder import Identity, begin, digest, trained_on


class Silent:
    """A stage that shows nothing."""

    def update(self, *of: object) -> None:
        """Show nothing."""


@pytest.fixture
def judged(two_hours: Store) -> Store:
    """The same with ETH-USD, which came after train was over, windows and a finished sweep."""
    rng, start, n = np.random.default_rng(1), 441_892_800, 1800
    late = np.arange(1500, n)
    medians = 3_000 * np.exp(np.cumsum(rng.normal(0, 2e-4, (len(late), 10)), axis=1))
    features = Features(start + late, medians, *rng.dirichlet(np.ones(20), (2, len(late))))
    eth = stages.PRODUCT_IDS.index("ETH-USD")
    label, none = rng.normal(0, 1, (len(late), 5)), np.empty((len(late), 0))
    table = samples_table(features, eth, label, none)
    write_samples(two_hours, "ETH-USD", "2026-01-05", table, Recipe())
    windows = np.zeros(n, WINDOW)
    windows["beat"], windows["valid"] = start + np.arange(n), True
    windows["bid"], windows["ask"] = 50_000, 50_001
    windows["high_bid"], windows["low_ask"] = 50_000, 50_001
    for name in ("BTC-USD", "ETH-USD"):
        write_windows(two_hours, name, "2026-01-05", windows)
    ship(two_hours, Recipe())
    config = load_config(None, [])
    _, samples, splits = stages.split_samples(two_hours, config)
    identity = Identity(
        config=config.sweep,
        products=stages.PRODUCT_IDS,
        trained=("BTC-USD",),
        recipe=Recipe(),
        data_sha256=digest(*trained_on(samples, splits)),
    )
    begin(two_hours, "sweep", identity, resume=False)
    trial = TrialResult(name="00", params={}, metrics=None, stopped_early=False, seconds=1.0)
    result = SweepResult(name="sweep", best="00", model_path="", significance=None, trials=(trial,))
    two_hours.write(f"runs/sweep/{RESULTS_FILE}", msgspec.json.encode(result))
    return two_hours


@pytest.mark.slow
def test_a_product_that_train_held_no_sample_of_is_neither_scored_nor_traded(judged: Store) -> None:
    report = judge(judged, load_config(None, []), "sweep", Silent())
    assert report.data.products == ["BTC-USD"]
    assert [each.product for each in report.products] == ["BTC-USD"]
    assert report.backtest is not None and report.backtest.model.products.keys() == {"BTC-USD"}


def test_logits_are_not_traded_with_an_edge_in_basis_points(judged: Store) -> None:
    ship(judged, Recipe(), objective="bce")
    with pytest.raises(QuaverError, match="min_edge_bps"):
        judge(judged, load_config(None, ["trader.min_edge_bps=1"]), "sweep", Silent())
    assert not judged.exists(LOOKS_PATH)


def test_the_loss_is_that_of_the_sweeps_own_settings(judged: Store) -> None:
    ship(judged, Recipe(), objective="cross_entropy")
    settings = ([], ["sweep.train.temperature_bps=5"])
    found = [judge(judged, load_config(None, given), "sweep", Silent()) for given in settings]
    one, other = (report.validation.loss for report in found if report.validation)
    assert one == other


def ship(
    store: Store,
    recipe: Recipe,
    products: tuple[str, ...] = stages.PRODUCT_IDS,
    objective: Objective = "advantage",
) -> None:
    """Leave a model file where a sweep leaves its best."""
    torch.manual_seed(0)
    config = SeedConfig(lstm_hidden=4, book_hidden=(4,), interaction_hidden=(4,))
    meta = ModelMeta(
        model=config,
        objective=objective,
        products=products,
        trained=("BTC-USD",),
        recipe=recipe,
    )
    weights = build(config, len(recipe.signal_names)).state_dict()
    store.write("runs/sweep/best/model.safetensors", export(weights, meta))


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        (Recipe(signals=SignalsConfig(taker=True)), "signals.taker is True instead of False"),
        (Recipe(fees=Fees(taker_bps=60.0)), "fees.taker_bps is 60.0 instead of 5.0"),
        (Recipe(horizon_beats=30), "horizon_beats is 30 instead of 75"),
    ],
)
def test_a_model_of_other_samples_is_refused(two_hours: Store, recipe: Recipe, why: str) -> None:
    ship(two_hours, recipe)
    with pytest.raises(QuaverError, match=f"trained on other samples: {why}"):
        judge(two_hours, load_config(None, []), "sweep", Silent())
    assert not two_hours.exists(LOOKS_PATH)


def test_a_model_of_other_products_is_refused(two_hours: Store) -> None:
    ship(two_hours, Recipe(), tuple(reversed(stages.PRODUCT_IDS)))
    with pytest.raises(QuaverError, match="made for 55 products"):
        judge(two_hours, load_config(None, []), "sweep", Silent())


def test_a_sweep_that_left_no_model_is_named(two_hours: Store) -> None:
    with pytest.raises(QuaverError, match="there is no finished sweep 'sweep'"):
        judge(two_hours, load_config(None, []), "sweep", Silent())


def test_samples_too_few_to_split_are_said_so(tmp_path: Path) -> None:
    store, n = Store(str(tmp_path)), 200
    features = Features(
        441_892_800 + np.arange(n), np.ones((n, 10)), np.full((n, 20), 0.05), np.full((n, 20), 0.05)
    )
    table = samples_table(features, 0, np.zeros((n, 5)), np.empty((n, 0)))
    write_samples(store, "BTC-USD", "2026-01-05", table, Recipe())
    ship(store, Recipe())
    with pytest.raises(QuaverError, match=r"nothing is left for .* use a longer recording"):
        judge(store, load_config(None, []), "sweep", Silent())


@pytest.mark.parametrize("content", [None, b'{"name": "sw'])
def test_a_table_of_trials_that_is_missing_or_damaged_is_named_before_the_look(
    judged: Store, content: bytes | None
) -> None:
    """The model is written before it."""
    path = f"runs/sweep/{RESULTS_FILE}"
    judged.delete(path)
    if content is not None:
        judged.write(path, content)
    with pytest.raises(QuaverError, match=f"{RESULTS_FILE}.*--resume"):
        judge(judged, load_config(None, []), "sweep", Silent())
    assert not judged.exists(LOOKS_PATH)
