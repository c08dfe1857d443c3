"""The report of a run: one self-contained page, and the same numbers as JSON beside it.

Every score stands beside its zero-skill line, a section without data says so, and the page ends
with what it does not show. The page loads nothing from anywhere: plots are inlined.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import jinja2
import msgspec

from market.actions import Action
from sim.baselines import Comparison, MeanExcess
from sim.plots import BEAT_S, plots, usd
from tune.bootstrap import BLOCK_BEATS, Interval
from tune.evaluate import Baseline, Evaluation
from tune.looks import Looks
from tune.scoring import GroupScore
from tune.significance import Significance, in_words

FEW_BLOCKS = 30  # Fewer are called few.
CURVES = ("beats", "equity_usd", "hold_usd", "deposited_usd")


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """What the run was judged on: the test split, or the whole of what was replayed."""

    source: str
    simulated: bool
    products: list[str]
    first_beat: int
    last_beat: int
    windows: int  # Over all products.
    valid_windows: int
    samples: int
    labelled: int


class ProductScore(msgspec.Struct, frozen=True, kw_only=True):
    """One product's part of the score; None where it has no labelled sample."""

    product: str
    windows: int
    valid_windows: int
    samples: int
    score: GroupScore | None = None


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of a sweep; metrics are those of the validation split."""

    name: str
    params: dict[str, Any]
    metrics: dict[str, float]


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """All variants tried, failed and stopped ones included, and the one that was kept."""

    metric: str
    mode: str  # "max" or "min"
    winner: str
    trials: list[Trial]
    significance: Significance | None  # None where validation is too short.


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """Paper trading on a live feed; money in USD, measured as in the backtest."""

    simulated: bool
    beats: int
    predictions: int
    orders: int
    taker_fills: int
    maker_fills: int
    blocked: dict[str, int]
    positions: dict[str, float]  # Net units bought since the start.
    equity_usd: float
    profit_usd: float
    excess_usd: float
    latency_ms: dict[str, float]  # From window to decision, by percentile, "p50" and so on.


class ReportData(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a report says; None where a part was not run."""

    name: str
    created: str
    data: Data
    score: Evaluation | None = None  # On test.
    validation: Evaluation | None = None
    looks: Looks | None = None  # At this test split.
    backtest: Comparison | None = None
    sweep: Sweep | None = None
    live: Live | None = None
    products: list[ProductScore] = []
    days: dict[str, GroupScore] = {}
    notes: list[str] = []


def metrics(report: ReportData) -> bytes:
    """Return the numbers of a report as JSON, without the curves."""
    plain = msgspec.to_builtins(report, enc_hook=lambda _: None)
    if report.backtest is not None:
        for run in ("model", "buy_and_hold", "oracle"):
            for curve in CURVES:
                del plain["backtest"][run][curve]
    return msgspec.json.format(msgspec.json.encode(plain), indent=2)


def render(report: ReportData) -> str:
    """Return the page as HTML."""
    env = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.filters |= FILTERS
    template = env.from_string(files("sim").joinpath("report.html.jinja").read_text("utf-8"))
    return template.render(
        r=report,
        verdict=verdict(report),
        limits=not_shown(report),
        plots=plots(report.backtest) if report.backtest else [],
        actions=[action.name for action in Action],
        shades=_shades(report.score) if report.score else [],
        few_blocks=FEW_BLOCKS,
        block_beats=BLOCK_BEATS,
        period=_period(report.data),
    )


def verdict(report: ReportData) -> list[str]:
    """Return what the numbers say in words, one sentence each, the disappointing ones too."""
    said = []
    if report.score is not None:
        score = report.score
        blind = (score.majority, score.random, score.no_op)
        points = 100 * (score.accuracy - max(rule.accuracy for rule in blind))
        rule = max(blind, key=lambda each: each.value_bps)
        extra = score.value_bps - rule.value_bps
        above, more = "above" if points >= 0 else "below", "more" if extra >= 0 else "less"
        said += [
            f"Its share of right choices is {abs(points):.1f} percentage points {above} that of "
            "the best rule that looks at nothing.",
            f"A decision earns {abs(extra):.2f} bp {more} than under the best such rule; "
            f"{_sure(rule.lead_interval)}.",
            *_beaten(score),
        ]
    if report.backtest is not None:
        said.append(_earned(report.backtest))
    if report.looks is not None:
        said.append(_looked(report.looks))
    return said or ["Nothing was scored and nothing was traded in this run."]


def _beaten(score: Evaluation) -> list[str]:
    """Say how the model stands beside the best of persistence and the trained baselines."""
    if not score.others:
        return []
    name, best = max(score.others.items(), key=lambda each: each[1].value_bps)
    more = "more" if best.lead_bps >= 0 else "less"
    said = f"It earns {abs(best.lead_bps):.2f} bp a decision {more} than {name}, the best of "
    said += f"{', '.join(score.others)}"
    return [f"{said}; {_sure(best.lead_interval)}."]


def _sure(interval: Interval | MeanExcess | None) -> str:
    if interval is None:
        return "there are too few beats to tell this from chance"
    if interval.includes_zero:
        return "this cannot be told from chance (the 95 % interval includes zero)"
    return "the 95 % interval does not include zero"


def _looked(looks: Looks) -> str:
    if looks.looks == 1:
        return "This is the only look at this test split so far."
    return (
        f"There were {looks.looks} looks at this test split so far, of other models or with other "
        f"trading settings, {looks.of_this_sweep} of this sweep; this one was number "
        f"{looks.number}. The more there are, the less a good figure of one of them says."
    )


def _earned(study: Comparison) -> str:
    excess, interval = study.model.excess_usd, study.significance
    if not study.model.orders:
        return "The model sent no order, so it earned exactly what holding the reserves earns."
    earned = f"After fees it {'gained' if excess > 0 else 'lost'} {usd(abs(excess), '')}"
    earned += " against holding the same reserves"
    return f"{earned}; {_sure(interval)}."


def not_shown(report: ReportData) -> list[str]:
    """Return what a reader must not conclude from the page."""
    points = []
    if report.data.simulated:
        points.append(
            "Anything about a real market: the data comes from a synthetic one, with its signal "
            "planted. It shows that the parts work together."
        )
    hours = (report.data.last_beat - report.data.first_beat + 1) * BEAT_S / 3600
    points += [
        f"Other days: this is {hours:.1f} hours of one market, and one regime is not the next.",
        "Our own impact: orders are taken to change nothing, and to find one unit at the touch.",
        "The queue: a resting order fills whole once the price trades through it or the other side "
        "reaches it. Where it stood in the queue is guessed, not known.",
        "Delay: an order is taken to be at the venue the moment the beat ends. No time is lost to "
        "inference or network, and the venue rejects nothing.",
        "The fee we would pay: 5/0 bp is the venue's highest-volume tier; a small account pays up "
        "to 120/60 (see the fee table).",
    ]
    if report.sweep is not None:
        points.append(
            "That the winner is good: it is the best epoch of the best of "
            f"{len(report.sweep.trials)} variants, and the best of many looks better than it is. "
            "Its validation score is not evidence."
        )
    if report.looks is not None and report.looks.looks > 1:
        points.append(
            f"An unseen test: there were {report.looks.looks} looks at it, and who keeps the best "
            "has chosen on it."
        )
    if report.backtest is not None:
        interval = report.backtest.significance
        if interval is None:
            points.append(f"Significance: there are too few blocks of {BLOCK_BEATS} beats.")
        elif interval.blocks < FEW_BLOCKS:
            points.append(
                f"A dependable interval: it rests on {interval.blocks} blocks of {BLOCK_BEATS} "
                "beats."
            )
    return points + report.notes


def _shades(score: Evaluation) -> list[list[float]]:
    """Share of each cell in its row: what was optimal when this was chosen."""
    return [[count / max(sum(row), 1) for count in row] for row in score.confusion]


def _period(data: Data) -> str:
    first, last = (
        datetime.fromtimestamp(beat * BEAT_S, UTC) for beat in (data.first_beat, data.last_beat + 1)
    )
    same_day = first.date() == last.date()
    return f"{first:%Y-%m-%d %H:%M} to {last:{'%H:%M' if same_day else '%Y-%m-%d %H:%M'}} UTC"


def _signed(value: float, digits: int = 2) -> str:
    text = f"{value:+,.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _short(value: object) -> str:
    """A parameter or metric as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _or_dash(show: Callable[..., str]) -> Callable[..., str]:
    return lambda value, *args: "\N{EN DASH}" if value is None else show(value, *args)


def lines(score: Evaluation) -> dict[str, Baseline]:
    """Return what a score stands beside, by name, the rules that look at nothing first."""
    blind = {"majority": score.majority, "random": score.random, "always NO_OP": score.no_op}
    return blind | score.others


def _between(interval: Interval | None, digits: int = 2) -> str:
    if interval is None:
        return "too few beats"
    return f"{_signed(interval.low, digits)} to {_signed(interval.high, digits)}"


FILTERS: dict[str, Callable[..., str]] = {
    "usd": _or_dash(usd),
    "signed": _or_dash(_signed),
    "pct": _or_dash(lambda share: f"{100 * share:.1f}\N{NO-BREAK SPACE}%"),
    "count": _or_dash(lambda number: f"{number:,}"),
    "short": _or_dash(_short),
    "between": _between,
    "in_words": in_words,
    "lines": lines,
}
