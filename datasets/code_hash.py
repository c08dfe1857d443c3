"""A hash of the code that decides some bytes: what other code made is built again.

From given functions on, all that they name is followed through the project's modules: functions,
classes, constants, imports. What nobody names on the way is left out, and comments, docstrings and
layout change nothing.
"""

import ast
import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

_OURS = {"market", "actors", "datasets"}
# They move bytes and make none; followed, every retry would count.
_CARRIERS = {"actors.store", "actors.s3", "actors.durable"}
_DECIDING = ("numba", "numpy", "pyarrow")
_ALL = "*"  # Instead of a name: the whole module.

Name = tuple[str, str]  # (module, name at its top level)


@cache
def code_sha256(*functions: Callable[..., Any]) -> str:
    """Return the hash of these functions, all that they reach, and the libraries that decide."""
    found = hashlib.sha256()
    for library in _DECIDING:
        found.update(f"{library} {version(library)}\n".encode())
    for name, statements in sorted(reached(*functions).items()):
        found.update(f"{name}\n".encode())
        for statement in statements:
            found.update(ast.dump(statement).encode())
    return found.hexdigest()


def reached(*functions: Callable[..., Any]) -> dict[Name, list[ast.stmt]]:
    """Return the statements behind each name that these functions reach, themselves included."""
    found: dict[Name, list[ast.stmt]] = {}
    waiting = [(function.__module__, function.__name__) for function in functions]
    while waiting:
        name = waiting.pop()
        if name not in found and name[0] not in _CARRIERS:
            found[name] = _Module.of(name[0]).statements(name[1])
            waiting += _named(name[0], found[name])
    return found


def _named(module: str, statements: list[ast.stmt]) -> Iterator[Name]:
    """What of the project some statements of a module name."""
    for node in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, _ALL) if inner in sys.modules else (str(node.module), alias.name)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, _ALL) for alias in node.names if _is_ours(alias.name))
        elif isinstance(node, ast.Name):
            yield module, node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield module, node.value  # A type in quotes, if it is the name of anything.


def _is_ours(module: str | None) -> bool:
    return bool(module) and str(module).split(".")[0] in _OURS


class _Module:
    """The statements of a module by the names that they give at its top level."""

    def __init__(self, name: str) -> None:
        tree = ast.parse(Path(sys.modules[name].__file__ or "").read_bytes())
        self._all = _without_docstrings(tree).body
        self._by_name: dict[str, list[ast.stmt]] = {}
        self._always: list[ast.stmt] = []  # They give no name, so they do something to others.
        for statement in self._all:
            names = set(_given(statement))
            for given in names:
                self._by_name.setdefault(given, []).append(statement)
            if not names:
                self._always.append(statement)

    @staticmethod
    @cache
    def of(name: str) -> "_Module":
        """Return a module that has been imported."""
        return _Module(name)

    def statements(self, name: str) -> list[ast.stmt]:
        """Return what gives a name its value, nothing where it is no name of the module's own."""
        if name == _ALL:
            return self._all
        given = self._by_name.get(name, [])
        only_imported = all(isinstance(s, ast.Import | ast.ImportFrom) for s in given)
        own = [_only(s, name) for s in given]
        return own if only_imported else own + self._always


def _given(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top level gives."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.split(".")[0] for alias in statement.names)
    else:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
                yield from _given(node)


def _only(statement: ast.stmt, name: str) -> ast.stmt:
    """Of an import of many names the one that is meant."""
    if isinstance(statement, ast.ImportFrom):
        mine = [alias for alias in statement.names if (alias.asname or alias.name) == name]
        return ast.ImportFrom(module=statement.module, names=mine, level=statement.level)
    return statement


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [s for s in node.body if not _is_text(s)] or [ast.Pass()]
    return tree


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is nothing but a text: a docstring."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
