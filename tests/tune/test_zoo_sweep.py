"""One sweep tries every model of the registry and exports whichever is best."""

import msgspec
import pytest

from actors.store import Store
from datasets.splits import split_by_time
from market.policy import choices
from tests.tune.small_sweep import PRODUCTS, under
from tune.checkpoint import load_model
from tune.config import SweepConfig
from tune.evaluate import captured, fraction, predict
from tune.models import MODELS
from tune.sweep import run_sweep


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_over_every_model(ray_local, make_samples, small, tmp_path_factory) -> None:
    cached = under(tmp_path_factory.mktemp("data"), make_samples(3000))
    store = Store(str(tmp_path_factory.mktemp("root")))
    config = SweepConfig(
        train=msgspec.structs.replace(small, epochs=3), space={"model.name": list(MODELS)}
    )
    result = run_sweep(
        cached,
        split_by_time(cached.open().beat),
        config,
        name="zoo",
        products=PRODUCTS,
        store=store,
    )
    assert [trial.params["model.name"] for trial in result.trials] == list(MODELS)
    for trial in result.trials:
        assert trial.metrics.best_value_bps > 0, trial
    model, meta = load_model(store.read(result.model_path), products=PRODUCTS)
    best = next(trial for trial in result.trials if trial.name == result.best)
    assert msgspec.to_builtins(meta.model)["name"] == best.params["model.name"]
    held_out = make_samples(500, seed=9)
    chosen = choices(predict(model, held_out))
    assert fraction(*captured(chosen, held_out.label)) > 0.8
