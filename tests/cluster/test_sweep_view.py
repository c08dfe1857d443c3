"""What a sweep prints at its end: best first, what failed and why, and what the winner is worth."""

import io

import msgspec
from rich.console import Console

from cluster.sweep_view import print_sweep
from tune.results import SweepResult, TrialResult
from tune.significance import Look, Significance, in_words
from tune.training import EpochMetrics

FOUND = Significance(
    trials=4,
    looks=23,
    blocks=400,
    effective_blocks=310.2,
    sharpe=0.31,
    lucky_sharpe=0.104,
    deflated_sharpe=0.9996,
    p_value=1.2e-5,
)


def row(name: str, value_bps: float | None, epochs: int = 8, **more: object) -> TrialResult:
    metrics = value_bps is not None and EpochMetrics(
        epoch=epochs,
        train_loss=0.5,
        validation_loss=0.25,
        validation_accuracy=0.5,
        validation_value_bps=0.0,
        validation_value_fraction=0.1,
        best_value_bps=value_bps,
        best_epoch=2,
        learning_rate=0.001,
        gradient_norm=1.0,
        is_last=True,
        history=(Look(0.0, 9, 0.0, 0.0, 3.0, 0.0),),
    )
    fields = {"stopped_early": False, "seconds": 12.3} | more
    return TrialResult(name=name, params={}, metrics=metrics or None, **fields)


RESULT = SweepResult(
    name="wide",
    best="02_c",
    model_path="runs/wide/best/model.safetensors",
    significance=FOUND,
    trials=(
        row("00_a", 0.1, 3, stopped_early=True),
        row("01_b", 0.9, 5, error="the loss is not finite; see x/error.txt"),
        row("02_c", 0.7),
        row("03_d", None, error="No space left on device; see y/error.txt"),
    ),
)


def printed(result: SweepResult) -> list[str]:
    out = io.StringIO()
    print_sweep(result, Console(file=out, width=120))
    return out.getvalue().splitlines()


def test_trials_are_listed_best_first_with_what_became_of_them() -> None:
    lines = printed(RESULT)
    assert [line.split()[0] for line in lines[1:5]] == ["02_c", "00_a", "01_b", "03_d"]
    assert lines[1].split() == ["02_c", "0.700", "2", "8", "0.25", "12", "exported"]
    assert lines[2].split() == ["00_a", "0.100", "2", "3", "0.25", "12", "stopped", "early"]
    assert lines[3].split()[-1] == "failed" and lines[4].split() == ["03_d", "0", "failed"]
    assert lines[5] == (
        "01_b failed: the loss is not finite; see x/error.txt; --resume tries it again"
    )
    assert "No space left on device" in lines[6]


def test_the_winner_is_told_from_luck() -> None:
    said = in_words(FOUND, 4)
    assert said.startswith("best of 4 trials and 23 epochs") and said.endswith(": more than luck")
    assert "310 independent blocks" in said
    lucky = msgspec.structs.replace(FOUND, deflated_sharpe=0.94)
    assert in_words(lucky, 4).endswith(": this may be luck")
    assert "too short" in in_words(None, 4)
