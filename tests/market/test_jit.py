"""Compiled code on disk: loaded by whoever comes next, and never older than what it calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CALLS_EVERYTHING = """
import sys
import numpy as np
from market.actions import Fees
from market.events import EVENT
from market.features import FeatureBuilder, features
from market.labels import labels
from market.windows import WINDOW, WindowBuilder

events = np.zeros(4, EVENT)
events["kind"], events["price"], events["size"] = [0, 0, 2, 5], [9, 10, 9, 1], 1
events["side"], events["last"], events["ns"] = [0, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 8 * 10**9]
builder = WindowBuilder()
windows = builder.feed(events)
assert len(windows) == 2 and len(builder.levels()[0]) == 1
features(windows, 0.01), FeatureBuilder(0.01).push(windows[:1]), labels(windows, Fees())
compiled = [
    value
    for name, module in list(sys.modules.items())
    if name.startswith("market.")
    for value in vars(module).values()
    if hasattr(value, "stats") and hasattr(value, "py_func")
]
assert len(compiled) > 20
misses = sum(sum(function.stats.cache_misses.values()) for function in compiled)
"""


def run(code: str, cache: Path, *folders: Path) -> str:
    """What a fresh process prints, with its compiled code kept in `cache`."""
    paths = os.pathsep.join(str(folder) for folder in (*folders, ROOT))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "NUMBA_CACHE_DIR": str(cache),
            "PYTHONPATH": paths,
            "PYTHONDONTWRITEBYTECODE": "1",  # Python takes two edits in one second for one.
        },
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cache.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    code = CALLS_EVERYTHING + "print(misses)"
    assert int(run(code, tmp_path / "cache")) > 0
    assert int(run(code, tmp_path / "cache")) == 0


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_a_ray_worker_compiles_nothing_that_another_has_compiled(tmp_path: Path) -> None:
    import ray

    @ray.remote(max_calls=1)  # A worker process of its own for each call.
    def work() -> tuple[int, int]:
        found: dict[str, int] = {}
        exec(CALLS_EVERYTHING, found)
        return os.getpid(), found["misses"]

    env = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    task = work.options(runtime_env={"env_vars": env})
    first_pid, first_misses = ray.get(task.remote())
    second_pid, second_misses = ray.get(task.remote())
    assert first_pid != second_pid
    assert first_misses > 0
    assert second_misses == 0


@pytest.mark.slow
def test_an_edit_in_one_module_reaches_compiled_code_in_another(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(
        "from market.jit import compiled\nfrom callee import scaled\n\n"
        "@compiled\ndef total(x: int) -> int:\n    return scaled(x) + 1\n"
    )
    callee = (
        "from market.jit import compiled, inlined\nFACTOR = {factor}\n\n"
        "@compiled\ndef scaled(x: int) -> int:\n    return FACTOR * deeper(x)\n\n"
        "@inlined\ndef deeper(x: int) -> int:\n    return x {sign} 1\n"
    )
    code = "from caller import total; print(total(10), sum(total.stats.cache_misses.values()))"
    found = []
    for factor, sign in ((2, "+"), (3, "+"), (3, "-"), (3, "-")):
        (tmp_path / "callee.py").write_text(callee.format(factor=factor, sign=sign))
        found.append(run(code, tmp_path / "cache", tmp_path))
    assert found == ["23 1", "34 1", "28 1", "28 0"]


@pytest.mark.slow
def test_an_edit_of_a_field_or_of_their_order_reaches_compiled_code(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(
        "from market.jit import compiled\nfrom callee import first\n\n"
        "@compiled\ndef total(pair):\n    return first(pair)\n"
    )
    code = "from callee import make; from caller import total; print(total(make()))"
    found = []
    for fields, read in (("a b", "a"), ("b a", "a"), ("b a", "b")):
        one, other = fields.split()
        (tmp_path / "callee.py").write_text(
            "from typing import NamedTuple\nfrom market.jit import compiled\n\n"
            f"class Pair(NamedTuple):\n    {one}: int\n    {other}: int\n\n"
            "def make():\n    return Pair(a=1, b=2)\n\n"
            f"@compiled\ndef first(pair):\n    return pair.{read}\n"
        )
        found.append(run(code, tmp_path / "cache", tmp_path))
    assert found == ["1", "1", "2"]


@pytest.mark.slow
def test_code_compiled_for_a_type_that_is_gone_is_compiled_again(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(
        "from market.jit import compiled\n\n@compiled\ndef first(pair):\n    return pair[0]\n"
    )
    code = "import pairs; from caller import first; print(first(pairs.make()))"
    for name in ("Pair", "Couple"):
        (tmp_path / "pairs.py").write_text(
            f"from typing import NamedTuple\n\nclass {name}(NamedTuple):\n    x: int\n\n"
            f"def make():\n    return {name}(7)\n"
        )
        assert run(code, tmp_path / "cache", tmp_path) == "7"
