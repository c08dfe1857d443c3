"""Does the chain from book to decision carry signal, and none where none is? Into docs/skill.md.

Two simulated markets that differ in one number: in one the hidden drift that shapes the book moves
the price (`edge_bps`), in the other it moves nothing. Models train on the first part of each and
are judged on its last, beside the rule that knows the drift itself. `python -m benchmarks.skill`
"""

import argparse
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple, get_args

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.__main__ import ROOT, replaced, where
from benchmarks.planted import Planted, planted, planted_rule
from datasets.batches import Part
from datasets.splits import split_by_time
from market.actions import Action, Fees
from market.labels import advantage
from market.policy import choices
from market.products import product
from market.windows import BEAT_NS
from sim.flow import FlowConfig
from tune.baselines import FITTED
from tune.bootstrap import Interval, decision_bootstrap
from tune.config import TrainConfig
from tune.evaluate import predict
from tune.models import CONFIGS, build
from tune.objectives import Objective
from tune.training import train

PAGE = ROOT / "docs" / "skill.md"
COINS = ("STRK-USD", "CRV-USD", "ALGO-USD")  # The quietest, so the quickest to generate.
# But for the drift, prices are a random walk: nothing else is to be learnt from them.
MARKET = FlowConfig(tick_s=4.0, trend_bps=0.0, reversion_s=1e9, drift_time_s=300.0, book_tilt=2.0)
TRAINING = TrainConfig(epochs=10)  # But for its objective.
SPLIT = (0.5, 0.1, 0.4)
EDGES_BPS, SEEDS, HOURS = (0.0, 20.0), (1, 2, 3), 8.0
_BEATS_PER_HOUR = 3_600_000_000_000 // BEAT_NS


class Job(NamedTuple):
    """One market and the models that are tried on it."""

    edge_bps: float
    seed: int  # Of the market, and of the models' weights.
    hours: float = HOURS
    models: tuple[str, ...] = tuple(CONFIGS)
    objective: Objective = "advantage"  # Of all but the baselines.


class Trained(NamedTuple):
    """What a model makes of the test part."""

    model: str
    value_bps: Interval | None  # Over NO_OP.
    of_rule: Interval | None  # As a share of the planted rule's value; None where that has none.
    acts: float  # Share of decisions that are not NO_OP.


class Outcome(NamedTuple):
    """One market judged."""

    job: Job
    samples: int  # Labelled ones of test.
    oracle_bps: float
    rule_bps: Interval | None
    models: list[Trained]


def measure(job: Job) -> Outcome:
    """Generate a market, train the models on it and judge them on its test part."""
    torch.set_num_threads(1)
    config = msgspec.structs.replace(MARKET, edge_bps=job.edge_bps, seed=job.seed)
    beats = round(job.hours * _BEATS_PER_HOUR)
    found = planted([product(coin) for coin in COINS], config, beats, Fees())
    splits = split_by_time(found.samples.beat, SPLIT)
    train_rows, test = (splits[name] & found.samples.labelled for name in ("train", "test"))
    rule = _gains(found, test, planted_rule(found, train_rows)[test])
    return Outcome(
        job=job,
        samples=int(test.sum()),
        oracle_bps=float(advantage(found.samples.label[test]).max(axis=1).mean()),
        rule_bps=decision_bootstrap(rule, found.samples.beat[test]),
        models=[_trained(name, job, found, splits, test, rule) for name in job.models],
    )


def measure_all(jobs: Iterable[Job], processes: int = 2) -> Iterator[Outcome]:
    """Measure so many at a time, each in a process of its own; yield them in order."""
    spawn = multiprocessing.get_context("spawn")  # Torch's threads do not outlive a fork.
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        yield from pool.map(measure, jobs)


def table_of(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a Markdown table, a row per market and model."""
    return "\n".join(
        [
            "| edge, bp | seed | model | value over NO_OP, bp | share of the rule's | acts |",
            "| ---: | ---: | --- | --- | --- | ---: |",
            *(row for outcome in outcomes for row in rows_of(outcome)),
        ]
    )


def rows_of(outcome: Outcome) -> list[str]:
    """Return the rows of one market."""
    start = f"| {outcome.job.edge_bps:g} | {outcome.job.seed} |"
    return [
        f"{start} *oracle* | {outcome.oracle_bps:.3f} | | |",
        f"{start} *planted rule* | {_shown(outcome.rule_bps)} | | |",
        *(
            f"{start} {one.model} | {_shown(one.value_bps)} | {_shown(one.of_rule, 100, ' %')} | "
            f"{one.acts:.0%} |"
            for one in outcome.models
        ),
    ]


def _trained(
    name: str,
    job: Job,
    found: Planted,
    splits: dict[str, NDArray[np.bool_]],
    test: NDArray[np.bool_],
    rule: NDArray[np.float64],
) -> Trained:
    usual = msgspec.structs.replace(TRAINING, objective=job.objective)
    config = msgspec.structs.replace(FITTED.get(name, usual), model=CONFIGS[name](), seed=job.seed)
    parts = (Part.of(found.samples, splits[part]) for part in ("train", "validation"))
    state = train(*parts, config)
    model = build(config.model, 0)
    model.load_state_dict(state.best_weights)
    chosen = choices(predict(model, found.samples.select(test)))
    gains, beats = _gains(found, test, chosen), found.samples.beat[test]
    return Trained(
        model=name,
        value_bps=decision_bootstrap(gains, beats),
        of_rule=decision_bootstrap(gains, beats, rule),
        acts=float((chosen != Action.NO_OP).mean()),
    )


def _gains(
    found: Planted, test: NDArray[np.bool_], chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """What choices on the rows of test earn over NO_OP, bp, [n] as they are."""
    return advantage(found.samples.label[test])[np.arange(len(chosen)), chosen]


def _shown(interval: Interval | None, times: float = 1.0, unit: str = "") -> str:
    if interval is None:
        return ""
    digits = 3 if times == 1.0 else 0
    mean, low, high = (f"{times * value:.{digits}f}" for value in interval[:3])
    return f"{mean}{unit} ({low} to {high})"


def main() -> None:
    """Measure all markets, print each when it is done, and write the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--hours", type=float, default=HOURS, help="of each market")
    options.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options.add_argument("--edges", type=float, nargs="+", default=EDGES_BPS, help="in bp")
    options.add_argument("--models", nargs="+", default=tuple(CONFIGS), choices=tuple(CONFIGS))
    options.add_argument("--objective", default="advantage", choices=get_args(Objective))
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--no-page", action="store_true", help="print alone")
    given = options.parse_args()
    jobs = [
        Job(edge, seed, given.hours, tuple(given.models), given.objective)
        for edge in given.edges
        for seed in given.seeds
    ]
    outcomes = []
    for outcome in measure_all(jobs, given.processes):
        print("\n".join(rows_of(outcome)), flush=True)  # noqa: T201
        outcomes.append(outcome)
    table = f"{where()} {given.hours:g} hours of each market.\n\n{table_of(outcomes)}"
    if not given.no_page:
        PAGE.write_text(replaced(PAGE.read_text("utf-8"), table), "utf-8")


if __name__ == "__main__":
    main()
