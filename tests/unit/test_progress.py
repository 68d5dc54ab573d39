"""Progress in a terminal, and in a file: whole lines, seldom, with rate and remaining time."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from edit_robust import messages
from edit_robust.messages import Ui


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass."""
    now = [100.0]
    monkeypatch.setattr(messages.time, "monotonic", lambda: now[0])

    def later(seconds: float) -> None:
        now[0] += seconds

    return later


@pytest.fixture
def log() -> tuple[Ui, io.StringIO]:
    ui, out = Ui(), io.StringIO()
    ui.console = Console(file=out, force_terminal=False, width=80)
    return ui, out


Log = tuple[Ui, io.StringIO]


def test_a_log_gets_lines_with_rate_and_remaining_time(log: Log, clock: Callable[[float], None]) -> None:
    ui, out = log
    with ui.progress("rome on fact-gpt", 100) as advance:
        for _ in range(100):
            clock(1.0)
            advance(1)
    lines = out.getvalue().splitlines()
    assert lines[0] == "rome on fact-gpt: 2 of 100, 1.0/s, 98 s left"
    assert lines[1] == "rome on fact-gpt: 12 of 100, 1.0/s, 88 s left"
    assert lines[-1] == "rome on fact-gpt: 100 of 100 in 1 min 40 s"
    assert len(lines) == 4 and "\r" not in out.getvalue() and "\x1b" not in out.getvalue()


def test_what_is_quick_leaves_no_line(log: Log, clock: Callable[[float], None]) -> None:
    ui, out = log
    with ui.progress("quick", 10) as advance:
        for _ in range(10):
            clock(0.1)
            advance(1)
    with ui.waiting("quick"):
        clock(1.0)
    assert out.getvalue() == ""


def test_what_was_done_before_does_not_count_for_the_rate(log: Log, clock: Callable[[float], None]) -> None:
    """A run that goes on has most of its points at once."""
    ui, out = log
    with ui.progress("going on", 100) as advance:
        advance(90)
        for _ in range(3):
            clock(2.0)
            advance(1)
    assert out.getvalue().splitlines()[0] == "going on: 91 of 100, 2.0 s each, 18 s left"


def test_work_within_work_speaks_later_and_nothing_speaks_when_quiet(log: Log, clock: Callable[[float], None]) -> None:
    ui, out = log
    with ui.progress("outer", 2) as outer:
        for _ in range(2):
            with ui.progress("inner", 4) as inner:
                for _ in range(4):
                    clock(1.0)
                    inner(1)
            outer(1)
    assert "inner" not in out.getvalue() and "outer: 1 of 2, 4.0 s each, 4 s left" in out.getvalue()
    quiet = Ui(quiet=True)
    with quiet.progress("outer", 2) as outer, quiet.waiting("x"):
        clock(60.0)
        outer(1)


def test_waiting_says_afterwards_how_long_it_took(log: Log, clock: Callable[[float], None]) -> None:
    ui, out = log
    with ui.waiting("loading the model"):
        clock(125.0)
    assert out.getvalue() == "loading the model: 2 min 05 s\n"


def test_a_terminal_has_bars(clock: Callable[[float], None]) -> None:
    ui, out = Ui(), io.StringIO()
    ui.console = Console(file=out, force_terminal=True, width=120, color_system=None)
    with ui.waiting("loading"), ui.progress("editing", 3) as advance:
        advance(1)
    assert "loading" in out.getvalue() and "editing" in out.getvalue()
