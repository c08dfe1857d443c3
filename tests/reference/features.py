"""Features of a beat from window records (plain dicts), in exact fractions."""

from fractions import Fraction
from math import ceil
from typing import Any

REACH = 68


def sample_of(windows: list[dict[str, Any]], beat: int, tick: str) -> dict[str, Any] | None:
    """The features of one beat, or None where there is no sample; tick is the quote increment."""
    by_beat = {window["beat"]: window for window in windows}
    for past in range(beat - REACH, beat + 1):
        if past not in by_beat or not by_beat[past]["valid"]:
            return None
    medians = []
    for j in range(9, -1, -1):
        window = by_beat[beat - ceil(Fraction(15, 2) * j)]
        medians.append(float(Fraction(window["bid"] + window["ask"], 2) * Fraction(tick)))
    return {
        "beat": beat,
        "medians": medians,
        "bids": profile([by_beat[beat - back]["bid_depth"] for back in (2, 1, 0)]),
        "asks": profile([by_beat[beat - back]["ask_depth"] for back in (2, 1, 0)]),
    }


def profile(depths: list[list[int]]) -> list[float]:
    """Depth averaged over the beats given, then divided by its own sum (zero where that is 0)."""
    average = [Fraction(sum(lots), len(depths)) for lots in zip(*depths, strict=True)]
    total = sum(average)
    return [float(lots / total) if total else 0.0 for lots in average]


def samples_of(windows: list[dict[str, Any]], tick: str) -> list[dict[str, Any]]:
    """The samples of all beats that have one, in order."""
    samples = [sample_of(windows, window["beat"], tick) for window in windows]
    return [sample for sample in samples if sample is not None]
