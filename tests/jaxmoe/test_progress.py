"""The progress display: whole lines where there is no terminal, a bar where there is one."""

import io

import pytest
from rich.console import Console

from jaxmoe import progress
from jaxmoe.progress import ProgressDisplay


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def told(clock, *steps, shown=True, terminal=False, done=0, width=30):
    """What is written by a task of which so many parts of 10 are done after so many seconds."""
    out = io.StringIO()
    console = Console(file=out, markup=False, emoji=False, force_terminal=terminal, width=width)
    with ProgressDisplay(shown, console=console) as display:
        task = display.task("questions :smile: of a long name", 10, done)
        for seconds, parts in steps:
            clock.now += seconds
            task(parts, 10, "loss 1.5")
    return out.getvalue()


def test_without_a_terminal_a_line_a_minute(clock):
    written = told(clock, (1, 1), (1, 2), (57, 3), (2, 4), (1, 5), (59, 6), (1, 10))
    assert written.splitlines() == [
        "questions :smile: of a long name: 1/10  loss 1.5",
        "questions :smile: of a long name: 4/10  loss 1.5  2 min left",
        "questions :smile: of a long name: 6/10  loss 1.5  2 min left",
        "questions :smile: of a long name: 10/10  loss 1.5",
    ]
    assert "\r" not in written
    assert "\x1b" not in written


def test_what_was_done_before_does_not_count_for_the_time_that_remains(clock):
    assert told(clock, (120, 6), done=5).endswith(": 6/10  loss 1.5  at most 8 min left\n")


def test_what_was_compiled_for_the_first_part_does_not_count_either(clock):
    written = told(clock, (600, 1), (60, 2), (120, 4))
    assert [line.split("  ")[-1] for line in written.splitlines()] == [
        "at most 90 min left",
        "8 min left",
        "6 min left",
    ]


def test_a_terminal_has_a_bar_and_no_lines(clock):
    written = told(clock, (1, 1), (120, 10), terminal=True, width=120)
    assert "\x1b" in written
    assert "10/10" in written
    assert "questions :smile: of a long name: 10/10" not in written


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_is_shown_where_it_is_not_wanted(clock, terminal):
    assert told(clock, (1, 1), (120, 10), shown=False, terminal=terminal) == ""
