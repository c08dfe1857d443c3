"""The worked example of docs/market.md, read from the page and computed."""

from pathlib import Path

import numpy as np
import pytest

from market.actions import Action, Fees
from market.labels import labels, optimal
from market.windows import WINDOW

PAGE = Path(__file__).resolve().parents[2] / "docs" / "market.md"


def table(first_column: str) -> list[dict[str, str]]:
    """The rows of the page's table whose first column is so called."""
    lines = PAGE.read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_column} | "))
    names, _, *rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in lines[start : lines.index("", start)]
    ]
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_the_page_shows_what_the_code_finds() -> None:
    rows = table("beat")
    windows = np.zeros(len(rows), WINDOW)
    windows["valid"] = True
    for window, row in zip(windows, rows, strict=True):
        for name, cell in row.items():
            window[name] = int(cell or 0)
        window["trades"] = row["trade_low"] != ""
    found = labels(windows, Fees(taker_bps=100, maker_bps=0), horizon=len(rows) - 1)[:1]
    shown = table("action | cash")
    assert [row["action"] for row in shown] == [action.name for action in Action]
    wanted = [float(row["label, bps"]) for row in shown]
    assert found[0].tolist() == pytest.approx(wanted, abs=1e-9)
    best = {Action(i).name for i in np.flatnonzero(optimal(found)[0])}
    assert best == {"CLOSE_BUY", "NO_OP"}
