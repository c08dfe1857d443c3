"""Windows of a made market, and a model small enough to write down what it wants."""

import numpy as np
import torch

from datasets.recipe import Recipe
from market.actions import Action
from market.signals import SignalsConfig
from market.windows import WINDOW
from tune.checkpoint import ModelMeta, export
from tune.models import SeedConfig, build

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
FIRST_BEAT = 446_566_500
WARM_UP = 69  # Beats k-68 .. k.
PLAIN = Recipe()
ALL = SignalsConfig(**dict.fromkeys(SignalsConfig.__struct_fields__, True))


def walk(n: int, seed: int, first_beat: int = FIRST_BEAT) -> np.ndarray:
    """Return n valid windows around 50,000 ticks; some orders resting inside the spread fill."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(n, WINDOW)
    rows["beat"] = first_beat + np.arange(n)
    rows["valid"] = True
    rows["bid"] = 50_000 + np.cumsum(rng.integers(-9, 10, n))
    rows["ask"] = rows["bid"] + rng.integers(1, 6, n)
    rows["low_ask"] = rows["ask"] - rng.integers(0, 6, n)
    rows["high_bid"] = rows["bid"] + rng.integers(0, 6, n)
    rows["trades"] = rng.integers(0, 3, n)
    traded = rows["trades"] > 0
    rows["trade_low"] = np.where(traded, rows["bid"], 0)
    rows["trade_high"] = np.where(traded, rows["ask"], 0)
    rows["bid_depth"] = rng.integers(0, 1_000, (n, 20))
    rows["ask_depth"] = rng.integers(0, 1_000, (n, 20))
    rows["buy_lots"], rows["sell_lots"] = rng.integers(0, 9, (2, n)) * rows["trades"]
    return rows


def meta_of(
    trained: tuple[str, ...] = PRODUCTS, objective: str = "mse", recipe: Recipe = PLAIN
) -> ModelMeta:
    """Return the header of a small model of `PRODUCTS`."""
    config = SeedConfig(
        products=len(PRODUCTS),
        lstm_hidden=8,
        book_hidden=(8,),
        embedding_dim=4,
        interaction_hidden=(8,),
    )
    return ModelMeta(
        model=config,
        objective=objective,
        products=PRODUCTS,
        trained=trained,
        recipe=recipe,
    )


def model_file(
    trained: tuple[str, ...] = PRODUCTS, objective: str = "mse", recipe: Recipe = PLAIN
) -> bytes:
    """Return an exported model that wants to buy, then, where it may not, to sell."""
    torch.manual_seed(0)
    meta = meta_of(trained, objective, recipe)
    model = build(meta.model, len(recipe.signal_names))
    model.output_mean[Action.FORCE_BUY] = 1.0
    model.output_mean[Action.CLOSE_BUY] = 1.0
    model.output_mean[Action.FORCE_SELL] = 0.5
    model.output_mean[Action.CLOSE_SELL] = 0.5
    return export(model.state_dict(), meta)
