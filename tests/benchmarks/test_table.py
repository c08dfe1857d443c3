"""The table of `make bench` replaces what is between its markers and nothing else."""

import pytest

from benchmarks.__main__ import END, PAGE, START, replaced, table_of
from benchmarks.harness import Result, compare

ROWS = [
    Result("book", 53_123_456.0, "updates/s", 4.756, "another book"),
    Result("memory", 10.04, "MB", 6.37, "limit 64 MB"),
]


def test_only_what_is_between_the_markers_is_replaced() -> None:
    page = f"# Title\n\nbefore\n{START}\nan old table\n{END}\nafter | {END}\n"
    assert replaced(page, "new") == f"# Title\n\nbefore\n{START}\nnew\n{END}\nafter | {END}\n"


@pytest.mark.parametrize("page", ["", START, END, f"{END} {START}"])
def test_a_page_without_both_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="the page must hold"):
        replaced(page, "new")


def test_the_page_of_this_project_has_the_markers() -> None:
    page = PAGE.read_text("utf-8")
    assert page.count(START) == page.count(END) == 1
    assert replaced(replaced(page, "one"), "two") == replaced(page, "two")


def test_the_table_states_where_it_was_measured_and_what_must_be_reached() -> None:
    assert table_of(ROWS, "Commit abc.").splitlines() == [
        "Commit abc.",
        "",
        "| what | ours | unit | against | ratio | must reach |",
        "| --- | ---: | --- | --- | ---: | ---: |",
        "| book | 53,123,456 | updates/s | another book | 4.76 |  |",
        "| memory | 10 | MB | limit 64 MB | 6.37 | 1 |",
    ]


def test_everything_runs_once_and_then_in_alternation(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []
    results = compare(
        "sum",
        "numbers/s",
        lambda: calls.append("ours"),
        {"a": (lambda: calls.append("a"), 1), "b": (lambda: calls.append("b"), 2)},
        amount=10,
        runs=3,
    )
    assert calls == ["ours", "a", "b"] * 4
    assert [(r.name, r.unit, r.against) for r in results] == [
        ("sum", "numbers/s", "a"),
        ("sum", "numbers/s", "b"),
    ]
    assert results[0].value == results[1].value > 0 and all(r.ratio > 0 for r in results)
    assert len(capsys.readouterr().out.splitlines()) == 2
