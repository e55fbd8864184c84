"""The face of rl: its names, its examples, and that it costs the sandbox's server nothing."""

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import rl

ROOT = Path(__file__).parents[2]
DOCUMENTED = ("rl", "rl.feedback.problems", "rl.feedback.python_text", "rl.sandbox.comparison")
FUNCTIONS = [name for name in rl.__all__ if inspect.isfunction(getattr(rl, name))]


def test_every_name_is_there_and_documented():
    assert {"Problem", "load_problems", "Pool", "Limits"} <= set(rl.__all__)
    for name in rl.__all__:
        thing = getattr(rl, name)
        assert thing.__doc__, name
        assert thing.__module__.startswith("rl."), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rl.nothing  # noqa: B018


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_of_modules_run(name: str):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_tell_arguments_results_errors_and_an_example(name: str):
    function = getattr(rl, name)
    text = inspect.getdoc(function) or ""
    told = text.partition("Args:")[2]
    assert [argument for argument in inspect.signature(function).parameters if argument not in told] == []
    assert "Returns:" in told
    assert "Raises:" in told
    [example] = doctest.DocTestFinder(recurse=False).find(function, name)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_sandboxs_server_loads_no_more_than_it_runs():
    """What the server imports of ours is the isolation and the program's side; nothing of the grader's."""
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import rl.sandbox.forkserver; print(*sys.modules)"
    )
    python = [sys.executable, "-P", "-s", "-S", "-B", "-c", script]
    modules = subprocess.run(python, capture_output=True, text=True, check=True).stdout.split()
    loaded = sorted(name for name in modules if name.partition(".")[0] == "rl")
    rooms = ("forkserver", "isolation", "landlock", "linux", "program", "program_server")
    rooms += ("script_environment", "values")
    assert loaded == sorted(["rl", "rl.sandbox", *(f"rl.sandbox.{name}" for name in rooms)])
