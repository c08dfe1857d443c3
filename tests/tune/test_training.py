"""Training learns, is deterministic, and resumes as if nothing had happened."""

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from datasets.batches import Batches, Part
from datasets.samples import Samples
from market.errors import QuaverError
from tune import training
from tune.baselines import majority
from tune.checkpoint import load_state, save_state
from tune.config import OptimiserName, ScheduleName
from tune.evaluate import evaluate, predict
from tune.models import build
from tune.objectives import Objective
from tune.training import EpochMetrics


def train(train_samples, validation_samples, config, **options):
    parts = (Part.of(samples) for samples in (train_samples, validation_samples))
    return training.train(*parts, config, **options)


def _model(state):
    model = build(state.config.model, 0)
    model.load_state_dict(state.best_weights)
    return model


def assert_equal_states(found, expected) -> None:
    """Compare all of two states, weights and the optimiser's tensors bit for bit."""
    left, right = (state_bytes(state) for state in (found, expected))
    assert left == right


def state_bytes(state) -> list[tuple[str, object]]:
    def flat(path: str, value):
        if isinstance(value, dict):
            return [item for key in value for item in flat(f"{path}.{key}", value[key])]
        if isinstance(value, list | tuple):
            return [item for key, one in enumerate(value) for item in flat(f"{path}.{key}", one)]
        return [(path, value.numpy().tobytes() if isinstance(value, torch.Tensor) else value)]

    return flat("state", vars(state))


@pytest.mark.parametrize("objective", typing.get_args(Objective))
def test_learns_a_planted_signal(make_samples, small, objective) -> None:
    train_samples, held_out = make_samples(3000, seed=1), make_samples(1000, seed=2)
    config = msgspec.structs.replace(small, objective=objective, epochs=6)
    state = train(train_samples, make_samples(1000, seed=3), config)
    result = evaluate(
        predict(_model(state), held_out), held_out.label, majority([train_samples.label])
    )
    assert result.accuracy > result.majority.accuracy + 0.3
    assert result.accuracy > result.random.accuracy + 0.5
    assert result.value_fraction > 0.9


def test_mse_outputs_are_basis_points(make_samples, small) -> None:
    held_out = make_samples(1000, seed=2)
    config = msgspec.structs.replace(small, objective="mse", epochs=8)
    state = train(make_samples(3000, seed=1), make_samples(500, seed=3), config)
    values = predict(_model(state), held_out)
    # The common part of the labels is 20 bp with a deviation of 1 that no feature explains.
    assert abs(values[:, 4].mean() - 20) < 0.3
    assert np.abs(values - held_out.label).mean() < 1.5


def test_bce_outputs_are_logits_of_being_optimal(make_samples, small) -> None:
    train_samples = make_samples(3000, seed=1)
    config = msgspec.structs.replace(small, objective="bce", epochs=6)
    state = train(train_samples, make_samples(500, seed=3), config)
    chances = 1 / (1 + np.exp(-predict(_model(state), train_samples)))
    optimal = train_samples.label == train_samples.label.max(axis=1, keepdims=True)
    np.testing.assert_allclose(chances.mean(axis=0), optimal.mean(axis=0), atol=0.03)
    assert np.abs(chances - optimal).mean() < 0.1


def test_samples_without_labels_change_nothing(make_samples, small) -> None:
    samples, validation = make_samples(600), make_samples(300, seed=3)
    samples.label[::3] = np.nan
    kept = samples.select(samples.labelled)
    assert len(kept) == 400
    samples.medians[::3] = 1e9  # Would move the scaling if it were looked at.
    with_gaps, without = train(samples, validation, small), train(kept, validation, small)
    for name, tensor in without.weights.items():
        assert torch.equal(with_gaps.weights[name], tensor), name


def test_resume_is_bit_identical(make_samples, small, tmp_path: Path) -> None:
    samples, validation = make_samples(700), make_samples(300, seed=3)
    config = msgspec.structs.replace(small, epochs=4)
    seen: list = []

    def keep(metrics, state) -> None:
        seen.append(metrics)
        directory = tmp_path / str(metrics.epoch)
        directory.mkdir()
        save_state(state, directory)

    whole = train(samples, validation, config, on_epoch=keep)
    assert [metrics.epoch for metrics in seen] == [1, 2, 3, 4]
    for epoch in (1, 3):
        again: list = []
        torch.manual_seed(epoch)  # What the caller does with the generator must not matter.
        resumed = train(
            samples,
            validation,
            config,
            resume_from=tmp_path / str(epoch),
            on_epoch=lambda metrics, _, into=again: into.append(metrics),
        )
        assert again == seen[epoch:]
        assert (resumed.best_epoch, resumed.epoch) == (whole.best_epoch, 4)
        for name, tensor in whole.weights.items():
            assert torch.equal(resumed.weights[name], tensor), name
            assert torch.equal(resumed.best_weights[name], whole.best_weights[name]), name


@pytest.mark.parametrize("optimiser", typing.get_args(OptimiserName))
@pytest.mark.parametrize("schedule", typing.get_args(ScheduleName))
def test_every_optimiser_and_schedule_resumes_bit_for_bit(
    make_samples, small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser, schedule
) -> None:
    monkeypatch.setattr(training, "build", _with_dropout)  # Which draws from the generator.
    config = msgspec.structs.replace(
        small,
        optimiser=optimiser,
        schedule=schedule,
        warm_up_epochs=0.5,
        plateau_epochs=1,
        gradient_clip=0.5,
        batch_size=64,
    )
    parts = make_samples(300), make_samples(100, seed=3)  # Five batches an epoch.
    whole: list = []

    def keep(metrics, state) -> None:
        whole.append(metrics)
        directory = tmp_path / str(metrics.epoch)
        directory.mkdir()
        save_state(state, directory)

    undisturbed = train(*parts, config, on_epoch=keep)
    asked = iter([False] * 7 + [True])
    stopped = train(*parts, config, should_stop=lambda: next(asked))
    assert (stopped.epoch, stopped.batch) == (1, 2)
    (tmp_path / "stopped").mkdir()
    save_state(stopped, tmp_path / "stopped")
    for name, done in (("1", 1), ("2", 2), ("stopped", 1)):
        seen: list = []
        resumed = train(
            *parts,
            config,
            resume_from=tmp_path / name,
            on_epoch=lambda metrics, _, into=seen: into.append(metrics),
        )
        assert seen == whole[done:]
        assert_equal_states(resumed, undisturbed)


def test_bfloat16_is_for_the_steps_alone_and_resumes_bit_for_bit(
    make_samples, small, tmp_path: Path
) -> None:
    parts = make_samples(700), make_samples(300, seed=3)
    small = msgspec.structs.replace(small, objective="mse")
    config = msgspec.structs.replace(small, precision="bfloat16")
    seen: list = []
    whole = train(*parts, config, on_epoch=lambda metrics, _: seen.append(metrics))
    assert {tensor.dtype for tensor in whole.weights.values()} == {torch.float32}
    model = build(small.model, 0)
    model.load_state_dict(whole.weights)
    errors = predict(model, parts[1]) - parts[1].label
    exact = np.mean((errors / float(whole.weights["output_scale"])) ** 2)
    assert seen[-1].validation_loss == pytest.approx(exact, rel=1e-5)
    plain = train(*parts, small)
    assert not torch.equal(whole.weights["head.weight"], plain.weights["head.weight"])
    assert whole.best_value_bps == pytest.approx(plain.best_value_bps, rel=0.05)
    asked = iter([False] * 7 + [True])
    save_state(train(*parts, config, should_stop=lambda: next(asked)), tmp_path)
    assert_equal_states(train(*parts, config, resume_from=tmp_path), whole)


def _with_dropout(*args):
    model = build(*args)
    model.interaction.append(torch.nn.Dropout(0.3))
    return model


def test_a_run_asked_to_stop_goes_on_from_that_batch(make_samples, small, tmp_path: Path) -> None:
    parts = make_samples(700), make_samples(300, seed=3)  # Six batches an epoch.
    whole: list = []
    undisturbed = train(*parts, small, on_epoch=lambda metrics, _: whole.append(metrics))
    seen: list = []
    resume_from = None
    for batches in (1, 4, 9, 2):  # Asked nine times, it stops while validating.
        asked = iter([False] * (batches - 1) + [True])
        state = train(
            *parts,
            small,
            resume_from=resume_from,
            on_epoch=lambda metrics, _: seen.append(metrics),
            should_stop=lambda asked=asked: next(asked),
        )
        assert next(asked, None) is None
        assert not state.is_finished
        save_state(state, tmp_path)
        resume_from = tmp_path
    assert (state.epoch, state.batch) == (2, 1)
    resumed = train(
        *parts, small, resume_from=tmp_path, on_epoch=lambda metrics, _: seen.append(metrics)
    )
    assert resumed.is_finished
    assert seen == whole
    assert_equal_states(resumed, undisturbed)


def test_a_stop_during_validation_validates_anew(
    make_samples, small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.evaluate, "BATCH", 100)
    parts = make_samples(700), make_samples(300, seed=3)
    whole: list = []
    undisturbed = train(*parts, small, on_epoch=lambda metrics, _: whole.append(metrics))
    asked = iter([False] * 7 + [True])  # Six batches of train, the second of validation.
    state = train(*parts, small, should_stop=lambda: next(asked))
    assert (state.epoch, state.batch, state.rows) == (0, 6, 700)
    save_state(state, tmp_path)
    seen: list = []
    resumed = train(
        *parts, small, resume_from=tmp_path, on_epoch=lambda metrics, _: seen.append(metrics)
    )
    assert seen == whole
    assert_equal_states(resumed, undisturbed)


def test_best_epoch_is_the_one_with_the_most_value(make_samples, small, tmp_path: Path) -> None:
    values = []
    weights = []

    def keep(metrics, state) -> None:
        values.append(metrics.validation_value_bps)
        weights.append({name: tensor.clone() for name, tensor in state.weights.items()})

    config = msgspec.structs.replace(small, epochs=6, learning_rate=0.1)
    state = train(make_samples(700), make_samples(300, seed=3), config, on_epoch=keep)
    best = int(np.argmax(values))
    assert (state.best_epoch, state.best_value_bps) == (best + 1, values[best])
    for name, tensor in weights[best].items():
        assert torch.equal(state.best_weights[name], tensor)


@pytest.mark.parametrize("temperature_bps", [0.5, 5.0])
def test_the_distribution_is_softened_by_the_temperature_asked_for(
    make_samples, small, temperature_bps
) -> None:
    validation = make_samples(100, seed=3)
    config = msgspec.structs.replace(
        small,
        objective="cross_entropy",
        temperature_bps=temperature_bps,
        learning_rate=1e-15,
        epochs=1,
    )
    seen: list = []
    state = train(
        make_samples(200), validation, config, on_epoch=lambda metrics, _: seen.append(metrics)
    )
    powers = np.exp((validation.label - validation.label.max(axis=1)[:, None]) / temperature_bps)
    outputs = predict(_model(state), validation)
    logs = outputs - np.log(np.exp(outputs).sum(axis=1))[:, None]
    expected = -(powers / powers.sum(axis=1)[:, None] * logs).sum(axis=1).mean()
    assert seen[0].validation_loss == pytest.approx(expected, rel=1e-5)


def test_of_equal_epochs_the_first_is_the_best(make_samples, small) -> None:
    still = msgspec.structs.replace(small, learning_rate=1e-15)
    state = train(make_samples(200), make_samples(100, seed=3), still)
    assert (state.epoch, state.best_epoch) == (3, 1)


def test_each_epoch_has_its_own_order(make_samples, small, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []

    class Watched(Batches):
        def epoch(self, epoch: int, from_batch: int = 0) -> Iterator[Samples]:
            found = list(super().epoch(epoch, from_batch))
            orders.append(tuple(np.concatenate([batch.beat for batch in found]).tolist()))
            return iter(found)

    monkeypatch.setattr(training, "Batches", Watched)
    train(make_samples(700), make_samples(300, seed=3), small)
    assert len(orders) == len(set(orders)) == 1 + small.epochs  # The first is for the scaling.
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


def _flat(metrics: EpochMetrics) -> dict[str, float]:
    fields = msgspec.structs.asdict(metrics)
    look = fields.pop("history")[-1]
    return fields | msgspec.structs.asdict(look)


def test_validation_in_several_batches_is_that_of_all_rows(
    make_samples, small, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for batch in (1000, 64):
        monkeypatch.setattr(training.evaluate, "BATCH", batch)
        train(
            make_samples(700),
            make_samples(300, seed=3),
            small,
            on_epoch=lambda metrics, _: found.append(_flat(metrics)),
        )
    assert len(found) == 6
    for whole, in_parts in zip(found[:3], found[3:], strict=True):
        assert in_parts == pytest.approx(whole, rel=1e-5)


def test_training_leaves_the_callers_generator_alone(make_samples, small) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(make_samples(200), make_samples(100), msgspec.structs.replace(small, epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_training_ends_when_patience_does_and_resumes_the_same(
    make_samples, small, tmp_path: Path
) -> None:
    parts = make_samples(300), make_samples(200, seed=3)
    config = msgspec.structs.replace(small, epochs=30, learning_rate=0.1)
    values: list = []
    train(*parts, config, on_epoch=lambda metrics, _: values.append(metrics.validation_value_bps))
    best = next(at for at in range(28) if max(values[: at + 3]) == max(values[: at + 1]))
    # It is the first epoch that two no better ones follow.
    patient = msgspec.structs.replace(config, patience_epochs=2)
    seen: list = []

    def keep(metrics, state) -> None:
        seen.append(metrics)
        assert metrics.is_last == state.is_finished
        directory = tmp_path / str(metrics.epoch)
        directory.mkdir()
        save_state(state, directory)

    state = train(*parts, patient, on_epoch=keep)
    assert (state.epoch, state.best_epoch) == (best + 3, best + 1)
    assert state.is_finished
    assert [metrics.is_last for metrics in seen] == [False] * (best + 2) + [True]
    assert [metrics.validation_value_bps for metrics in seen] == values[: best + 3]
    for epoch in (1, best + 3):
        resumed = train(*parts, patient, resume_from=tmp_path / str(epoch))
        assert_equal_states(resumed, state)


def test_learning_rate_and_gradient_norm_are_told(make_samples, small) -> None:
    parts = make_samples(300), make_samples(200, seed=3)
    seen: list = []
    config = msgspec.structs.replace(small, schedule="cosine", epochs=2, optimiser="sgd")
    train(*parts, config, on_epoch=lambda metrics, _: seen.append(metrics))
    assert [metrics.learning_rate for metrics in seen] == pytest.approx([5e-3, 0.0])
    # A step in the direction of the gradient lowers the loss by about rate times norm squared.
    assert all(0.01 < metrics.gradient_norm < 10 for metrics in seen)
    one_step = msgspec.structs.replace(
        small, batch_size=300, epochs=1, optimiser="sgd", momentum=0.0, weight_decay=0.0
    )
    one: list = []
    after = train(*parts, one_step, on_epoch=lambda metrics, _: one.append(metrics))
    torch.manual_seed(one_step.seed)
    before = build(one_step.model, 0).state_dict()
    moved = [(after.weights[name] - before[name]).flatten() for name in _learnt(before)]
    length = float(torch.cat(moved).norm()) / one_step.learning_rate
    assert one[0].gradient_norm == pytest.approx(length, rel=1e-3)


def _learnt(weights) -> list[str]:
    return [name for name in weights if not name.endswith(("_mean", "_scale"))]


def test_plateau_goes_by_the_validation_value_captured_and_remembers_it(
    make_samples, small, tmp_path: Path
) -> None:
    parts = make_samples(300), make_samples(200, seed=3)
    config = msgspec.structs.replace(
        small, schedule="plateau", plateau_epochs=2, plateau_factor=0.5, epochs=12
    )
    seen: list = []

    def keep(metrics, state) -> None:
        seen.append(metrics)
        directory = tmp_path / str(metrics.epoch)
        directory.mkdir()
        save_state(state, directory)

    whole = train(*parts, config, on_epoch=keep)
    rate, waited = config.learning_rate, 0
    for metrics in seen:
        assert metrics.learning_rate == pytest.approx(rate)
        waited = 0 if metrics.best_epoch == metrics.epoch else waited + 1
        if waited == 2:
            rate, waited = rate / 2, 0
    assert rate < config.learning_rate
    for epoch in range(1, 12):
        assert_equal_states(train(*parts, config, resume_from=tmp_path / str(epoch)), whole)


def test_a_checkpoint_of_other_samples_products_or_features_is_refused(
    make_samples, small, tmp_path: Path
) -> None:
    samples, validation = make_samples(200), make_samples(100, seed=3)
    config = msgspec.structs.replace(small, epochs=1)
    save_state(train(samples, validation, config), tmp_path)
    labels, products, features = (make_samples(200) for _ in range(3))
    labels.label[7, 3] += 1e-9
    products.product[7] = (products.product[7] + 1) % 3
    features.bids[:] = features.asks
    wider = dataclasses.replace(make_samples(200), signals=np.ones((200, 2)))
    for other in (labels, products, features, wider, make_samples(199)):
        with pytest.raises(QuaverError, match="of other samples or another split"):
            train(other, validation, config, resume_from=tmp_path)
    with pytest.raises(QuaverError, match="of other samples or another split"):
        train(validation, samples, config, resume_from=tmp_path)
    more = msgspec.structs.replace(config.model, products=4)
    with pytest.raises(QuaverError, match="another configuration: other model;"):
        train(
            samples,
            validation,
            msgspec.structs.replace(config, model=more),
            resume_from=tmp_path,
        )
    assert train(samples, validation, config, resume_from=tmp_path).epoch == 1


def test_a_checkpoint_that_another_program_wrote_is_refused_with_its_commit(
    make_samples, small, tmp_path: Path
) -> None:
    parts = make_samples(200), make_samples(100, seed=3)
    state = train(*parts, msgspec.structs.replace(small, epochs=1))
    state.git_commit = "abc"
    for field, key in (("weights", "head.bias"), ("optimiser", "per_batch")):
        kept = getattr(state, field)
        setattr(state, field, {name: kept[name] for name in kept if name != key})
        save_state(state, tmp_path)
        with pytest.raises(QuaverError, match=rf"another program \(commit abc\): .*{key}"):
            train(*parts, small, resume_from=tmp_path)
        setattr(state, field, kept)


def test_epochs_may_be_added_unless_the_schedule_counts_them(
    make_samples, small, tmp_path: Path
) -> None:
    parts = make_samples(200), make_samples(100, seed=3)
    for schedule in typing.get_args(ScheduleName):
        config = msgspec.structs.replace(small, schedule=schedule, epochs=2)
        save_state(train(*parts, config), tmp_path)
        longer = msgspec.structs.replace(config, epochs=3)
        if schedule in ("cosine", "one_cycle"):
            with pytest.raises(QuaverError, match="another configuration: other epochs;"):
                train(*parts, longer, resume_from=tmp_path)
        else:
            resumed = train(*parts, longer, resume_from=tmp_path)
            assert_equal_states(resumed, train(*parts, longer))


def test_labels_that_are_no_numbers_are_refused_before_training(make_samples, small) -> None:
    def told(*_) -> bool:
        raise AssertionError("training began")

    good = Part.of(make_samples(200))
    for value in (np.nan, np.inf):
        samples = make_samples(200)
        samples.label[[5, 6], 2] = value
        bad = Part(samples, np.arange(200))
        for parts, name in (((bad, good), "train"), ((good, bad), "validation")):
            with pytest.raises(QuaverError, match=f"2 of 200 {name} samples have labels that are"):
                training.train(*parts, small, should_stop=told)


def test_a_state_names_the_commit_of_the_program(make_samples, small) -> None:
    parts = make_samples(200), make_samples(100, seed=3)
    found = train(*parts, msgspec.structs.replace(small, epochs=1)).git_commit
    assert re.fullmatch(r"unknown|[0-9a-f]{40}(-dirty)?", found)


def test_refusals(make_samples, small, tmp_path: Path) -> None:
    samples = make_samples(200)
    unlabelled = make_samples(200)
    unlabelled.label[:] = np.nan
    with pytest.raises(QuaverError, match="no labelled validation"):
        train(samples, unlabelled, small)
    foreign = make_samples(200)
    foreign.product[:] = 3
    with pytest.raises(QuaverError, match="knows 3 products"):
        train(foreign, samples, small)
    broken = make_samples(200)
    broken.medians[0, 0] = np.nan
    with pytest.raises(QuaverError, match="not finite in epoch 1"):
        train(broken, samples, small)
    state = train(samples, samples, msgspec.structs.replace(small, epochs=1))
    save_state(state, tmp_path)
    other = msgspec.structs.replace(small, learning_rate=1e-3)
    with pytest.raises(QuaverError, match="another configuration"):
        train(samples, samples, other, resume_from=tmp_path)


def test_damaged_states_are_refused(make_samples, small, tmp_path: Path) -> None:
    with pytest.raises(QuaverError, match="there is no"):
        load_state(tmp_path)
    samples = make_samples(200)
    save_state(train(samples, samples, msgspec.structs.replace(small, epochs=1)), tmp_path)
    assert load_state(tmp_path).epoch == 1
    path = tmp_path / "state.pt"
    content = path.read_bytes()
    for damaged in (b"", b"garbage", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(QuaverError, match="damaged"):
            load_state(tmp_path)
