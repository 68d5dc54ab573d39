"""What a person sees: progress while an experiment runs, its end, and what went wrong, in one line."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from edit_robust.core.work import Advance

if TYPE_CHECKING:
    from edit_robust.runs.reader import Run


class _Rate(ProgressColumn):
    """Things done a second, or seconds a thing when that is the larger number."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="cyan")


#: Seconds of work before a log file gets its first line about it, and about work within other work; then between lines.
FIRST, WITHIN, BETWEEN = 2.0, 10.0, (10.0, 30.0, 60.0)


class _Lines:
    """Progress for a log file: whole lines, seldom, with rate and remaining time; at the end how long it took."""

    def __init__(self, title: str, total: int, say: Callable[[str], None], first: float) -> None:
        self.title, self.total, self.say = title, total, say
        self.done, self.told = 0, 0
        self.start = time.monotonic()
        self.due = self.start + first
        self.before: tuple[float, int] | None = None  # when the first step ended: what was done already counts for none

    def advance(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        if self.before is None:
            self.before = (now, self.done) if now - self.start < 0.1 else (self.start, 0)
        if now < self.due or self.done >= self.total:
            return
        self.due = now + BETWEEN[min(self.told, len(BETWEEN) - 1)]
        self.told += 1
        since, already = self.before
        rate = (self.done - already) / max(now - since, 1e-9)
        left = f", {_span((self.total - self.done) / rate)} left" if rate > 0 else ""
        self.say(f"{self.title}: {self.done} of {self.total}, {_rate(rate)}{left}")

    def end(self) -> None:
        took = time.monotonic() - self.start
        if self.told or took > FIRST * 5:
            self.say(f"{self.title}: {self.done} of {self.total} in {_span(took)}")


def _rate(speed: float) -> str:
    if speed <= 0:
        return "none yet"
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


def _span(seconds: float) -> str:
    """12 s, 4 min 05 s, 2 h 13 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


class Ui:
    """Progress and messages on stderr: bars in a terminal; in a file now and then a line, once work takes long."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._progress: Progress | None = None
        self._depth = 0

    def say(self, message: str) -> None:
        self.console.print(message, markup=False, soft_wrap=True)

    @contextmanager
    def waiting(self, title: str) -> Iterator[None]:
        """Work that cannot be counted: a moving bar, or in a file a line behind it where it took over two seconds."""
        if self.console.is_terminal and self._progress is None:
            with self.console.status(title):
                yield
            return
        start = time.monotonic()
        yield
        if (took := time.monotonic() - start) > FIRST and not self.console.is_terminal:
            self.say(f"{title}: {_span(took)}")

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Advance]:
        """A bar with rate and remaining time, or lines of a log. Bars may be nested."""
        if not self.console.is_terminal:
            lines = _Lines(title, total, self.say, WITHIN if self._depth else FIRST)
            self._depth += 1
            try:
                yield lines.advance
                lines.end()
            finally:
                self._depth -= 1
            return
        outer = self._progress
        bars = outer or Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        if outer is None:
            self._progress = bars
            bars.start()
        task = bars.add_task(title, total=total)
        try:
            yield lambda n: bars.advance(task, n)
        finally:
            bars.remove_task(task)
            if outer is None:
                bars.stop()
                self._progress = None


def present(run: Run) -> None:
    """The end of a run: a table, one sentence, where everything is, and which edit broke the model, if one did."""
    from edit_robust.figures.frame import RunData
    from edit_robust.report import summary_table, verdict
    from edit_robust.report.collapse import collapse_lines

    console = Console(highlight=False)
    console.print(summary_table(RunData.of(run)))
    console.print(verdict(run.summary, run.config), markup=False)
    console.print(f"{_short(run.path)}", markup=False, soft_wrap=True)
    questions = run.examples if (run.path / "examples.jsonl").is_file() else None
    for line in collapse_lines(run.summary, run.config, questions, str(run.status.get("command", "")), run.id):
        console.print(line, markup=False, soft_wrap=True)


def _short(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def exit_code(error: BaseException) -> int:
    """2 for what the user can put right, 130 for Ctrl-C, 1 for the rest."""
    from edit_robust.core.errors import UserError

    if isinstance(error, UserError) or hasattr(error, "format_message"):  # the latter is Typer's
        return 2
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _disk_full(error: BaseException) -> bool:
    """Python's own error, or what safetensors makes of it."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in full
    return type(error).__name__ == "SafetensorError" and any(f"os error {n})" in str(error) for n in full)


def explain(error: BaseException) -> None:
    """Say on stderr what went wrong: one line where the cause is known, the traceback where it is not."""
    import traceback

    from edit_robust.core.errors import UserError

    go_on = "What was measured is kept; the same command goes on from there."
    file = getattr(error, "filename", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # `edit-robust` alone: the message is the help
        line = str(error)
    elif isinstance(error, UserError) or hasattr(error, "format_message"):
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        line = f"edit-robust: {' '.join(text.split())}"
    elif isinstance(error, KeyboardInterrupt):
        line = f"edit-robust: stopped. {go_on}"
    elif _disk_full(error):
        line = f"edit-robust: the disk is full{f' ({file})' if file else ''}. {go_on}"
    elif isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        line = f"edit-robust: {file or 'a file'} cannot be written or read: {error.strerror}. {go_on}"
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        line = f"edit-robust: out of memory; try a smaller model.batch_tokens or model.dtype=bfloat16. {go_on}"
    else:
        traceback.print_exception(error)
        line = f"edit-robust: stopped by an error of the program ({type(error).__name__}). {go_on}"
    print(line, file=sys.stderr)
