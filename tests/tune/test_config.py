"""A grid becomes variants, and a wrong grid is an error before anything starts."""

import msgspec
import pytest

from market.errors import QuaverError
from tune.config import SweepConfig, variants
from tune.models import LinearConfig, TcnConfig


def test_grid_by_dotted_path(small) -> None:
    grid = {"objective": ["mse", "bce"], "model.book_hidden": [[8], [16, 4]]}
    found = variants(SweepConfig(train=small, grid=grid))
    assert [variant.name for variant in found] == [
        "00_mse_book_hidden-8",
        "01_mse_book_hidden-16x4",
        "02_bce_book_hidden-8",
        "03_bce_book_hidden-16x4",
    ]
    assert found[3].train.objective == "bce"
    assert found[3].train.model.book_hidden == (16, 4)
    assert found[3].train.model.lstm_hidden == small.model.lstm_hidden
    assert found[3].params == {"objective": "bce", "model.book_hidden": [16, 4]}


def test_grid_over_models(small) -> None:
    grid = {
        "model": [
            {"lstm_hidden": 4},
            {"name": "tcn", "channels": 7, "book_hidden": [5, 3]},
            {"name": "linear"},
        ],
        "model.products": [3, 9],
    }
    found = variants(SweepConfig(train=small, grid=grid))
    assert [variant.name for variant in found[::2]] == [
        "00_4_products-3",
        "02_tcn-7-5x3_products-3",
        "04_linear_products-3",
    ]
    seed, tcn, linear = (variant.train.model for variant in found[::2])
    assert seed == msgspec.structs.replace(small.model, lstm_hidden=4)
    assert tcn == TcnConfig(products=3, channels=7, book_hidden=(5, 3))
    assert linear == LinearConfig(products=3)
    assert found[5].train.model == LinearConfig(products=9)
    names = {"model.name": ["linear", "seed"]}
    found = variants(SweepConfig(train=small, grid=names))
    assert [variant.train.model for variant in found] == [linear, small.model]
    assert [variant.name for variant in found] == ["00_linear", "01_seed"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"model.lstm": [1]}, "'model.lstm' is not a field"),
        ({"model.lstm_hiden": [1]}, "did you mean model.lstm_hidden"),
        ({"lerning_rate": [1]}, "did you mean learning_rate"),
        ({"epochs.count": [1]}, "'epochs.count' is not a field"),
        ({"objective": ["mae"]}, "do not fit"),
        ({"model.lstm_hidden": [0]}, "do not fit"),
        ({"objective": []}, "grid is empty"),
        ({"model": ["tcn"]}, "grid key 'model': 'tcn' is no table of a model"),
        ({"model.name": ["cnn"]}, "grid key 'model.name': there is no model 'cnn'"),
        (
            {"model.name": ["tcn"], "model.lstm_hidden": [4]},
            "'model.lstm_hidden' is not a field .* did you mean model.book_hidden",
        ),
        ({"model": [{"name": "tcn", "layers": 1}]}, "`layers` of `kernel` 3 see 3 of 10 medians"),
        (
            {"model.name": ["mlp", "boosted"], "objective": ["decision"]},
            "boosted has no objective decision, but mse, advantage, bce",
        ),
    ],
)
def test_wrong_grids(small, grid, message) -> None:
    with pytest.raises(QuaverError, match=message):
        variants(SweepConfig(train=small, grid=grid))
