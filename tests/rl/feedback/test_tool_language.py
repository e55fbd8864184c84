"""Languages that tools of the machine run: what is said where they are not there or do not work."""

import dataclasses

import pytest

from rl.feedback import tool_language
from rl.feedback.languages import LANGUAGES, LanguageEntry
from rl.feedback.pool import Limits, Pool
from rl.feedback.problems import Problem
from rl.feedback.tool_language import ToolLanguage
from rl.feedback.toolchains import javascript
from rl.sandbox.worker import ToolsError

PROBLEM = Problem("double", "", inputs=["3\n"], outputs=["6\n"], language="tooled")


def _grade_with(monkeypatch, chain):
    made = []

    def make(packages):
        made.append(packages)
        return ToolLanguage(chain)

    monkeypatch.setitem(LANGUAGES, "tooled", LanguageEntry(make, chain.text))
    with Pool(workers=1, limits=Limits(time_s=1.0)) as pool:
        try:
            return pool.grade(PROBLEM, "")
        finally:
            assert len(made) == 1  # not tried again


def test_tools_that_the_machine_lacks_are_named_at_once(monkeypatch):
    chain = dataclasses.replace(javascript.TOOLCHAIN, tools=("no-such-tool", "nor-this"))
    with pytest.raises(ToolsError, match="JavaScript problems need no-such-tool and nor-this"):
        _grade_with(monkeypatch, chain)


def test_tools_that_do_not_work_in_the_sandbox_say_why(monkeypatch):
    steps = tool_language.Steps(("true",), compile=("ls", "/no/such/folder"))
    chain = dataclasses.replace(javascript.TOOLCHAIN, tools=("ls",), steps=steps, coverage=None)
    with pytest.raises(ToolsError, match=r"tools of JavaScript do not work in the sandbox: .*no/such/folder"):
        _grade_with(monkeypatch, chain)


def test_other_problems_than_of_standard_input_are_refused():
    chain = dataclasses.replace(javascript.TOOLCHAIN, tools=("ls",))
    calls = Problem("double", "", fn_name="f", inputs=[[1]], outputs=[2], language="javascript")
    with pytest.raises(ValueError, match="double is of kind call"):
        ToolLanguage(chain).run_tests(calls, "", None)  # pyright: ignore[reportArgumentType]
