"""What a sweep has found: its trials, best first, and whether the best is more than luck."""

from rich.console import Console
from rich.table import Table

from tune.results import SweepResult, TrialResult
from tune.significance import in_words


def print_sweep(result: SweepResult, console: Console) -> None:
    """Print the table of trials, what failed, and what the winner is worth."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("trial", overflow="fold")
    for heading in ("bp a decision", "best epoch", "epochs", "loss", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for trial in sorted(result.trials, key=_value, reverse=True):
        table.add_row(*_cells(trial), _remark(trial, result.best), style=_style(trial, result.best))
    console.print(table, highlight=False)
    for trial in result.trials:
        if trial.error:
            console.print(
                f"{trial.name} failed: {trial.error}; --resume tries it again",
                style="red", highlight=False, soft_wrap=True, markup=False,
            )  # fmt: skip
    said = in_words(result.significance, len(result.trials))
    console.print(said, highlight=False, soft_wrap=True)


def _value(trial: TrialResult) -> float:
    return trial.metrics.best_value_bps if trial.metrics and not trial.error else float("-inf")


def _cells(trial: TrialResult) -> tuple[str, ...]:
    metrics = trial.metrics
    if metrics is None:
        return (trial.name, "", "", "0", "", "")
    return (
        trial.name,
        f"{metrics.best_value_bps:.3f}",
        str(metrics.best_epoch),
        str(metrics.epoch),
        f"{metrics.validation_loss:.4g}",
        f"{trial.seconds:.0f}",
    )


def _remark(trial: TrialResult, best: str) -> str:
    if trial.error:
        return "failed"
    if trial.name == best:
        return "exported"
    return "stopped early" if trial.stopped_early else ""


def _style(trial: TrialResult, best: str) -> str:
    if trial.name == best:
        return "bold"
    return "dim" if trial.error or trial.stopped_early else ""
