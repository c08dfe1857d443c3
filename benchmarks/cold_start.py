"""The first call of each hot path in a fresh process, its compiled code already on disk.

A process that never ran here before fills the disk cache first; it is not counted. What importing
the modules costs is stated apart, beside importing numpy and numba alone.
"""

import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks.harness import Result, report

RUNS = 5
LIMIT_S = 1.0
ROOT = Path(__file__).resolve().parents[1]

FRAME = (
    b'{"channel":"l2_data","timestamp":"2026-08-09T05:23:42.123456789Z",'
    b'"sequence_num":0,"events":[{"type":"update","product_id":"BTC-USD","updates":[{"side":"bid",'
    b'"event_time":"2026-08-09T05:23:41.877755Z","price_level":"64000.01","new_quantity":"0.5"}]}]}'
)

# The modules to import, what to prepare, and the first call.
CALLS = {
    "WindowBuilder.feed": (
        "from market.windows import WindowBuilder\nfrom benchmarks.workload import THIN, workload",
        "events = workload(THIN, updates=10_000).events",
        "WindowBuilder().feed(events)",
    ),
    "features": (
        "import numpy as np\nfrom market.features import features\n"
        "from market.windows import WINDOW",
        "windows = np.zeros(100, WINDOW)\nwindows['beat'] = np.arange(100)\n"
        "windows['valid'], windows['bid'], windows['ask'] = True, 99, 101",
        "features(windows, 0.01)",
    ),
    "labels": (
        "import numpy as np\nfrom market.actions import Fees\nfrom market.labels import labels\n"
        "from market.windows import WINDOW",
        "windows = np.zeros(100, WINDOW)\nwindows['beat'] = np.arange(100)\n"
        "windows['valid'] = True\n"
        "windows['bid'] = windows['high_bid'] = 99\nwindows['ask'] = windows['low_ask'] = 101",
        "labels(windows, Fees())",
    ),
    "frame decode": (
        "from actors.advanced_trade import decoder\nfrom actors.reader import Reader\n"
        "from market.products import product",
        f"reader = Reader(decoder, {{'BTC-USD': product('BTC-USD')}})\nframe = {FRAME!r}",
        "reader.frame(frame, 0)",
    ),
}
CLOCKED = """
import time
start = time.perf_counter()
{imports}
imported = time.perf_counter()
{prepare}
called = time.perf_counter()
{call}
print(imported - start, time.perf_counter() - called)
"""


def measure() -> list[Result]:
    """Return seconds of imports and of first calls, medians over fresh processes."""
    bare_s, _ = _seconds("import numba\nimport numpy", "", "")
    results = []
    for name, parts in CALLS.items():
        import_s, call_s = _seconds(*parts)
        print(f"{name}: import {import_s:.2f} s, first call {call_s:.3f} s")  # noqa: T201
        limit = f"limit {LIMIT_S:.0f} s"
        results += [
            Result(f"first call: {name}", call_s, "s", LIMIT_S / call_s, limit),
            Result(
                f"import: {name}", import_s, "s", bare_s / import_s, "import of numpy and numba"
            ),
        ]
    return results


def _seconds(imports: str, prepare: str, call: str) -> tuple[float, float]:
    """Return the median seconds of the imports and of the call, after a run not counted."""
    code = CLOCKED.format(imports=imports, prepare=prepare, call=call)
    taken = [_run(code) for _ in range(1 + RUNS)][1:]
    return median(s for s, _ in taken), median(s for _, s in taken)


def _run(code: str) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    import_s, call_s = map(float, done.stdout.split())
    return import_s, call_s


if __name__ == "__main__":
    report(measure())
