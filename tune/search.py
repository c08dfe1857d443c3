"""What a sweep tries: lists in full, ranges by draws, from a space that a person writes.

A key is the dotted path of a `TrainConfig` field (`objective`, `model.lstm_hidden`), so that
whatever can be configured can be swept, and a typo is an error before anything starts. What trial
`index` is follows from the configuration, `index` and, with Optuna, the trials before it: there is
no state that a killed sweep could lose.
"""

import contextlib
import difflib
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from market.errors import QuaverError
from tune.capacity import check_resources
from tune.config import SweepConfig, TrainConfig
from tune.models import MODEL_KEYS, changed

RANGES = ("uniform", "log", "integer")  # [low, high], both included.
CHOICE = "choice"
_NAME_CHARACTERS = 100  # A folder has this name.
MOST_TRIALS = 10_000  # Tune keeps all in one table, written every two seconds.
_MOST_PROBES = 4096
_WHOLE = 2**63 - 1  # What configuration files hold, and Optuna and numpy draw.
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
        params = _suggested(config, drawn, index, list(before))
    else:
        params, rest = {}, index
        for key, values in reversed(_lists(config).items()):
            rest, at = divmod(rest, len(values))
            params[key] = values[at]
        rng = np.random.default_rng((config.seed, index))
        params |= {key: _draw(given, rng) for key, given in drawn.items()}
    params = {key: params[key] for key in config.space}
    return Variant(_name(index, params), params, configured(config.train, params))


def _suggested(
    config: SweepConfig, drawn: dict[str, dict[str, Any]], index: int, before: list[Tried]
) -> dict[str, Any]:
    """Return what Optuna suggests; where that cannot be, the first seeded draw that can."""
    from tune.suggest import suggest  # A third of a second.

    params = suggest(drawn, (config.seed, index), before)
    rng = np.random.default_rng((config.seed, index))
    for _ in range(_MOST_PROBES):
        with contextlib.suppress(QuaverError):
            configured(config.train, params)
            break
        params = {key: _draw(given, rng) for key, given in drawn.items()}
    return params


def most_epochs(config: SweepConfig) -> int:
    """Return how many epochs the longest trial takes."""
    given = config.space.get("epochs")
    return config.train.epochs if given is None else int(max(_probes("epochs", given)))


def configured(train: TrainConfig, params: dict[str, Any]) -> TrainConfig:
    """Return `train` with these values by dotted path; QuaverError where they do not fit."""
    try:
        found = msgspec.convert(_fields(train, params), TrainConfig)
    except msgspec.ValidationError as error:
        guilty = _guilty(train, params)
        values = " and ".join(f"the value {params[key]!r} of {key!r}" for key in guilty)
        fit = "does not fit" if len(guilty) == 1 else "do not fit together"
        raise QuaverError(f"sweep: {values} in the space {fit}: {error}") from error
    if found.model.products != train.model.products:
        raise QuaverError(
            "sweep: model.products is nothing to search: it is how many products there are; take "
            "it out of the space"
        )
    return found


def check_space(config: SweepConfig) -> None:
    """Raise a QuaverError that names the key unless every trial can be configured."""
    check_resources(config.trial_resources)
    lists = list(_lists(config))
    probes = {key: _probes(key, given) for key, given in config.space.items()}
    if config.search == "optuna" and lists:
        raise QuaverError(
            f"sweep: {lists[0]!r} in the space is a list, which is tried in full; optuna draws: "
            f"write {{{CHOICE} = [...]}}"
        )
    if trials(config) > MOST_TRIALS:
        raise QuaverError(
            f"sweep: the space and samples make {trials(config):,} trials; a sweep takes at most "
            f"{MOST_TRIALS:,}"
        )
    _check_combinations(config, probes)
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


def _check_combinations(config: SweepConfig, probes: dict[str, list[Any]]) -> None:
    """Try the values that each key may take at its extremes, together with those of the others.

    Optuna may come upon any combination. Draws at random are known, so there each value need only
    be possible beside some others.
    """
    possible: set[tuple[int, int]] = set()
    failed: dict[tuple[int, int], QuaverError] = {}
    for at in _combinations(config.seed, list(map(len, probes.values()))):
        params = {key: probes[key][i] for key, i in zip(probes, at, strict=True)}
        try:
            configured(config.train, params)
        except QuaverError as error:
            if config.search == "optuna":
                raise QuaverError(f"{error}; optuna may draw any combination") from error
            for place in enumerate(at):
                failed.setdefault(place, error)
        else:
            possible.update(enumerate(at))
    for place, error in failed.items():
        if place not in possible:
            raise error


def _combinations(seed: int, lengths: list[int]) -> Iterable[tuple[int, ...]]:
    """Return a position in each of so many lists: all combinations, or some thousands drawn."""
    if math.prod(lengths) <= _MOST_PROBES:
        return itertools.product(*map(range, lengths))
    rng, n = np.random.default_rng(seed), max(_MOST_PROBES, *lengths)
    return zip(*((rng.permutation(n) % length).tolist() for length in lengths), strict=True)


def _fields(train: TrainConfig, params: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `train` with these values, which may not fit yet."""
    fields: dict[str, Any] = msgspec.to_builtins(train)
    # A table before what is in it, and which model it is before both.
    for key in sorted(params, key=lambda key: (key not in MODEL_KEYS, key.count("."))):
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
    return fields


def _guilty(train: TrainConfig, params: dict[str, Any]) -> list[str]:
    """Return the keys without whose values the others fit; all where no single one is to blame."""
    return [key for key in params if _fits(train, params, key)] or list(params)


def _fits(train: TrainConfig, params: dict[str, Any], without: str) -> bool:
    rest = {key: value for key, value in params.items() if key != without}
    try:
        msgspec.convert(_fields(train, rest), TrainConfig)
    except (QuaverError, msgspec.ValidationError):
        return False
    return True


def _probes(key: str, given: Any) -> list[Any]:
    """The values to try a key with; QuaverError where it is not written as it should be."""
    if not _representable(given):
        raise QuaverError(f"sweep: {key!r} in the space has a whole number beyond 64 bits")
    if isinstance(given, dict) and len(given) == 1:
        ((kind, values),) = given.items()
        if kind == CHOICE and isinstance(values, list) and values:
            return values
        if kind in RANGES:
            return _range_probes(key, kind, values)
    elif isinstance(given, list) and given:
        return given
    hint = ""
    if isinstance(given, dict) and given.keys().isdisjoint((*RANGES, CHOICE)):
        hint = "; a dotted path is one key, in quotes"
    raise QuaverError(
        f"sweep: {key!r} in the space is {given!r}; give a list of values, {{{CHOICE} = [...]}}, "
        f"or {{{' | '.join(RANGES)} = [low, high]}}{hint}"
    )


def _representable(given: Any) -> bool:
    if isinstance(given, dict | list):
        return all(map(_representable, given.values() if isinstance(given, dict) else given))
    return not isinstance(given, int) or abs(given) <= _WHOLE


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
    if not math.isfinite(high - low):
        raise QuaverError(f"sweep: {key!r} in the space: from {low!r} to {high!r} is too far")
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
