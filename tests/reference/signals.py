"""Signals of a beat from window records (plain dicts), by their formulas, in exact fractions."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

REACH = 68
SPANS = (("4s", 1), ("32s", 8), ("272s", 68))
DAY_S, WEEK_S = 86_400, 7 * 86_400
MONDAY_S = 4 * DAY_S  # 1970-01-05.


def signals_of(windows: list[dict[str, Any]], tick: str, lot: str) -> list[dict[str, float]]:
    """All signals of every beat with valid beats k-68 .. k, by name; increments as text."""
    by_beat = {window["beat"]: window for window in windows if window["valid"]}
    found = []
    for beat in sorted(by_beat):
        if all(past in by_beat for past in range(beat - REACH, beat + 1)):
            reach = [by_beat[past] for past in range(beat - REACH, beat + 1)]
            found.append({"beat": beat} | of_sample(reach, Fraction(tick), Fraction(lot)))
    return found


def of_sample(reach: list[dict[str, Any]], tick: Fraction, lot: Fraction) -> dict[str, float]:
    """The signals of the last of 69 records."""
    found = {}
    for name, span in SPANS:
        found[f"order_flow_{name}"] = order_flow(reach[-span - 1 :])
    for name, span in SPANS:
        found[f"taker_{name}"] = imbalance(
            sum(window["buy_lots"] for window in reach[-span:]),
            sum(window["sell_lots"] for window in reach[-span:]),
        )
    newest = reach[-1]
    bids, asks = sum(newest["bid_depth"]), sum(newest["ask_depth"])
    found["spread_bps"] = float(10_000 * (newest["ask"] - newest["bid"]) / median(newest))
    found["depth_log"] = math.log1p(float((bids + asks) * lot * median(newest) * tick))
    found["depth_imbalance"] = imbalance(bids, asks)
    for name, span in SPANS[1:]:
        found[f"volatility_{name}_bps"] = volatility(reach[-span - 1 :])
    end_s = 4 * newest["beat"] + 4
    for name, share in (
        ("day", Fraction(end_s % DAY_S, DAY_S)),
        ("week", Fraction((end_s - MONDAY_S) % WEEK_S, WEEK_S)),
    ):
        angle = float(share) * math.tau
        found[f"{name}_sin"], found[f"{name}_cos"] = math.sin(angle), math.cos(angle)
    return found


def median(window: dict[str, Any]) -> Fraction:
    """In ticks."""
    return Fraction(window["bid"] + window["ask"], 2)


def imbalance(more: int, less: int) -> float:
    """From -1 to 1; 0 of nothing."""
    return float(Fraction(more - less, more + less)) if more + less else 0.0


def order_flow(span: list[dict[str, Any]]) -> float:
    """Cont, Kukanov & Stoikov's e_n over consecutive records, in mean depths of these."""
    flow = 0
    for before, here in pairwise(span):
        flow += (here["bid"] >= before["bid"]) * here["bid_depth"][0]
        flow -= (here["bid"] <= before["bid"]) * before["bid_depth"][0]
        flow -= (here["ask"] <= before["ask"]) * here["ask_depth"][0]
        flow += (here["ask"] >= before["ask"]) * before["ask_depth"][0]
    mean = Fraction(sum(w["bid_depth"][0] + w["ask_depth"][0] for w in span), 2 * len(span))
    return float(flow / mean) if mean else 0.0


def volatility(span: list[dict[str, Any]]) -> float:
    """Root of the summed squared log returns between consecutive records, bp."""
    with localcontext() as context:
        context.prec = 50
        logs = [log(median(window)) for window in span]
        squares = sum((b - a) ** 2 for a, b in pairwise(logs))
        return float(Decimal(squares).sqrt() * 10_000)


@cache
def log(value: Fraction) -> Decimal:
    """In fifty digits."""
    return (Decimal(value.numerator) / value.denominator).ln()
