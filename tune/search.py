"""What a sweep tries: lists in full, ranges by draws, from a space that a person writes.

A key is the dotted path of a `TrainConfig` field (`objective`, `model.lstm_hidden`), so that
whatever can be configured can be swept, and a typo is an error before anything starts. What trial
`index` is follows from the configuration, `index` and, with Optuna, the trials before it: there is
no state that a killed sweep could lose.
"""

import difflib
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from market.errors import QuaverError
from tune.config import SweepConfig, TrainConfig
from tune.models import MODEL_KEYS, changed

RANGES = ("uniform", "log", "integer")  # [low, high], both included.
CHOICE = "choice"
_NAME_CHARACTERS = 100  # A folder has this name.
_INSIDE = 0.381966  # A number between two bounds that hits no round one.


class Variant(NamedTuple):
    """One trial; `name` is its folder under runs/<sweep>/."""

    name: str
    params: dict[str, Any]
    train: TrainConfig


Tried = tuple[dict[str, Any], float]  # Parameters of a finished trial, and the best it captured.


def trials(config: SweepConfig) -> int:
    """Return the number of trials: the combinations of the lists, `samples` times."""
    return math.prod(map(len, _lists(config).values())) * config.samples


def variant(config: SweepConfig, index: int, before: Sequence[Tried] = ()) -> Variant:
    """Return trial `index`; `before` are finished trials with a lower index, for Optuna.

    Indices run through the lists, the last key fastest, then through the draws. QuaverError where a
    key or a value does not fit `TrainConfig`.
    """
    drawn = {key: given for key, given in config.space.items() if isinstance(given, dict)}
    if config.search == "optuna":
        from tune.suggest import suggest  # A third of a second.

        params = suggest(drawn, (config.seed, index), list(before))
    else:
        params, rest = {}, index
        for key, values in reversed(_lists(config).items()):
            rest, at = divmod(rest, len(values))
            params[key] = values[at]
        rng = np.random.default_rng((config.seed, index))
        params |= {key: _draw(given, rng) for key, given in drawn.items()}
    params = {key: params[key] for key in config.space}
    return Variant(_name(index, params), params, configured(config.train, params))


def most_epochs(config: SweepConfig) -> int:
    """Return how many epochs the longest trial takes."""
    given = config.space.get("epochs")
    return config.train.epochs if given is None else int(max(_probes("epochs", given)))


def configured(train: TrainConfig, params: dict[str, Any]) -> TrainConfig:
    """Return `train` with these values by dotted path; QuaverError where one does not fit."""
    # A table before what is in it, and which model it is before both.
    for key in sorted(params, key=lambda key: (key not in MODEL_KEYS, key.count("."))):
        fields = msgspec.to_builtins(train)
        *parents, last = key.split(".")
        target = fields
        for parent in parents:
            target = target.get(parent) if isinstance(target, dict) else None
        if not isinstance(target, dict) or last not in target:
            (near,) = difflib.get_close_matches(key, _paths(fields), n=1, cutoff=0.0)
            raise QuaverError(
                f"sweep: {key!r} in the space is not a field of the training config; "
                f"did you mean {near}?"
            )
        if key in MODEL_KEYS:
            given = params[key] if key == "model" else {"name": params[key]}
            fields["model"] = changed(fields["model"], given, f"sweep: {key!r} in the space")
        else:
            target[last] = params[key]
        try:
            train = msgspec.convert(fields, TrainConfig)
        except msgspec.ValidationError as error:
            raise QuaverError(
                f"sweep: the value {params[key]!r} of {key!r} in the space does not fit: {error}"
            ) from error
    return train


def check_space(config: SweepConfig) -> None:
    """Raise a QuaverError that names the key unless every trial can be configured."""
    lists = list(_lists(config))
    for key, given in config.space.items():
        for value in _probes(key, given):
            if "." not in key or key.split(".")[0] not in config.space:
                configured(config.train, {key: value})
    if config.search == "optuna" and lists:
        raise QuaverError(
            f"sweep: {lists[0]!r} in the space is a list, which is tried in full; optuna draws: "
            f"write {{{CHOICE} = [...]}}"
        )
    if len(lists) == len(config.space) and config.samples > 1:
        raise QuaverError(
            f"sweep: samples is {config.samples}, but the space has nothing to draw: every trial "
            "would run as often; leave samples at 1, or give a range"
        )
    if config.asha.enabled and config.asha.grace_epochs > most_epochs(config):
        raise QuaverError(
            f"sweep: asha.grace_epochs is {config.asha.grace_epochs}, but no trial has more than "
            f"{most_epochs(config)} epochs"
        )
    if config.search == "random":
        for index in range(trials(config)):
            variant(config, index)


def _probes(key: str, given: Any) -> list[Any]:
    """The values to try a key with; QuaverError where it is not written as it should be."""
    if isinstance(given, dict) and len(given) == 1:
        ((kind, values),) = given.items()
        if kind == CHOICE and isinstance(values, list) and values:
            return values
        if kind in RANGES:
            return _range_probes(key, kind, values)
    elif isinstance(given, list) and given:
        return given
    raise QuaverError(
        f"sweep: {key!r} in the space is {given!r}; give a list of values, {{{CHOICE} = [...]}}, "
        f"or {{{' | '.join(RANGES)} = [low, high]}}"
    )


def _range_probes(key: str, kind: str, values: Any) -> list[float]:
    types = (int,) if kind == "integer" else (int, float)
    fits = isinstance(values, list) and len(values) == 2
    if not fits or not all(type(value) in types for value in values) or values[0] >= values[1]:
        what = "two whole numbers" if kind == "integer" else "two numbers"
        raise QuaverError(
            f"sweep: {key!r} in the space: {kind} takes {what}, [low, high] with low below high, "
            f"not {values!r}"
        )
    low, high = values
    if kind == "log" and low <= 0:
        raise QuaverError(f"sweep: {key!r} in the space: log takes numbers above 0, not {low!r}")
    if kind == "integer":
        return [low, high]
    return [float(low), low + _INSIDE * (high - low), float(high)]


def _lists(config: SweepConfig) -> dict[str, list[Any]]:
    return {key: given for key, given in config.space.items() if isinstance(given, list)}


def _draw(given: dict[str, Any], rng: np.random.Generator) -> Any:
    ((kind, values),) = given.items()
    if kind == CHOICE:
        return values[int(rng.integers(len(values)))]
    low, high = values
    if kind == "integer":
        return int(rng.integers(low, high, endpoint=True))
    if kind == "log":
        return min(max(float(np.exp(rng.uniform(np.log(low), np.log(high)))), low), high)
    return float(rng.uniform(low, high))


def _paths(table: dict[str, Any], above: str = "") -> list[str]:
    """The dotted path of every field that can be swept."""
    found = []
    for key, value in table.items():
        found.append(above + key)
        if isinstance(value, dict):
            found += _paths(value, f"{above}{key}.")
    return found


def _name(index: int, params: dict[str, Any]) -> str:
    parts = [f"{index:02d}"]
    for key, value in params.items():
        text = _short(value)
        parts.append(text if isinstance(value, str) else f"{key.rsplit('.', 1)[-1]}-{text}")
    return re.sub(r"[^A-Za-z0-9._-]", "-", "_".join(parts))[:_NAME_CHARACTERS]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return "x".join(map(_short, value))
    if isinstance(value, dict):
        return "-".join(map(_short, value.values()))
    return str(value)
