"""Death at any point: a process that ends before its n-th call to the disk, without dying."""

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

DISK = [(os, "fsync"), (os, "open")] + [
    (Path, name) for name in ("open", "replace", "rename", "unlink", "mkdir", "rmdir")
]


class Dead(BaseException):
    """What no part of a process that was killed can catch."""


class Life:
    """Ends before the n-th call to the disk, or to `more`; then nothing works any more."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        ends_at: int,
        more: list[tuple[Any, str]] | None = None,
    ) -> None:
        self._calls, self._ends_at = count(), ends_at
        self.ended = False
        for owner, name in [*DISK, *(more or [])]:
            monkeypatch.setattr(owner, name, self._mortal(getattr(owner, name)))

    def _mortal(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def ours(*args: Any, **options: Any) -> Any:
            if next(self._calls) >= self._ends_at:
                self.ended = True
                raise Dead
            return call(*args, **options)

        return ours
