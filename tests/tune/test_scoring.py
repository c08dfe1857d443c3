"""A part is scored batch by batch as it would be whole, and its products and days add up to it."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from datasets.batches import Part
from datasets.recipe import Recipe
from tune import evaluate as evaluation
from tune.baselines import persistence
from tune.bootstrap import decision_bootstrap
from tune.checkpoint import ModelMeta
from tune.models import build
from tune.scoring import DAY_BEATS, score

META: dict[str, Any] = {"products": ("A", "B", "C"), "trained": ("A",), "recipe": Recipe()}


@pytest.fixture
def part(make_samples, monkeypatch) -> Part:
    """Rows of three products around midnight, in order of product and beat, some unlabelled."""
    monkeypatch.setattr(evaluation, "BATCH", 100)
    samples = make_samples(1500)
    samples.label[::7] = np.nan
    order = np.lexsort((samples.beat, samples.product))
    midnight = DAY_BEATS * 20_000
    moved = dataclasses.replace(samples, beat=midnight - 1500 + samples.beat)
    return Part(
        type(samples)(*(getattr(moved, f.name)[order] for f in dataclasses.fields(samples))),
        np.arange(3, 1500, 2),
    )


def scored(part: Part, small, objective: str = "advantage"):
    torch.manual_seed(0)
    models = [build(small.model, 0).eval() for _ in range(2)]
    meta = ModelMeta(model=small.model, objective=objective, **META)
    return models, score(models[0], meta, part, 1, {"other": models[1]}, 1.0, 0.0)


def test_a_part_is_scored_as_if_it_were_read_at_once(part: Part, small) -> None:
    (model, other), found = scored(part, small)
    whole = part.take(slice(None))
    values = evaluation.predict(model, whole)
    np.testing.assert_allclose(found.values, values, atol=1e-5)
    known = whole.labelled
    gains = whole.label[known] - whole.label[known][:, 4:]
    rows = np.arange(known.sum())
    mine = gains[rows, values[known].argmax(1)]
    assert found.whole is not None and found.whole.samples == known.sum() < len(part)
    assert found.whole.value_bps == pytest.approx(mine.mean())
    assert found.whole.value_interval == decision_bootstrap(mine, whole.beat[known])
    best = gains.max(axis=1)
    share = decision_bootstrap(mine, whole.beat[known], best)
    assert share is not None and found.whole.fraction_interval == share
    assert found.whole.value_fraction == pytest.approx(share.mean) == mine.sum() / best.sum()
    first = (whole.beat[known] < DAY_BEATS * 20_000).sum()
    assert [day.samples for day in found.days.values()] == [first, known.sum() - first]
    rules = {
        "persistence": persistence(part, 75)[known],
        "other": evaluation.predict(other, whole)[known].argmax(1),
    }
    assert found.whole.others.keys() == rules.keys()
    for name, chosen in rules.items():
        theirs = gains[rows, chosen]
        line = found.whole.others[name]
        assert line.value_bps == pytest.approx(theirs.mean())
        assert line.lead_bps == pytest.approx((mine - theirs).mean())
        assert line.lead_interval is not None
        assert line.lead_interval.low <= line.lead_bps <= line.lead_interval.high


def test_the_loss_is_that_of_training_over_labelled_rows(part: Part, small) -> None:
    (model, _), found = scored(part, small)
    assert found.whole is not None
    whole = part.take(slice(None))
    known = whole.labelled
    wanted = whole.label[known] - whole.label[known][:, 4:]
    error = ((found.values[known] - wanted) / float(model.output_scale)) ** 2
    assert found.whole.loss == pytest.approx(error.mean(), rel=1e-4)


def test_products_and_days_add_up_to_the_whole(part: Part, small) -> None:
    _, found = scored(part, small)
    assert found.whole is not None
    assert set(found.products) == {0, 1, 2} and list(found.days) == ["2024-10-03", "2024-10-04"]
    for groups in (found.products.values(), found.days.values()):
        assert sum(each.samples for each in groups) == found.whole.samples
        for field in ("value_bps", "oracle_bps", "accuracy"):
            total = sum(each.samples * getattr(each, field) for each in groups)
            whole = getattr(found.whole, field)
            assert total / found.whole.samples == pytest.approx(whole), field


def test_a_part_without_labels_has_no_score(part: Part, small) -> None:
    part.samples.label[:] = np.nan
    _, found = scored(part, small)
    assert found.whole is None and not found.products and not found.days
    assert len(found.values) == len(part)


def test_intervals_take_products_of_one_beat_as_one_result() -> None:
    rng = np.random.default_rng(0)
    gains, beats = rng.normal(0, 1, 1500), np.arange(1500)
    once = decision_bootstrap(gains, beats)
    four = decision_bootstrap(np.repeat(gains, 4), np.repeat(beats, 4))
    assert once is not None and once == pytest.approx(four)
    assert once.mean == pytest.approx(gains.mean())
    share = decision_bootstrap(0.5 * (gains + 9), beats, gains + 9)
    assert share is not None and share[:3] == pytest.approx((0.5, 0.5, 0.5))
    assert decision_bootstrap(gains, beats, gains - 9) is None
    assert decision_bootstrap(gains[:374], beats[:374]) is None
