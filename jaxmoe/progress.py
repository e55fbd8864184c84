"""One progress display for every command: a bar on a terminal, a line per minute if the output is a file."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def say(text: str) -> None:
    """Prints a message for the person at the terminal, on standard error.

    Args:
      text: a line or several, printed as they are.

    >>> say("2 rows left out")
    """
    Console(markup=False, emoji=False, stderr=True).print(text, highlight=False, soft_wrap=True)


# where there is no terminal
SECONDS_BETWEEN_LINES = 60.0


class ProgressDisplay:
    """Shows what is being done, and how far it is, on standard error.

    On a terminal each task is a bar. Elsewhere a task is reported in whole lines: its first progress, then
    one line per minute, and its end.

    Args:
      shown: False shows nothing at all.
      console: where to write; None uses standard error.

    Example:
      >>> import io
      >>> from rich.console import Console
      >>> written = io.StringIO()
      >>> with ProgressDisplay(console=Console(file=written, markup=False, emoji=False)) as display:
      ...     questions = display.task("questions")
      ...     for done in range(1, 4):
      ...         questions(done, 3)
      >>> print(written.getvalue(), end="")
      questions: 1/3
      questions: 3/3
    """

    def __init__(self, shown: bool = True, *, console: Console | None = None):
        self.console = console or Console(markup=False, emoji=False, stderr=True)
        self.lines = shown and not self.console.is_terminal
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            console=self.console,
            disable=not shown or self.lines,
        )

    def task(self, title: str, total: int | None = None, done: int = 0, status: str = "") -> "ProgressTask":
        """Adds a task to the display.

        Args:
          title: what is done.
          total: number of its parts; None if not known yet.
          done: parts that are already done.
          status: further words.
        Returns: the task, to be called with (done, total), and status if there is any.
        """
        return ProgressTask(self, title, total, done, status)

    def __enter__(self) -> "ProgressDisplay":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()


class ProgressTask:
    """One task of a display; made by `ProgressDisplay.task`."""

    def __init__(self, display: ProgressDisplay, title: str, total: int | None, done: int, status: str):
        self._display, self._title, self._begun_at = display, title, done
        self._begun, self._told = time.monotonic(), float("-inf")
        self._first: tuple[float, int] | None = None  # when the first report came, and of how many parts
        self._bar = display.bars.add_task(title, total=total, completed=done, status=status)

    def __call__(self, done: int, total: int, status: str = "") -> None:
        """Reports how far the task is.

        Args:
          done: parts that are done.
          total: number of its parts.
          status: further words.
        """
        display, now = self._display, time.monotonic()
        self._first = self._first or (now, done)
        display.bars.update(self._bar, completed=done, total=total, status=status)
        if display.lines and (now - self._told >= SECONDS_BETWEEN_LINES or done >= total):
            self._told = now
            left = self._left(done, total, now)
            line = "  ".join(filter(None, (f"{self._title}: {done}/{total}", status, left)))
            # a line of any length stays on one line, and is written at once
            display.console.print(line, highlight=False, soft_wrap=True)
            display.console.file.flush()

    def _left(self, done: int, total: int, now: float) -> str:
        """The remaining time, if it is a minute or more, at the speed since the first report.

        What came before that includes compilation, so that it gives a bound alone.
        """
        since, before = self._first or (now, done)
        bound = done == before
        if bound:
            since, before = self._begun, self._begun_at
        new = done - before
        seconds = (now - since) / new * (total - done) if new > 0 else 0.0
        return f"{'at most ' * bound}{seconds / 60:.0f} min left" if seconds >= 60 else ""
