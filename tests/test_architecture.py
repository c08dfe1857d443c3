"""The shape of the code: who may import whom, and that importing does nothing.

market <- actors <- datasets <- tune <- sim <- serve_app <- cluster: a folder imports those to its
left only, and `market` touches neither Ray, torch, asyncio nor any input or output.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("market", "actors", "datasets", "tune", "sim", "serve_app", "cluster")
MARKET_MAY_IMPORT = {
    "collections", "decimal", "enum", "functools", "market", "msgspec", "numba", "numpy", "typing",
    "hashlib", "llvmlite", "pathlib", "sys", "types",  # For the compiler's cache, in jit.py.
}  # fmt: skip


def _modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("folder", ORDER)
def test_a_folder_imports_only_those_to_its_left(folder: str) -> None:
    forbidden = set(ORDER[ORDER.index(folder) + 1 :]) | {"tests", "benchmarks"}
    assert _modules(folder)
    for path in _modules(folder):
        assert not _imports(path) & forbidden, path


def test_market_imports_nothing_that_does_anything() -> None:
    for path in _modules("market"):
        assert _imports(path) <= MARKET_MAY_IMPORT, path


@pytest.mark.parametrize("folder", ORDER)
def test_every_package_says_what_lives_there(folder: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text("utf-8")))
    assert docstring and len(docstring.splitlines()) <= 4


def test_every_module_says_what_it_is_for() -> None:
    for path in (p for folder in ORDER for p in _modules(folder)):
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


def test_nothing_reads_the_environment() -> None:
    """Settings come from the configuration; Ray's own are written for it, not read.

    The sweep puts one of Ray's back as it found it, and has to look for that.
    """
    restores = ROOT / "tune" / "contained.py"
    for path in (p for folder in ORDER for p in _modules(folder) if p != restores):
        text = path.read_text("utf-8")
        assert "os.getenv" not in text and "environ.get(" not in text, path


def test_ray_tune_is_imported_under_its_own_name() -> None:
    for path in (p for folder in ORDER for p in _modules(folder)):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "ray":
                assert all(a.asname == "ray_tune" for a in node.names if a.name == "tune"), path


@pytest.mark.slow
def test_importing_starts_nothing() -> None:
    """Importing every module opens no Ray, starts no thread and prints nothing."""
    names = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for folder in ORDER
        for p in _modules(folder)
    ]
    code = (
        f"import importlib, threading\nfor n in {names!r}: importlib.import_module(n)\n"
        "import ray\nassert not ray.is_initialized()\n"
        "assert [t.name for t in threading.enumerate() if not t.daemon] == ['MainThread']\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
