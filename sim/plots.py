"""The curves of a backtest as pictures that a page can hold: inlined, the same bytes every time."""

import base64
import io
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from market.windows import BEAT_NS
from sim.backtest import BacktestResult
from sim.baselines import Comparison

BEAT_S = BEAT_NS // 1_000_000_000
DWARFS = 3.0  # An oracle this many times above everything else gets a plot of its own.
PLOT_POINTS = 1000


class Plot(NamedTuple):
    """A picture, what is said below it and what a reader who cannot see it is told."""

    uri: str
    caption: str
    alt: str


class Line(NamedTuple):
    """A curve of a plot."""

    name: str
    usd: NDArray[np.float64]
    style: dict[str, Any]


MODEL = {"color": "#0060a8", "lw": 2.0, "zorder": 3}
BUY_AND_HOLD = {"color": "#c26a00", "lw": 1.6, "ls": (0, (5, 2))}
HOLD = {"color": "#555555", "lw": 1.4, "ls": (0, (1.5, 1.5))}
ORACLE = {"color": "#007a5a", "lw": 1.6, "ls": (0, (6, 2, 1.5, 2))}


def plots(study: Comparison) -> list[Plot]:
    """Return equity and excess curves; the oracle apart if it dwarfs the others."""
    model, market, oracle = study.model, study.buy_and_hold, study.oracle
    zero = np.zeros(len(model.beats))
    equity = [
        Line("hold reserves", model.hold_usd - model.deposited_usd, HOLD),
        Line("buy and hold", market.equity_usd - market.deposited_usd, BUY_AND_HOLD),
        Line("model", model.equity_usd - model.deposited_usd, MODEL),
    ]
    excess = [
        Line("hold reserves", zero, HOLD),
        Line("buy and hold", _excess(market), BUY_AND_HOLD),
        Line("model", _excess(model), MODEL),
    ]
    best = Line("label oracle", _excess(oracle), ORACLE)
    tallest = max(float(np.abs(line.usd).max()) for line in excess)
    apart = float(np.abs(best.usd).max()) > DWARFS * tallest
    shown = [
        _plot(model.beats, excess if apart else [*excess, best], "Excess over holding the reserves")
    ]
    if apart:
        shown.append(
            _plot(model.beats, [*excess, best], "The same with the label oracle (knows the future)")
        )
    shown.append(_plot(model.beats, equity, "Change of equity, market moves included"))
    return shown


def _excess(run: BacktestResult) -> NDArray[np.float64]:
    return run.equity_usd - run.hold_usd


def _plot(beats: NDArray[np.int64], lines: list[Line], caption: str) -> Plot:
    every = -(-len(beats) // PLOT_POINTS)
    at = np.unique(np.append(np.arange(0, len(beats), every), len(beats) - 1))
    hours = (beats[at] - beats[0]) * (BEAT_S / 3600)
    style = {"svg.fonttype": "none", "svg.hashsalt": caption, "font.family": "sans-serif"}
    with mpl.rc_context({**style, "font.size": 10.5}):
        figure = Figure(figsize=(4.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            axes.plot(hours, line.usd[at], label=line.name, **line.style)
        axes.set(xlabel="hours since the first decision", ylabel="USD")
        axes.margins(x=0.01)
        axes.grid(color="#e4e7eb", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, handlelength=2.2)
        drawn = io.BytesIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(drawn, format="svg", metadata=nothing)
    ends = ", ".join(f"{line.name} {usd(float(line.usd[-1]))}" for line in lines)
    uri = "data:image/svg+xml;base64," + base64.b64encode(drawn.getvalue()).decode()
    return Plot(uri, f"{caption}. At the end: {ends}.", f"Line chart over time. {caption}: {ends}.")


def usd(value: float, plus: str = "+") -> str:
    """Return an amount as the page writes it, with `plus` before a gain."""
    cents = round(value, 2)
    sign = "\N{MINUS SIGN}\N{WORD JOINER}" if cents < 0 else plus if cents > 0 else ""
    return f"{sign}${abs(value):,.2f}"
