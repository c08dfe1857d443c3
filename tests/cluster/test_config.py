"""Configuration: defaults, a file, overrides, and errors that name the key."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import cluster
from cluster.config import Config, as_toml, grids, load_config
from datasets.recipe import Recipe
from market.cross import CrossConfig
from market.errors import QuaverError
from market.external import ExternalConfig
from market.products import product_of
from market.signals import SignalsConfig
from tune.models import TcnConfig, TransformerConfig
from tune.search import trials, variant


def test_defaults_are_those_of_the_definitions() -> None:
    config = load_config(None, [])
    assert (config.fees.taker_bps, config.fees.maker_bps) == (5.0, 0.0)
    assert len(config.products) == 55
    assert config == Config()


def test_what_is_printed_reads_back_as_the_same_configuration(tmp_path: Path) -> None:
    config = load_config(None, ["fees.taker_bps=60", 'demo.products=["ETH-USD"]'])
    path = tmp_path / "quaver.toml"
    path.write_text(as_toml(config))
    assert load_config(path, []) == config


def test_an_override_beats_the_file_and_the_file_beats_the_default(tmp_path: Path) -> None:
    path = tmp_path / "quaver.toml"
    path.write_text("[fees]\ntaker_bps = 40\nmaker_bps = 20\n")
    config = load_config(path, ["fees.taker_bps=60"])
    assert (config.fees.taker_bps, config.fees.maker_bps) == (60, 20)


def test_a_signal_is_a_switch_and_part_of_what_samples_are_made_by() -> None:
    assert load_config(None, []).recipe == Recipe()
    config = load_config(None, ["signals.taker=true", "fees.taker_bps=60"])
    assert config.recipe.signals == SignalsConfig(taker=True)
    given = ["cross.neighbours=3", "external.path=news.parquet", 'external.series=["news"]']
    recipe = load_config(None, given).recipe
    assert recipe.cross == CrossConfig(neighbours=3)
    assert recipe.external == ExternalConfig(path="news.parquet", series=("news",))
    assert config.recipe.fees.taker_bps == 60


def test_a_space_given_replaces_the_default_one_and_is_printed_as_it_reads(tmp_path: Path) -> None:
    config = load_config(None, ['sweep.space={objective=["bce"]}'])
    assert config.sweep.space == {"objective": ["bce"]}
    space = '{learning_rate={log=[1e-4, 1e-2]}, model=[{name="seed", lstm_hidden=8}]}'
    config = load_config(None, [f"sweep.space={space}"])
    path = tmp_path / "quaver.toml"
    path.write_text(as_toml(config))
    assert load_config(path, []) == config


def test_the_example_of_a_sweep_is_one_that_can_be_run() -> None:
    path = Path(cluster.__file__).parents[1] / "examples" / "sweep.toml"
    sweep = load_config(path, []).sweep
    assert trials(sweep) == 40
    assert sweep.asha.enabled
    tried = [variant(sweep, index) for index in range(trials(sweep))]
    assert len({str(one.params) for one in tried}) == len(tried)


def test_another_model_has_keys_of_its_own(tmp_path: Path) -> None:
    space = 'sweep.space={objective=["mse"]}'
    config = load_config(None, ["sweep.train.model.name=tcn", "sweep.train.model.kernel=4", space])
    assert config.sweep.train.model == TcnConfig(kernel=4)
    path = tmp_path / "quaver.toml"
    path.write_text(as_toml(config))
    assert load_config(path, []) == config
    path.write_text('[sweep.train.model]\nwidth = 64\nname = "transformer"\n')
    assert load_config(path, [space]).sweep.train.model == TransformerConfig(width=64)
    seed = load_config(None, ["sweep.train.model.name=seed"]).sweep.train.model
    assert seed == Config().sweep.train.model


def test_increments_make_a_product_that_can_be_recorded(tmp_path: Path) -> None:
    path = tmp_path / "quaver.toml"
    path.write_text('products = ["A-B"]\n[increments]\n"C-D" = "1,1"\n"A-B" = "0.1,0.01"\n')
    config = load_config(path, [])
    assert grids(config)["A-B"] == product_of("A-B", "0.1", "0.01")
    path.write_text(as_toml(config))
    assert load_config(path, []) == config
    with pytest.raises(QuaverError, match="A-B"):
        load_config(path, ['increments={"C-D" = "1,1"}'])


def test_a_resource_given_is_added_to_the_others_or_replaces_its_own(tmp_path: Path) -> None:
    config = load_config(None, ["sweep.trial_resources.gpu=1"])
    assert config.sweep.trial_resources == {"cpu": 1, "gpu": 1}
    path = tmp_path / "quaver.toml"
    path.write_text("[sweep.trial_resources]\nspot = 1\n")
    config = load_config(path, ["sweep.trial_resources={cpu=2, gpu=0.5}"])
    assert config.sweep.trial_resources == {"cpu": 2, "gpu": 0.5, "spot": 1}
    path.write_text(as_toml(config))
    assert load_config(path, []) == config


@pytest.mark.parametrize("url", ["simulated", "ws://127.0.0.1:9000", "wss://feed.example/path"])
def test_a_feed_is_simulated_or_a_websocket(url: str) -> None:
    assert load_config(None, [f"feed_url={url}"]).feed_url == url


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("fees.taker=1", "did you mean fees.taker_bps?"),
        ("fee.taker_bps=1", "did you mean fees?"),
        ("trader.limits.max_orders_minute=1", "did you mean trader.limits.max_orders_per_minute?"),
        ("fees=3", "fees is a table of keys"),
        ("fees.taker_bps=-1", "$.fees.taker_bps"),
        ("fees.taker_bps=abc", "$.fees.taker_bps"),
        ('products=["NO-USD"]', "NO-USD is not one of the 55"),
        ("split=[0.5,0.2,0.2]", "must sum to 1"),
        ("foo", "is not KEY=VALUE"),
        ('products=["BTC-USD","ETH-USD","BTC-USD"]', ": products has BTC-USD more than once"),
        ('demo.products=["ETH-USD","ETH-USD"]', "demo.products has ETH-USD more than once"),
        ("fees.taker_bps=inf", "fees.taker_bps is inf"),
        ("fees.taker_bps=1e999", "fees.taker_bps is inf"),
        ("split=[0.6,nan,0.2]", "split is nan"),
        ("sweep.space.learning_rate=[1e-3,inf]", "sweep.space.learning_rate is inf"),
        ("sweep.trial_resources.gpu=-inf", "sweep.trial_resources.gpu is -inf"),
        ("sweep.trial_resources.gpu=-1", "$.sweep.trial_resources"),
        ("sweep.train.epochs=9223372036854775808", "sweep.train.epochs is a whole number beyond"),
        ("sweep.space={seed=[9223372036854775808]}", "sweep.space.seed is a whole number beyond"),
        ("sweep.train.model.products=2", "sweep.train.model.products is 2, but there are 55"),
        ("sweep.trial_resources.CPU=2", "sweep.trial_resources: write cpu, not CPU"),
        ("sweep.trial_resources.cpu=0", "sweep.trial_resources: cpu must be given"),
        ("sweep.trial_resources.gpu=many", "$.sweep.trial_resources"),
        ("sweep.trial_resources=2", "sweep.trial_resources is a table of keys"),
        ('sweep.space={"model.lstm_hiden"=[8]}', "did you mean model.lstm_hidden?"),
        ("sweep.space={epochs=[0]}", "the value 0 of 'epochs' in the space does not fit"),
        ("sweep.samples=3", "nothing to draw"),
        ("sweep.asha.grace=3", "did you mean sweep.asha.grace_epochs?"),
        ("sweep.grid={epochs=[1]}", "there is no key sweep.grid"),
        ("sweep.train.model.name=cnn", "sweep.train.model: there is no model 'cnn', but seed,"),
        ("sweep.train.model.name=tcn", "'model.lstm_hidden' in the space is not a field"),
        (
            'sweep.train.model={name="tcn", lstm_hidden=8}',
            "there is no key sweep.train.model.lstm_hidden; did you mean",
        ),
        ("sweep.train.model.lstm_hiden=8", "did you mean sweep.train.model.lstm_hidden?"),
        ("cross.neighbours=9", "$.cross.neighbours"),
        ("external.path=news.parquet", "external: path is 'news.parquet' and series is []"),
        ("feed_url=https://feed.example", "feed_url: 'https://feed.example'"),
        ("feed_url=simulatd", "or simulated"),
        ("feed_url=ws://host:port", "feed_url: "),
        (f"serve.port={'1' * 5000}", "$.serve.port"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_it(override: str, said: str) -> None:
    with pytest.raises(QuaverError) as error:
        load_config(None, [override])
    assert said in str(error.value)


def test_an_unreadable_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[fees\n")
    for wrong in (path, tmp_path / "absent.toml"):
        with pytest.raises(QuaverError, match=wrong.name):
            load_config(wrong, [])


def test_nothing_of_the_configuration_can_be_changed() -> None:
    with pytest.raises(AttributeError):
        load_config(None, []).fees.taker_bps = 0  # type: ignore[misc]


def test_the_cluster_file_fits_rays_schema() -> None:
    path = Path(cluster.__file__).with_name("aws-spot.yaml")
    config = yaml.safe_load(path.read_text())
    validate_config(prepare_config(config))
    market = config["available_node_types"]["spot"]["node_config"]["InstanceMarketOptions"]
    assert market["MarketType"] == "spot"
    assert "make setup" in config["setup_commands"][-1]


def test_keys_of_a_space_given_one_by_one_are_all_kept_and_take_the_place_of_the_defaults() -> None:
    given = ["sweep.space.learning_rate=[0.1]", 'sweep.space.objective=["mse", "bce"]']
    assert set(load_config(None, given).sweep.space) == {"learning_rate", "objective"}
    quoted = load_config(None, ['sweep.space."model.lstm_hidden"=[8]']).sweep.space
    assert quoted == {"model.lstm_hidden": [8]}
