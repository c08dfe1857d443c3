"""Schedules against their formulas, Muon's share of the parameters, clipping, and what is kept."""

import math

import msgspec
import pytest
import torch
from torch import nn

from tune.config import TrainConfig
from tune.models import build
from tune.optimisers import Stepper

EPOCHS, EPOCH_BATCHES = 4, 10
TOTAL = EPOCHS * EPOCH_BATCHES
RATE = 0.1


class Tiny(nn.Module):
    """A matrix, an embedding and a vector; every gradient is what `pull` makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(3, 2))
        self.table = nn.Embedding(4, 2)
        self.vector = nn.Parameter(torch.zeros(2))

    def pull(self, size: float = 1.0) -> None:
        for parameter in self.parameters():
            parameter.grad = torch.full_like(parameter, size)


def _config(**changes) -> TrainConfig:
    base = TrainConfig(epochs=EPOCHS, learning_rate=RATE, optimiser="sgd", momentum=0.0)
    return msgspec.structs.replace(base, **changes)


def _rates(config: TrainConfig, values: list[float]) -> list[float]:
    """Return the rate of each step of a run whose epochs capture `values`."""
    model = Tiny()
    stepper = Stepper(model, config, EPOCH_BATCHES)
    rates = []
    for value in values:
        for _ in range(EPOCH_BATCHES):
            rates.append(stepper.learning_rate)
            model.pull()
            stepper.step()
        stepper.end_epoch(value)
    return rates


def _warm_up(epochs: float) -> list[float]:
    rise = round(epochs * EPOCH_BATCHES)
    return [RATE * (step + 1) / (rise + 1) for step in range(rise)]


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd", "muon"])
@pytest.mark.parametrize("warm_up_epochs", [0.0, 0.5, 1.0])
def test_constant_and_cosine_with_a_warm_up_in_a_line(optimiser, warm_up_epochs) -> None:
    values = [0.0] * EPOCHS
    start = _warm_up(warm_up_epochs)
    left = TOTAL - len(start)
    config = _config(optimiser=optimiser, warm_up_epochs=warm_up_epochs)
    assert _rates(config, values) == pytest.approx(start + [RATE] * left)
    cosine = msgspec.structs.replace(config, schedule="cosine")
    falls = [RATE * (1 + math.cos(math.pi * step / left)) / 2 for step in range(left)]
    assert _rates(cosine, values) == pytest.approx(start + falls)


def test_one_cycle_rises_to_the_rate_during_the_warm_up_and_falls_to_nothing() -> None:
    rates = _rates(_config(schedule="one_cycle", warm_up_epochs=1.5), [0.0] * EPOCHS)
    top = rates.index(max(rates))
    assert rates[top] == pytest.approx(RATE)
    assert abs(top - 15) <= 1
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] == pytest.approx(RATE / 25)
    assert rates[-1] < RATE / 1e5
    at_once = _rates(_config(schedule="one_cycle"), [0.0] * EPOCHS)
    assert at_once[0] == pytest.approx(RATE, rel=0.01)
    assert at_once == sorted(at_once, reverse=True)


def test_plateau_cuts_the_rate_after_so_many_epochs_without_a_higher_value() -> None:
    config = _config(schedule="plateau", plateau_epochs=2, plateau_factor=0.1)
    values = [1.0, 1.0, 1.5, 1.5, 1.4, 0.0, 0.0, 2.0, 0.0]
    by_epoch = _rates(config, values)[::EPOCH_BATCHES]
    # Epochs 2; 4 and 5, then 6 and 7 are without a higher value.
    assert by_epoch == pytest.approx([RATE] * 5 + [RATE * 0.1] * 2 + [RATE * 0.01] * 2)


def test_plateau_and_warm_up_go_together() -> None:
    config = _config(schedule="plateau", plateau_epochs=1, warm_up_epochs=1.0)
    rates = _rates(config, [1.0, 0.0, 0.0])
    assert rates == pytest.approx(_warm_up(1.0) + [RATE] * 10 + [RATE / 2] * 10)


def test_muon_moves_matrices_and_adamw_embeddings_and_vectors() -> None:
    model = Tiny()
    groups = [
        [id(p) for group in optimiser.param_groups for p in group["params"]]
        for optimiser in Stepper(model, _config(optimiser="muon"), EPOCH_BATCHES)._optimisers
    ]
    assert groups == [[id(model.matrix)], [id(model.vector), id(model.table.weight)]]


@pytest.mark.parametrize(
    ("optimiser", "by_hand"),
    [
        # Plain SGD with momentum 0.5 and no decay: the second step is one and a half.
        ("sgd", -RATE * (1 + 1.5)),
        # Adam's first steps along a constant gradient are all of the rate.
        ("adam", -2 * RATE),
        ("adamw", -2 * RATE),
        ("muon", -2 * RATE),
    ],
)
def test_two_steps_by_hand(optimiser, by_hand) -> None:
    model = Tiny()
    config = _config(optimiser=optimiser, momentum=0.5, weight_decay=0.0)
    stepper = Stepper(model, config, EPOCH_BATCHES)
    for _ in range(2):
        model.pull()
        stepper.step()
    assert model.vector.tolist() == pytest.approx([by_hand] * 2, rel=1e-5)


def test_decay_is_of_the_weights_or_of_the_loss() -> None:
    for optimiser, first_step in (
        ("adamw", -RATE * 0.01 - RATE),  # The weight itself shrinks, besides the step.
        ("adam", -RATE),  # The decay is in the gradient, whose size Adam divides by.
        ("sgd", -RATE * (1 + 0.01)),
    ):
        model = Tiny()
        config = _config(optimiser=optimiser, weight_decay=0.01)
        model.pull()
        Stepper(model, config, EPOCH_BATCHES).step()
        assert model.matrix[0, 0].item() == pytest.approx(1 + first_step, rel=1e-5)


@pytest.mark.parametrize("optimiser", ["sgd", "muon"])
def test_long_gradients_are_cut_together_and_short_ones_left(optimiser) -> None:
    model = Tiny()
    stepper = Stepper(model, _config(optimiser=optimiser, gradient_clip=2.0), EPOCH_BATCHES)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    model.pull(3.0)
    assert stepper.step() == pytest.approx(3 * math.sqrt(numbers))  # Before it is cut.
    cut = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert float(cut.norm()) == pytest.approx(2.0, rel=1e-5)
    model.pull(0.1)
    stepper.step()
    assert all(torch.equal(p.grad, torch.full_like(p, 0.1)) for p in model.parameters())


def test_state_is_read_without_running_code(small, tmp_path) -> None:
    for optimiser in ("adam", "adamw", "sgd", "muon"):
        for schedule in ("constant", "cosine", "one_cycle", "plateau"):
            config = _config(optimiser=optimiser, schedule=schedule, warm_up_epochs=0.5)
            stepper = Stepper(build(small.model, 0), config, EPOCH_BATCHES)
            torch.save(stepper.state_dict(), tmp_path / "state.pt")
            stepper.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_a_warm_up_that_never_ends_is_refused() -> None:
    with pytest.raises(
        msgspec.ValidationError, match=r"warm_up_epochs \(3.0\) must be less than epochs \(3\)"
    ):
        msgspec.convert({"epochs": 3, "warm_up_epochs": 3.0}, TrainConfig)


def test_a_cycle_may_rise_within_one_batch() -> None:
    config = _config(schedule="one_cycle", warm_up_epochs=1 / EPOCH_BATCHES)
    rates = _rates(config, [0.0] * EPOCHS)
    assert max(rates) == pytest.approx(RATE, rel=0.01)
