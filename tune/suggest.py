"""What Optuna would try next, given what has been tried.

Each time a study of its own: Ray's wrapper keeps one, pickled beside Tune's table of trials, and a
kill between the two leaves them at odds.
"""

from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)


def suggest(
    drawn: dict[str, dict[str, Any]], seed: tuple[int, int], before: list[tuple[dict, float]]
) -> dict[str, Any]:
    """Return values for the ranges and choices of `drawn`, by key.

    `before` are the parameters of finished trials, and what they reached; more is better.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spaces = {key: _distribution(given) for key, given in drawn.items()}
    sampler = optuna.samplers.TPESampler(
        seed=int(np.random.SeedSequence(seed).generate_state(1)[0])
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for params, value in before:
        positions = {key: _position(given, params[key]) for key, given in drawn.items()}
        study.add_trial(
            optuna.trial.create_trial(params=positions, distributions=spaces, value=value)
        )
    found = study.ask(spaces).params
    return {key: _at(given, found[key]) for key, given in drawn.items()}


def _distribution(given: dict[str, Any]) -> BaseDistribution:
    ((kind, values),) = given.items()
    if kind == "choice":  # By position: Optuna takes no lists and no tables.
        return CategoricalDistribution(range(len(values)))
    if kind == "integer":
        return IntDistribution(*values)
    return FloatDistribution(*values, log=kind == "log")


def _position(given: dict[str, Any], value: Any) -> Any:
    return given["choice"].index(value) if "choice" in given else value


def _at(given: dict[str, Any], found: Any) -> Any:
    return given["choice"][found] if "choice" in given else found
