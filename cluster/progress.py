"""What a person sees while a command works: a line per stage with its bar and its counts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

LINE_S = 10.0  # Between two lines where there is no terminal.


class Stage:
    """One line of the display."""

    def __init__(self, display: "Display", task: TaskID, name: str) -> None:
        self._display = display
        self._task = task
        self._name = name
        self._note = ""
        self._said_s = time.monotonic()

    @property
    def console(self) -> Console:
        """Where it is shown."""
        return self._display.console

    def update(self, done: float, total: float, note: str = "") -> None:
        """Show how much is done, and counts in words."""
        self._note = note or self._note
        self._display.progress.update(self._task, completed=done, total=total, note=self._note)
        if not self._display.console.is_terminal and time.monotonic() - self._said_s >= LINE_S:
            self.say(self._note)

    def say(self, text: str) -> None:
        """Print a line of its own."""
        self._said_s = time.monotonic()
        line = f"{self._name}: {text}"
        self._display.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def finish(self) -> None:
        """Show the stage as done."""
        task = self._display.progress.tasks[self._task]
        total = task.total or 1
        self._display.progress.update(self._task, completed=total, total=total)
        if not self._display.console.is_terminal:
            self.say(f"{self._note} ({task.elapsed or 0:.0f} s)")


class Display:
    """The stages of a command; without a terminal, a line now and then."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}[/]"),
            console=console,
            disable=not console.is_terminal,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Show a stage from here to the end of the block."""
        task = self.progress.add_task(name, total=None, note="")
        stage = Stage(self, task, name)
        yield stage
        stage.finish()
