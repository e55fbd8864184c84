"""Every code block of the README and the docs runs, or is parsed where it says that it cannot."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tests.docs import commands
from tests.docs.blocks import ROOT, Block, blocks, inline_commands, needs, pages
from training.__main__ import CONFIGS
from training.runtime import config as configs
from training.runtime.config_help import keys

PAGES = {str(path.relative_to(ROOT)): path for path in pages()}
SHELL = ("bash", "sh")
# what has no code to run, or is run elsewhere: a tutorial's cells by Sphinx
LEFT_TO_OTHERS = ("text", "console", "csv", "cpp", "c++", "diff")


@pytest.mark.parametrize("name", PAGES)
def test_blocks_are_in_known_languages_and_parse(name):
    for block in blocks(PAGES[name].read_text()):
        where = f"{name}:{block.line}"
        if block.language.startswith("{") or block.language in LEFT_TO_OTHERS:
            continue
        if block.mark == "not run":
            assert block.value, f"{where}: say why it is not run"
        if block.language == "python":
            compile(block.text, where, "exec")
        elif block.language in SHELL:
            parsed = subprocess.run(
                ["bash", "-n"], input=block.text, text=True, capture_output=True, check=False
            )
            assert parsed.returncode == 0, f"{where}: {parsed.stderr}"
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            check_yaml(block, where)
        else:
            assert block.language == "pycon", f"{where}: the language {block.language!r} is not tested"


def check_yaml(block: Block, where: str) -> None:
    """A whole file, or with the mark `config` a part of one: all of its keys exist and take these values."""
    values = yaml.safe_load(block.text)
    if block.mark != "config":
        return
    module, schema_name = CONFIGS[block.value]
    given = {"output": "x", "base": "x", "steps": 1, "rounds": 1}
    top = {key.name for key in keys(module, schema_name)}
    schema = getattr(import_module(module), schema_name)
    configs.parse(schema, {k: v for k, v in given.items() if k in top} | values, where)


@pytest.mark.parametrize("name", PAGES)
def test_command_lines_are_accepted(name):
    for block in blocks(PAGES[name].read_text()):
        if block.language in SHELL:
            for words in commands.commands_of(block.text):
                try:
                    commands.check(words)
                except Exception as error:
                    raise AssertionError(f"{name}:{block.line}: {' '.join(words)}: {error}") from error


@pytest.mark.parametrize("name", PAGES)
def test_commands_within_sentences_are_accepted(name):
    for line in inline_commands(PAGES[name].read_text()):
        for words in commands.commands_of(line):
            commands.check(words)


@pytest.mark.parametrize(
    "line",
    [
        "jaxmoe fine-tune",
        "jaxmoe sft --config sft/none",
        "jaxmoe sft --config sft/tiny optimizer.rate=1",
        "jaxmoe sft --config sft/tiny steps=many",
        "jaxmoe plan --topology v5e:4x4",
        "python -m evals.score a.csv --instruments ipip_50",
        "python -m rl.sandbox --chek",
        "python -m evals.nothing",
        "pip install '.[gpu]'",
        "make coffee",
        "unheard-of --of",
    ],
)
def test_a_wrong_command_is_seen(line):
    (words,) = commands.commands_of(line)
    with pytest.raises(Exception):  # noqa: B017
        commands.check(words)


# what runs the blocks of a page, one after the other, in one process
RUNNER = """
import doctest, json, pathlib, subprocess, sys

for kind, text, where in json.loads(pathlib.Path(sys.argv[1]).read_text()):
    if kind == "file":
        path = pathlib.Path(where)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    elif kind == "python":
        exec(compile(text, where, "exec"), globals())
    elif kind == "pycon":
        test = doctest.DocTestParser().get_doctest(text, globals(), where, None, 0)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        runner.run(test, clear_globs=False)
        globals().update(test.globs)
        assert not runner.failures, where
    else:
        subprocess.run(["bash", "-ec", text], check=True)
"""


def steps_of(page: str) -> list[tuple[str, str, str]]:
    """What RUNNER does for a page: kind, text, and the file to write or the place in the page."""
    steps = []
    for block in blocks(page):
        if block.mark == "file":
            steps.append(("file", block.text, block.value))
        elif block.mark == "run":
            steps.append(("run", block.text, f"line {block.line}"))
        elif block.language in ("python", "pycon") and block.mark != "not run":
            steps.append((block.language, block.text, f"line {block.line}"))
    return steps


RUNNING = {name: path for name, path in PAGES.items() if steps_of(path.read_text())}


def environment() -> dict[str, str]:
    """The checkout's packages, and commands by the names of an installed environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PYTHONPATH": str(ROOT), "PATH": path, "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="session")
def short_runs(tmp_path_factory):
    """Short runs of named configs, made when a page first needs them; returns their folder."""
    folder = tmp_path_factory.mktemp("short_runs")

    def make(names: list[str]) -> Path:
        for name in names:
            if (folder / "done" / name).exists():
                continue
            length = "rounds=1" if name.startswith("ppo/") else "steps=24"
            command = [sys.executable, "-m", "training", name.split("/")[0], "--config", name, length]
            done = subprocess.run(
                command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr[-3000:]
            (folder / "done" / name).mkdir(parents=True)
        return folder

    return make


# these train what their pages train
TRAINING = (
    "docs/getting-started.md",
    "docs/guides/export.md",
    "docs/guides/finetune.md",
    "docs/guides/rl.md",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in TRAINING)) for name in RUNNING]
)
def test_python_runs(name, tmp_path, short_runs):
    page = RUNNING[name].read_text()
    if wanted := needs(page):
        shutil.copytree(short_runs(wanted) / "runs", tmp_path / "runs")
    steps = tmp_path / "steps.json"
    steps.write_text(json.dumps(steps_of(page)))
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(steps)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
