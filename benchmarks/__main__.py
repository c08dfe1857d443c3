"""Run every benchmark in a process of its own and rewrite the table in docs/benchmarks.md."""

import datetime
import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness import Result, Table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
START, END = "<!-- table: make bench -->", "<!-- end of table -->"
SCRIPTS = (
    *("book", "memory", "labels", "features", "decode", "imports", "build", "loader"),
    "cold_start",
)

# What each row must reach: a part of its name, a part of its yardstick's, and the ratio.
TARGETS = (
    ("4 s: btc", "sorted vectors, plain", 15),
    ("4 s: btc", "hftbacktest", 3),
    ("4 s: thin", "hftbacktest", 3),
    ("labels, ", "plain", 100),
    ("labels, ", "tuned", 8),
    ("decode, ", "msgspec struct", 1.5),
    ("import, 5", "limit 1,500,000", 1),
    ("import, Tardis", "limit 1,000,000", 1),
    ("training the seed model", "tensors in memory", 0.95),
    ("raw partition to samples: btc", "limit 5,000,000", 1),
    ("raw partition to samples: thin", "limit 5,000,000", 1),
    ("partitions, each more", "of 1 to 10", 0.8),
    ("", "limit ", 1),
)


def main() -> None:
    """Measure everything, then write; a script that fails leaves the page as it was."""
    _drop_stale_code()
    found = [one for script in SCRIPTS for one in _run(script)]
    results = [one for one in found if isinstance(one, Result)]
    page = replaced(PAGE.read_text("utf-8"), table_of(results, where()))
    for one in found:
        if isinstance(one, Table):
            page = replaced(page, one.text, *markers(one.name))
    PAGE.write_text(page, "utf-8")
    for result in results:
        if result.ratio < (target_of(result) or 0):
            print(f"missed: {result.name}, against {result.against}")  # noqa: T201
    for name, against, _ in TARGETS:
        if not any(name in r.name and against in r.against for r in results):
            print(f"not measured: {name!r} against {against!r}")  # noqa: T201
    print(f"{len(results)} rows written to {PAGE.relative_to(ROOT)}")  # noqa: T201


def table_of(results: list[Result], where: str) -> str:
    """Return the results as a Markdown table under a line that says where they were measured."""
    rows = [
        "| what | ours | unit | against | ratio | must reach |",
        "| --- | ---: | --- | --- | ---: | ---: |",
    ]
    for result in results:
        must = target_of(result)
        rows.append(
            f"| {result.name} | {_figure(result.value)} | {result.unit} | {result.against} | "
            f"{_figure(result.ratio)} | {'' if must is None else f'{must:g}'} |"
        )
    return "\n".join([where, "", *rows])


def target_of(result: Result) -> float | None:
    """Return the ratio that a result must reach, None where nothing is asked."""
    for name, against, ratio in TARGETS:
        if name in result.name and against in result.against:
            return ratio
    return None


def replaced(page: str, table: str, start: str = START, end: str = END) -> str:
    """Return the page with the table between its two markers, everything else as it was."""
    before, found_start, rest = page.partition(start)
    _, found_end, after = rest.partition(end)
    if not (found_start and found_end):
        raise ValueError(f"the page must hold {start!r} and after it {end!r}")
    return f"{before}{start}\n{table}\n{end}{after}"


def markers(name: str) -> tuple[str, str]:
    """Return what stands before and after a script's own table."""
    return f"<!-- table: {name} -->", f"<!-- end of {name} -->"


def _run(script: str) -> list[Result | Table]:
    """Run one script, show what it says, and return its results and tables."""
    print(f"benchmarks.{script}", flush=True)  # noqa: T201
    results: list[Result | Table] = []
    command = [sys.executable, "-m", f"benchmarks.{script}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("{"):
                found = json.loads(line)
                results.append(Table(**found) if "text" in found else Result(**found))
            else:
                print(f"  {line}", end="", flush=True)  # noqa: T201
    if process.returncode or not results:
        raise SystemExit(f"benchmarks.{script} gave no result; the table stays as it was")
    return results


def _drop_stale_code() -> None:
    """Delete the yardsticks' compiled code: numba looks only at a function's own file."""
    for cached in (ROOT / "benchmarks").rglob("__pycache__/*.nb[ic]"):
        cached.unlink()


def where() -> str:
    """Return commit, day, processor and versions in a line."""
    commit, changes = (
        subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        for args in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
    )
    day = datetime.datetime.now(datetime.UTC).date()
    versions = ", ".join(f"{name} {version(name)}" for name in ("numba", "numpy"))
    return (
        f"Commit {commit or 'unknown'}{'+changes' if changes else ''}, {day}, {_processor()}, "
        f"Python {platform.python_version()}, {versions}."
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _figure(value: float) -> str:
    """Return three significant digits, thousands separated, never an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


if __name__ == "__main__":
    main()
