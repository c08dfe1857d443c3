"""A model file round-trips, and anything else is refused with a reason."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch

from datasets.batches import Part
from datasets.recipe import Recipe
from market.actions import Fees
from market.errors import QuaverError
from tune import checkpoint
from tune.checkpoint import ModelMeta, export, load_model
from tune.evaluate import predict
from tune.models import build
from tune.training import train

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")


@pytest.fixture
def exported(make_samples, small) -> tuple[bytes, ModelMeta, dict[str, torch.Tensor]]:
    parts = (Part.of(make_samples(300)), Part.of(make_samples(100, seed=3)))
    state = train(*parts, msgspec.structs.replace(small, epochs=1))
    meta = ModelMeta(
        trained=("BTC-USD",),
        model=small.model,
        objective="mse",
        products=PRODUCTS,
        recipe=Recipe(fees=Fees(taker_bps=7.5)),
    )
    return export(state.weights, meta), meta, state.weights


def test_round_trip(exported, make_samples, tmp_path: Path) -> None:
    content, meta, weights = exported
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model, found = load_model(path, products=PRODUCTS)
    assert torch.equal(torch.rand(3), expected)
    assert found == meta
    assert not model.training
    assert model.state_dict().keys() == weights.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    samples = make_samples(50)
    from_bytes, _ = load_model(content)
    np.testing.assert_array_equal(predict(model, samples), predict(from_bytes, samples))
    assert export(weights, meta) == content


def test_missing_and_damaged_files(exported, tmp_path: Path) -> None:
    content, _, weights = exported
    with pytest.raises(QuaverError, match="cannot be read"):
        load_model(tmp_path / "nothing.safetensors")
    for damaged in (b"", b"short", b"\xff" * 100, bytes(100), b"<html>" * 50):
        with pytest.raises(QuaverError, match="damaged or no model file"):
            load_model(damaged)
    for cut in (content[:-10], content + b"x"):
        with pytest.raises(QuaverError, match="do not fit"):
            load_model(cut)
    with pytest.raises(QuaverError, match="not a model of this program"):
        load_model(safetensors.torch.save(weights))


def test_disagreements_are_refused(exported, small) -> None:
    content, meta, weights = exported
    with pytest.raises(QuaverError, match=r"made for 3 products .*the order counts"):
        load_model(content, products=PRODUCTS[::-1])
    older = msgspec.structs.replace(meta, features_version="0")
    with pytest.raises(QuaverError, match="of version 0, this program computes version 1"):
        load_model(export(weights, older))
    wider = msgspec.structs.replace(
        meta, model=msgspec.structs.replace(small.model, lstm_hidden=16)
    )
    with pytest.raises(QuaverError, match="do not fit its header"):
        load_model(export(weights, wider))
    diverged = {**weights, "head.bias": torch.full((5,), torch.nan)}
    with pytest.raises(QuaverError, match="not finite"):
        export(diverged, meta)


def test_a_hostile_header_is_refused_before_anything_is_made_of_it(
    exported, small, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, meta, weights = exported
    deep = b"[" * 200_000
    with pytest.raises(QuaverError, match="damaged or no model file"):
        load_model(len(deep).to_bytes(8, "little") + deep)

    def without_memory(*of: object) -> object:
        assert torch.get_default_device().type == "meta"
        return build(*of)

    monkeypatch.setattr(checkpoint, "build", without_memory)
    for sizes in (
        {"products": 2},
        {"lstm_hidden": 10**9},
        {"products": 10**12},
        {"products": 10**20},
    ):
        model = msgspec.structs.replace(small.model, **sizes)
        with pytest.raises(QuaverError, match="do not fit its header"):
            load_model(export(weights, msgspec.structs.replace(meta, model=model)))
    two = msgspec.structs.replace(meta, products=PRODUCTS[:2], trained=())
    with pytest.raises(QuaverError, match="of 3 products, which names 2"):
        load_model(export(weights, two))
