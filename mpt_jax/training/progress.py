"""Live progress: a bar with the time left in a terminal, plain lines every few seconds elsewhere."""

import time
from types import TracebackType

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mpt_jax.terminal import Output

_PLAIN_SECONDS = 15.0
"""Between plain lines: seldom enough for a log file, often enough to see that a run lives."""


class TrainingProgress:
    """Shows one loop's progress; a context manager.

    Args:
      title: what is trained, for example "teach: 8 tasks".
      total: steps in all.
      done: steps done before this process began.
      console: where to show it; standard error by default, so that results can be piped.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, console: Console | None = None):
        self._console = console or Output(stderr=True, quiet=jax.process_index() > 0)
        self._title, self._total, self._start = title, total, done
        self._done = done
        self._began = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(title, total=total, completed=done, text="compiling")

    def __enter__(self) -> "TrainingProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: int, text: str = "") -> None:
        """Shows that `done` steps are done, with a few words on how it goes ("loss 0.41")."""
        self._done = done
        if self._bar:
            self._bar.update(self._task, completed=done, text=text)
            return
        now = time.monotonic()
        if now - self._last_line >= _PLAIN_SECONDS or done >= self._total:
            self._last_line = now
            self._print(f"{self._title}: {done}/{self._total} {text} {self._times(now)}")

    def note(self, text: str) -> None:
        """Prints a line that stays, such as an evaluation's result."""
        self._print(f"{self._title}: {text}")

    def _times(self, now: float) -> str:
        spent = now - self._began
        steps = self._done - self._start
        left = spent / steps * (self._total - self._done) if steps else 0.0
        return f"({_clock(spent)} so far, {_clock(left)} left)"

    def _print(self, text: str) -> None:
        # Soft wrap: a log file's line must not be cut at a width that nobody sees.
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
