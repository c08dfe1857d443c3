"""Where no edge is planted nothing beats NO_OP; where one is, the seed model takes most of it.

Two markets that differ in `edge_bps` alone, two seeds each, judged out of sample.
"""

import pytest

from benchmarks.skill import Job, Outcome, measure_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SEEDS = (1, 2)
LEAST_SHARE = 0.6


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    jobs = [Job(0.0, seed, models=("seed", "linear", "boosted")) for seed in SEEDS]
    return list(measure_all(jobs + [Job(20.0, seed, models=("seed",)) for seed in SEEDS]))


def test_without_an_edge_no_model_beats_doing_nothing(outcomes: list[Outcome]) -> None:
    without = [one for one in outcomes if not one.job.edge_bps]
    assert len(without) == len(SEEDS)
    for outcome in without:
        assert outcome.oracle_bps > 0.2  # There was something to earn for whoever knew.
        assert outcome.rule_bps is not None and outcome.rule_bps.low <= 0
        for model in outcome.models:
            assert model.value_bps is not None and model.value_bps.low <= 0, model


def test_with_an_edge_the_seed_model_takes_three_fifths_of_the_rules_value(
    outcomes: list[Outcome],
) -> None:
    with_edge = [one for one in outcomes if one.job.edge_bps]
    assert len(with_edge) == len(SEEDS)
    for outcome in with_edge:
        assert outcome.rule_bps is not None and outcome.rule_bps.low > 0
        (seed,) = outcome.models
        assert seed.value_bps is not None and seed.value_bps.low > 0, seed
        assert seed.of_rule is not None and seed.of_rule.mean >= LEAST_SHARE, seed
