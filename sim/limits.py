"""How many calls a second each caller may make, as the venue counts them: by address or by key."""

from collections import deque


class Limiter:
    """Admits at most `per_s` calls in any second; without it, all."""

    def __init__(self, per_s: int | None) -> None:
        self._per_s = per_s
        self._calls: dict[str, deque[float]] = {}

    def admits(self, caller: str, now_s: float) -> bool:
        """Whether a call of this caller goes through; one that does not is not counted."""
        if self._per_s is None:
            return True
        calls = self._calls.setdefault(caller, deque())
        while calls and calls[0] <= now_s - 1.0:
            calls.popleft()
        if len(calls) >= self._per_s:
            return False
        calls.append(now_s)
        return True
