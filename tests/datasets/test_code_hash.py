"""The hash of code: what is reached counts, what is not, or only looks different, does not."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.raw import read_parts
from datasets import code_hash
from datasets.beside import beside
from datasets.code_hash import code_sha256, reached
from datasets.partition import samples_code, samples_of, windows_code
from datasets.rebuild import windows_of
from datasets.tables import write_samples, write_windows

MODULES = {
    "maker": '''
        """Makes."""
        from made_up.parts import Box, helper as help_
        from made_up import constants
        import json

        TABLE = {"a": 1}
        TABLE["b"] = 2
        UNUSED = 3

        def make(box: Box) -> int:
            """Make it."""
            return help_(box) + constants.FIRST + TABLE["a"]  # It is made.

        def unused():
            return UNUSED
        ''',
    "parts": """
        from made_up.deep import decorated

        class Base:
            size = 1

        class Box(Base):
            def area(self, other: "Other"):
                return self.size

        class Other:
            weight = 5

        @decorated
        def helper(box):
            return box.area(None)

        def nobody():
            return 7
        """,
    "deep": """
        LIMIT = 10

        def decorated(f):
            return f if LIMIT else None
        """,
    "constants": """
        FIRST = 1
        SECOND = 2
        """,
}
Edit = Callable[[str, str, str], None]


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return a function that edits a made-up project and returns the hash of `maker.make`."""
    folder = tmp_path / "made_up"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text("\n".join(line[8:] for line in text.splitlines()))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(code_hash, "_OURS", {"made_up"})
    monkeypatch.setattr(code_hash, "_CARRIERS", set())
    maker = importlib.import_module("made_up.maker")

    def edit(module: str = "maker", old: str = "", new: str = "") -> str:
        path = folder / f"{module}.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        code_sha256.cache_clear()
        code_hash._Module.of.cache_clear()
        return code_sha256(maker.make)

    yield edit
    code_sha256.cache_clear()
    code_hash._Module.of.cache_clear()
    for name in [name for name in sys.modules if name.startswith("made_up")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("maker", "help_(box) +", "help_(box) -"),
        ("maker", '{"a": 1}', '{"a": 3}'),
        ("maker", '["b"] = 2', '["b"] = 3'),  # Gives no name, but may change what has one.
        ("parts", "size = 1", "size = 2"),  # Of a base class.
        ("parts", "return self.size", "return 2 * self.size"),  # Of a class in an annotation.
        ("parts", "weight = 5", "weight = 6"),  # The same, in quotes.
        ("parts", "box.area(None)", "box.area(1)"),
        ("deep", "LIMIT = 10", "LIMIT = 0"),  # Of a decorator's constant.
        ("constants", "FIRST = 1", "FIRST = 9"),
    ],
)
def test_an_edit_of_what_is_reached_changes_the_hash(
    edited: Callable[..., str], module: str, old: str, new: str
) -> None:
    assert edited(module, old, new) != edited(module, new, old)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("maker", "UNUSED = 3", "UNUSED = 4"),
        ("maker", "return UNUSED", "return 0"),
        ("maker", '"""Make it."""', '"""Make it well."""'),
        ("maker", "# It is made.", "# So it is."),
        ("maker", "help_(box) + constants", "(help_(box)  +  constants"[1:]),
        ("parts", "return 7", "return 8"),
        ("maker", "import json", "import json, ast"),
    ],
)
def test_an_edit_of_anything_else_does_not(
    edited: Callable[..., str], module: str, old: str, new: str
) -> None:
    assert edited() == edited(module, old, new)


def test_other_versions_of_the_libraries_change_it(
    edited: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = edited()
    for library in ("numpy", "pyarrow", "numba"):
        with monkeypatch.context() as patched:
            patched.setattr(
                code_hash, "version", lambda name, library=library: "9" if name == library else "1"
            )
            changed = edited()
        assert changed != before


def test_what_makes_windows_is_found_and_what_makes_samples_is_not_among_it() -> None:
    names = {name for name, found in reached(windows_of, write_windows).items() if found}
    assert {
        (read_parts.__module__, "_decoded"),
        ("market.windows", "_advance"),
        ("market.windows", "WINDOW"),
        ("market.book", "set_level"),
        ("market.events", "Kind"),
        ("datasets.tables", "WINDOWS_SCHEMA"),
    } <= names
    assert not {module for module, _ in names} & {
        "market.features",
        "market.labels",
        "datasets.recipe",
        "datasets.partition",
        "actors.store",
        "actors.s3",
        "actors.durable",
    }
    assert windows_code() != samples_code()


def test_what_serves_live_only_makes_no_samples_stale() -> None:
    names = {name for name, found in reached(beside, samples_of, write_samples).items() if found}
    assert {("market.cross", "cross"), ("market.external", "external")} <= names
    assert not names & {("market.cross", "CrossBuilder"), ("market.cross", "GIVEN_UP_BEATS")}
