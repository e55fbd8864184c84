"""The command line: the table of commands, --help without their libraries, --version."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.__main__ import CONFIGS, app, register_config
from training.commands import COMMANDS
from training.runtime.config_help import config_of, summary
from training.runtime.version import version

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "training" / "commands"


def test_every_file_is_a_command_of_the_table():
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert files == {module.rpartition(".")[2] for module in COMMANDS.values()}


def test_help_tells_what_each_command_does():
    said = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    for name, module in COMMANDS.items():
        assert summary(module).split(":")[0][:30] in said, name


@pytest.mark.parametrize(
    "arguments", [["--help"], ["sft", "--help"], ["plan", "--help"], ["reproduce", "--help"]]
)
def test_help_imports_no_heavy_library(arguments):
    """So that it answers at once: a second goes into importing JAX alone."""
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom training.__main__ import app\n"
        f"print(CliRunner().invoke(app, {arguments!r}).exit_code)\n"
        "print(sorted({'jax', 'numpy', 'yaml', 'transformers', 'matplotlib'} & set(sys.modules)))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.split("\n")[:2] == ["0", "[]"]


GREET = '''
"""Greet people."""
from dataclasses import dataclass

@dataclass(frozen=True)
class GreetConfig:
    """Whom.

    Attributes:
      name: of the person.
    """

    name: str = "you"


def main(config: GreetConfig) -> None:
    """Greets."""
    print("hello", config.name)
'''


def test_a_new_command_is_one_file_and_one_line(tmp_path, monkeypatch):
    """A module with a docstring and main(config) is all that is needed."""
    (tmp_path / "greet.py").write_text(GREET)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("training.runtime.config_help.ROOT", tmp_path)
    config = config_of("greet")
    assert config == ("greet", "GreetConfig")
    commands = list(app.registered_commands)
    try:
        register_config("greet", "greet", config)
        assert CliRunner().invoke(app, ["greet", "name=Ada"]).output == "hello Ada\n"
        said = CliRunner().invoke(app, ["greet", "--help"]).output
        assert "Greet people." in said
        assert "name: str = you\n      of the person." in said
    finally:
        app.registered_commands[:] = commands


def test_version():
    assert CliRunner().invoke(app, ["--version"]).output == f"jaxmoe {version()}\n"


def test_configs_are_those_of_main():
    assert CONFIGS["sft"] == ("training.supervised.config", "SftConfig")
    assert CONFIGS["ppo"] == ("training.ppo.config", "PPORunConfig")
    assert CONFIGS["demo"] == ("training.commands.demo", "DemoConfig")  # it imports other commands' main too
    assert "plan" not in CONFIGS
