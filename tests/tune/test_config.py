"""A grid becomes variants, and a wrong grid is an error before anything starts."""

import pytest

from market.errors import QuaverError
from tune.config import SweepConfig, variants


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
    ],
)
def test_wrong_grids(small, grid, message) -> None:
    with pytest.raises(QuaverError, match=message):
        variants(SweepConfig(train=small, grid=grid))
