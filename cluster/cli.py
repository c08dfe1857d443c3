"""`quaver`: one command per stage of the pipeline, and `demo`, which runs them all.

Exit codes: 0 done, 1 something the user can mend (one line says what), 2 a check failed (`health`,
`check-leakage`), 130 stopped by Ctrl-C or SIGTERM.
"""

import signal
import sys
import textwrap
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from cluster import market_commands, model_commands
from cluster.options import CheckFailed, app
from market.errors import Interrupted, QuaverError

__all__ = ["app", "main", "market_commands", "model_commands"]  # Being imported, they are commands.
_RAY_LOGS = "/tmp/ray/session_latest/logs"
_USAGE, _STOPPED = 2, 130  # Exit codes of the command line library.
_CHECK_FAILED = 2  # Ours.
_errors = Console(stderr=True)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 1."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except QuaverError as e:
        # From another process it comes inside Ray's own.
        _fail(str(getattr(e, "cause", e)), _STOPPED if isinstance(e, Interrupted) else 1)
    except CheckFailed:
        sys.exit(_CHECK_FAILED)
    except SystemExit as e:
        if e.code == _STOPPED:
            _errors.print("stopped")
        sys.exit(1 if e.code == _USAGE else e.code)
    except Exception as e:
        from ray.exceptions import RayError, RayTaskError

        # A task's error is one in our code: its traceback is the only one that there is.
        if not isinstance(e, RayError) or isinstance(e, RayTaskError):
            raise
        why = textwrap.shorten((str(e).splitlines() or [type(e).__name__])[-1], 200)
        _fail(f"a Ray process died: {why}; its log is in {_RAY_LOGS}")


def _fail(said: str, code: int = 1) -> NoReturn:
    _errors.print(f"[bold red]error:[/] {escape(said)}", soft_wrap=True, highlight=False)
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)  # Whoever has taken Ctrl-C over ends in good order.
