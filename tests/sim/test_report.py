"""The report: self-contained, escaped, complete, and silent about nothing that is missing."""

import html
import json
import re
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest

from market.actions import Action, Fees
from market.labels import labels
from market.products import product
from market.trader import TraderConfig
from market.windows import WINDOW
from sim.baselines import Comparison, compare
from sim.report import (
    Data,
    Live,
    ProductScore,
    ReportData,
    Sweep,
    Trial,
    metrics,
    render,
    verdict,
)
from tune.bootstrap import Interval
from tune.evaluate import Baseline, Evaluation
from tune.looks import Looks
from tune.scoring import GroupScore
from tune.significance import Significance

PRODUCTS = {name: product(name) for name in ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD")}
FIRST_BEAT = 446_566_500  # 2026-08-09 09:00 UTC
BEATS = 1100
GROUP = GroupScore(
    samples=918,
    accuracy=0.43,
    majority_accuracy=0.39,
    value_bps=0.5,
    value_interval=Interval(0.5, -0.125, 1.25, 12),
    oracle_bps=4.8,
)
START_TICKS = (9_000_000, 310_000, 14_000, 21_000)


def made_up_windows(seed: int, start_ticks: int) -> np.ndarray:
    """A random walk of 1.5 bp a beat, one beat unknown."""
    rng = np.random.default_rng(seed)
    windows = np.zeros(BEATS, WINDOW)
    windows["beat"] = FIRST_BEAT + np.arange(BEATS)
    windows["valid"] = np.arange(BEATS) != rng.integers(300, 700)
    windows["bid"] = start_ticks * np.exp(np.cumsum(rng.normal(0, 1.5e-4, BEATS)))
    windows["ask"] = windows["bid"] + rng.integers(1, 4, BEATS)
    windows["low_ask"] = windows["ask"] - rng.integers(0, 4, BEATS)
    windows["high_bid"] = windows["bid"] + rng.integers(0, 4, BEATS)
    return windows


def made_up_comparison(skill: float) -> Comparison:
    """Values that know `skill` of the label and guess the rest; none where there is no label."""
    windows, values = {}, {}
    for seed, (name, start) in enumerate(zip(PRODUCTS, START_TICKS, strict=True)):
        rows = windows[name] = made_up_windows(seed, start)
        noise = np.random.default_rng(100 + seed).normal(0, 3, (BEATS, 5))
        guessed = skill * labels(rows, Fees()) + (1 - skill) * noise
        values[name] = rows["beat"][68:], guessed[68:]
    return compare(windows, values, PRODUCTS, Fees(), TraderConfig())


def made_up(backtest: Comparison | None) -> ReportData:
    confusion = [[212, 61, 40, 55, 31], [190, 402, 88, 190, 60], [35, 50, 198, 66, 28]]
    confusion += [[70, 210, 170, 395, 63], [120, 201, 131, 214, 392]]
    trials = [
        Trial(
            name=f"seed_model_{i:05d}",
            params={"objective": goal, "lr": rate, "dropout": 0.1},
            metrics={"value_bps": bps, "accuracy": right},
        )
        for i, (goal, rate, bps, right) in enumerate(
            [("values", 1e-3, 0.61, 0.42), ("hard", 1e-3, 0.35, 0.44), ("values", 3e-4, 0.12, 0.4)]
        )
    ]
    return ReportData(
        name="demo",
        created="2026-08-09 10:20 UTC",
        data=Data(
            source="synthetic market, seed 7",
            simulated=True,
            products=list(PRODUCTS),
            first_beat=FIRST_BEAT,
            last_beat=FIRST_BEAT + BEATS - 1,
            windows=4 * BEATS,
            valid_windows=4 * BEATS - 4,
            samples=3_972,
            labelled=3_672,
        ),
        score=Evaluation(
            samples=3_672,
            actions=tuple(action.name for action in Action),
            confusion=confusion,
            accuracy=0.435,
            chosen=[sum(row) for row in confusion],
            optimal=[sum(column) for column in zip(*confusion, strict=True)],
            value_bps=0.58,
            oracle_bps=4.9,
            value_fraction=0.58 / 4.9,
            majority_action="CLOSE_BUY",
            majority=Baseline(accuracy=0.391, value_bps=0.11),
            random=Baseline(accuracy=0.272, value_bps=-2.05),
            no_op=Baseline(accuracy=0.157, value_bps=0.0),
        ),
        backtest=backtest,
        sweep=Sweep(
            metric="value_bps",
            mode="max",
            winner="seed_model_00000",
            trials=trials,
            significance=Significance(
                trials=3,
                looks=24,
                blocks=70,
                effective_blocks=61.5,
                sharpe=0.3,
                lucky_sharpe=0.26,
                deflated_sharpe=0.61,
                p_value=0.2,
            ),
        ),
        live=Live(
            simulated=True,
            beats=180,
            predictions=718,
            orders=402,
            taker_fills=31,
            maker_fills=233,
            blocked={"free_reserves": 4},
            positions={"BTC-USD": 1.0, "ETH-USD": -0.25, "SOL-USD": 0.0, "XRP-USD": 1.0},
            equity_usd=8_802.11,
            profit_usd=4.4,
            excess_usd=-1.25,
            latency_ms={"p50": 6.1, "p95": 11.9, "p99": 31.0, "max": 88.2},
        ),
        products=[
            ProductScore(
                product=name,
                windows=BEATS,
                valid_windows=BEATS - 1,
                samples=993,
                score=GROUP,
            )
            for name in PRODUCTS
        ],
        days={"2026-08-09": GROUP},
        looks=Looks(looks=1, of_this_sweep=1, number=1),
    )


@pytest.fixture(scope="module")
def full() -> ReportData:
    return made_up(made_up_comparison(0.53))


class Page(HTMLParser):
    """Checks that tags nest, and gathers what the page would load or open."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.alts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        named = dict(attrs)
        self.loads += [value or "" for key, value in attrs if key in ("src", "href", "srcset")]
        if tag == "img":
            self.alts.append(named["alt"] or "")
        assert tag not in ("script", "link", "iframe")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def words(page: str) -> str:
    """The page's text, without tags, spaces collapsed."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_the_page_stands_alone(full: ReportData) -> None:
    text = render(full)
    page = Page(text)
    assert page.loads
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.loads)
    assert all(len(alt) > 40 for alt in page.alts)
    assert "url(" not in text
    assert "@import" not in text


def test_every_score_stands_beside_its_zero_skill_line(full: ReportData) -> None:
    text = words(render(full))
    for shown in (
        "43.5 %",
        "39.1 %",
        "27.2 %",
        "15.7 %",
        "+0.58",
        "+0.11",
        "\N{MINUS SIGN}2.05",
        "11.8 %",
    ):
        assert shown in text
    study = full.backtest
    assert study is not None
    for run in (study.model, study.buy_and_hold, study.oracle):
        assert f"${abs(run.excess_usd):,.2f}" in text
    assert "SIMULATED MARKET" in text
    assert "best of 3 variants" in text
    assert "5 / 0" in text and "0 / 0" in text and "120 / 60" in text
    assert "seed_model_00000 (kept)" in text
    assert "It is the best of 3 trials and 24 epochs: Sharpe ratio 0.300 a block" in text
    assert "this may be luck" in text


def test_recorded_data_carries_no_banner(full: ReportData) -> None:
    real = msgspec.structs.replace(full.data, simulated=False)
    text = words(render(msgspec.structs.replace(full, data=real)))
    assert "SIMULATED" not in text
    assert "synthetic market, seed 7" in text


def test_missing_sections_say_so(full: ReportData) -> None:
    bare = ReportData(name="bare", created="now", data=full.data)
    text = words(render(bare))
    Page(render(bare))
    for said in (
        "No backtest was run.",
        "No labelled samples were scored.",
        "No results per product.",
        "No sweep was run.",
        "No live paper trading was run.",
        "Nothing was scored and nothing was traded in this run.",
    ):
        assert said in text


def test_names_are_escaped(full: ReportData) -> None:
    text = render(msgspec.structs.replace(full, name="<script>alert(1)</script>"))
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_partial_position_is_shown_as_part_of_a_unit(full: ReportData) -> None:
    said = "BTC-USD +1.00, ETH-USD \N{MINUS SIGN}0.25, SOL-USD 0.00, XRP-USD +1.00"
    assert said in words(render(full))


def test_the_same_run_gives_the_same_bytes(full: ReportData) -> None:
    assert render(full) == render(full)
    assert metrics(full) == metrics(full)


def test_metrics_are_the_numbers_without_the_curves(full: ReportData) -> None:
    numbers = json.loads(metrics(full))
    assert full.backtest is not None
    assert numbers["backtest"]["model"]["excess_usd"] == full.backtest.model.excess_usd
    assert "equity_usd" not in numbers["backtest"]["model"]
    assert numbers["score"]["accuracy"] == 0.435
    assert numbers["data"]["simulated"] is True


def test_the_verdict_does_not_flatter(full: ReportData) -> None:
    assert full.score is not None
    poor = msgspec.structs.replace(full.score, accuracy=0.30, value_bps=-0.4)
    said = verdict(msgspec.structs.replace(full, score=poor, backtest=None))
    assert "9.1 percentage points below" in said[0]
    assert "0.51 bp less" in said[1]
    assert "lost" in verdict(made_up(made_up_comparison(0.0)))[2]


def test_what_chance_explains_is_said_to_be_chance_beside_blind_rules_too(full: ReportData) -> None:
    assert full.score is not None
    unsure = msgspec.structs.replace(
        full.score.no_op, lead_bps=0.58, lead_interval=Interval(0.58, -0.3, 1.4, 12)
    )
    score = msgspec.structs.replace(
        full.score,
        no_op=unsure,
        majority=msgspec.structs.replace(full.score.majority, value_bps=-0.5),
        value_interval=Interval(0.58, -0.3, 1.4, 12),
    )
    said = verdict(msgspec.structs.replace(full, score=score, backtest=None))
    assert said[1].endswith("cannot be told from chance (the 95 % interval includes zero).")


def test_the_verdict_names_the_best_baseline_and_the_looks(full: ReportData) -> None:
    assert full.score is not None
    lines = {
        "persistence": Baseline(accuracy=0.3, value_bps=-1.0, lead_bps=1.58),
        "boosted": Baseline(
            accuracy=0.4,
            value_bps=0.7,
            lead_bps=-0.12,
            lead_interval=Interval(-0.12, -0.4, 0.1, 12),
        ),
    }
    score = msgspec.structs.replace(full.score, others=lines)
    looks = Looks(looks=7, of_this_sweep=3, number=5)
    report = msgspec.structs.replace(full, score=score, validation=score, looks=looks)
    said = verdict(report)
    assert said[2].startswith("It earns 0.12 bp a decision less than boosted, the best of persi")
    assert said[2].endswith("cannot be told from chance (the 95 % interval includes zero).")
    assert said[-1].startswith("There were 7 looks at this test split so far")
    assert "3 of this sweep; this one was number 5" in said[-1]
    page = render(report)
    assert page.count('<td class="text">boosted</td>') == 2
    assert "An unseen test: there were 7 looks at it" in page
