"""`quaver health`: the health of a recording as a table that fits the terminal, or as JSON."""

import math
from datetime import UTC, datetime

import msgspec
from rich.console import Console
from rich.table import Table

from actors.raw import DAY_NS, day_start_ns
from actors.store import Store
from cluster.config import Config
from cluster.progress import Display
from datasets.health import ALL, DayHealth, health_of, total

_WIDE = 106  # Columns from which times and seconds fit too.
_FIGURES = ("cover", "gaps", "lost s", "dup", "bad", "tdup", "holes", "p50ms", "p99", "max")
_LEGEND = (
    "dup, bad: repeated and corrupt frames of its connection; tdup, holes: repeated and missing "
    "trades; p50, p99, max: from the venue's clock to ours"
)


def run_health(
    store: Store,
    config: Config,
    products: str | None,
    days: str | None,
    latency: bool,
    as_json: bool,
    console: Console,
) -> bool:
    """Show the health of a root; return whether nothing is worse than the configured floor."""
    with Display(Console(stderr=True)) as display, display.stage("health") as stage:
        found = health_of(
            store,
            config.health,
            products,
            days,
            latency,
            lambda done, of: stage.update(done, of, f"{done} of {of} products"),
        )
    whole = total(found)
    fine = not whole.faults
    if as_json:
        said = {"root": store.root, "fine": fine, "days": found, "total": whole}
        console.file.write(msgspec.json.format(msgspec.json.encode(said), indent=1).decode() + "\n")
        return fine
    print_health(found, whole, console)
    return fine


def print_health(found: list[DayHealth], whole: DayHealth, console: Console) -> None:
    """Print a line per product and day, then what each lost to what."""
    wide = console.width >= _WIDE
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for name in ("product", "day (UTC)", *(("first", "last") if wide else ())):
        table.add_column(name, no_wrap=True)
    for name in (*(("covered s",) if wide else ()), *_FIGURES):
        table.add_column(name, justify="right", no_wrap=True)
    for day in found:
        table.add_row(*_row(day, wide), style="red" if day.faults else "")
    table.add_row(*_row(whole, wide), style="bold")
    console.print(table)
    console.print(_LEGEND, style="dim", highlight=False)
    _print_lines(console, "lost to", [(day, _lost_to(day)) for day in found if day.lost])
    worse = [(day, "; ".join(day.faults)) for day in found if day.faults]
    _print_lines(console, "worse than the floor (health.* in the configuration)", worse)
    said = f"{len(worse)} of {len(found)} lines are" if worse else "nothing is"
    console.print(
        f"{said} worse than the floor; frames came from {', '.join(whole.sources) or 'nowhere'}",
        style="bold red" if worse else "green",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _print_lines(console: Console, title: str, lines: list[tuple[DayHealth, str]]) -> None:
    if lines:
        console.print(f"\n{title}:", style="dim", highlight=False)
    for day, said in lines:
        days = day.day if day.day == day.until_day else f"{day.day} to {day.until_day}"
        text = f"{day.product:<10} {days} {said}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _row(day: DayHealth, wide: bool) -> list[str]:
    late, is_sum = day.latency_ms, day.product == ALL
    figures = [
        f"{math.floor(day.coverage * 10_000) / 100:.2f}%",  # 100 % is said of nothing less.
        _short(day.gaps),
        _short(day.expected_s - day.covered_s),
        # Those of a connection have no sum over products.
        "" if is_sum else _short(day.duplicates),
        "" if is_sum else _short(day.corrupt),
        _short(day.trade_duplicates),
        _short(day.trade_holes),
        *([_short(x) for x in (late.p50, late.p99, late.max)] if late else ["", "", ""]),
    ]
    missing = (day_start_ns(day.until_day) - day_start_ns(day.day)) // DAY_NS + 1
    row = [day.product, "" if is_sum else day.day if missing == 1 else f"{missing:,} days"]
    if wide:
        row += ["", ""] if is_sum else [_clock(day.first_ns), _clock(day.last_ns)]
        row.append(f"{day.covered_s:,.0f}")
    return [*row, *figures]


def _lost_to(day: DayHealth) -> str:
    longest = sorted(day.lost.items(), key=lambda item: -item[1].seconds)
    return ", ".join(
        f"{reason} {f'{lost.gaps}x ' if lost.gaps > 1 else ''}{_short(lost.seconds)} s"
        for reason, lost in longest
    )


def _clock(ns: int | None) -> str:
    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%H:%M:%S}" if ns is not None else ""


def _short(number: float) -> str:
    """A number in five columns."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= 10 * size:
            return f"{number / size:.0f}{unit}"
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"
