"""The models there are, by the name that a config carries; see `scaled` for their interface."""

import difflib
from typing import Any, get_args

import msgspec

from market.errors import QuaverError
from tune.boosted import BoostedConfig, BoostedModel
from tune.plain import LinearConfig, LinearModel, MlpConfig, MlpModel
from tune.scaled import ScaledModel, SizesOfAny
from tune.sections import SeedConfig, SeedModel, TcnConfig, TcnModel
from tune.transformer import TransformerConfig, TransformerModel

ModelConfig = SeedConfig | TransformerConfig | TcnConfig | MlpConfig | LinearConfig | BoostedConfig

MODELS: dict[str, type[ScaledModel]] = {
    "seed": SeedModel,
    "transformer": TransformerModel,
    "tcn": TcnModel,
    "mlp": MlpModel,
    "linear": LinearModel,
    "boosted": BoostedModel,
}
MODEL_KEYS = ("model", "model.name")  # Of a training config; they decide what other fields it has.
CONFIGS: dict[str, type[SizesOfAny]] = {
    str(config.__struct_config__.tag): config for config in get_args(ModelConfig)
}


def build(config: ModelConfig, signals: int) -> ScaledModel:
    """Return the model `config` describes, for so many signals.

    Its weights are random, from torch's global generator.
    """
    return MODELS[str(config.__struct_config__.tag)](config, signals)


def changed(fields: dict[str, Any], given: Any, where: str) -> dict[str, Any]:
    """Return a model's fields (with `name`) changed by those in `given`.

    Another `name` starts from that model's defaults, for the same products. QuaverError, which
    begins with `where`, if there is no such model, or if it has no such field.
    """
    if not isinstance(given, dict):
        raise QuaverError(f'{where}: {given!r} is no table of a model; write {{name = "tcn"}}')
    name = given.get("name", fields["name"])
    if str(name) not in CONFIGS:
        raise QuaverError(f"{where}: there is no model {name!r}, but {', '.join(CONFIGS)}")
    if name != fields["name"]:
        fields = msgspec.to_builtins(CONFIGS[name](products=fields["products"]))
    for key in given.keys() - fields.keys():
        (near,) = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)
        raise QuaverError(
            f"{where}: the model {name} has no field {key!r}, but {', '.join(fields)}; did you "
            f"mean {near}?"
        )
    return {**fields, **given}
