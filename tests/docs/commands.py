"""Command lines of docs and launch files, checked without running them."""

import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import typer

from training.__main__ import CONFIGS, app
from training.runtime.config import load, read

ROOT = Path(__file__).parents[2]
# other people's programs: their arguments are not ours to check
FOREIGN = re.compile(
    "cd|curl|docker|exit|export|gcloud|git|if|kubectl|ls|mkdir|open|ray|sbatch|scontrol|set|shift|sky|source|"
    "tensorboard|test|trap|uv|wait|xpk|fi|then|echo"
)


def commands_of(text: str) -> list[list[str]]:
    """The command lines of shell text: continuation lines joined, comments and variable settings dropped."""
    found: list[list[str]] = []
    for line in _logical_lines(re.sub(r"\\\n\s*", " ", text)):
        words: list[str] = []
        for word in [*line, ";"]:
            if word in (";", "&&", "||", "|", "&"):
                while words and re.fullmatch(r"\w+=.*", words[0], re.DOTALL):
                    words.pop(0)
                if words:
                    found.append(words)
                words = []
            else:
                words.append(word)
    return found


def _logical_lines(text: str) -> list[list[str]]:
    """The words of each line; a line whose quotes are open takes the next ones in."""
    found, held = [], ""
    for line in text.splitlines():
        held += line
        try:
            found.append(shlex.split(held, comments=True))
            held = ""
        except ValueError:
            held += "\n"
    assert not held, f"a quote is never closed: {held[:80]}"
    return found


def check(words: list[str], variables: Mapping[str, str] | None = None) -> None:
    """Raises an AssertionError or what the program would raise if a command line is wrong.

    Args:
      variables: values of shell variables; others stand as they are written.
    """
    for name, value in (variables or {}).items():
        words = [re.sub(rf"\$\{{?{name}\}}?(?!\w)", value, word) for word in words]
    match words:
        case ["srun", *rest]:
            check([word for word in rest if not word.startswith("--kill")], variables)
        case ["jaxmoe", *rest] | ["python", "-m", "training", *rest]:
            check_training(rest)
        case ["python", "-m", module, *rest]:
            check_module(module, rest)
        case ["python", script, *_]:
            assert (ROOT / script).exists(), f"there is no {script}"
        case ["pip", "install", *rest]:
            check_extras(rest)
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text()
            for target in targets:
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"the Makefile has no {target}"
        case [program, *_]:
            assert FOREIGN.fullmatch(program), (
                f"what is {program}? Add it to FOREIGN if it is no program of ours"
            )


def check_training(arguments: list[str]) -> None:
    """`jaxmoe ...`: command and options exist, the config is found, overrides are keys with such values."""
    group = typer.main.get_command(app)
    if not arguments or arguments == ["--help"]:
        return
    name, *rest = arguments
    with group.make_context("jaxmoe", [name, *rest], resilient_parsing=False) as context:  # type: ignore[attr-defined]
        command = group.get_command(context, name)  # type: ignore[attr-defined]
    assert command is not None, f"jaxmoe has no command {name}"
    if "--help" in rest:
        return
    parsed = command.make_context(name, list(rest)).params
    if name == "reproduce":
        studies = import_module("training.commands.reproduce").CONFIGS
        for study in studies if parsed["study"] == "all" else [parsed["study"]]:
            load_config(studies[study], parsed["config"] or f"reproduce/{study}", parsed["overrides"])
    elif name in CONFIGS:
        load_config(CONFIGS[name], parsed["config"], parsed["overrides"])
    elif parsed.get("config") is not None:
        read(parsed["config"])
    elif name == "plan":
        assert parsed["kind"] == "serve", "plan needs a config, but for a server"


def load_config(declared: tuple[str, str], name: str | None, overrides: Sequence[str] | None) -> None:
    """A command's config with its overrides, as the command loads it."""
    module, schema = declared
    load(getattr(import_module(module), schema), name, overrides or ())


def check_module(module: str, arguments: list[str]) -> None:
    """`python -m module ...`: it exists, and its options are those that it has."""
    is_folder = (ROOT / module.replace(".", "/") / "__main__.py").is_file()
    loaded = import_module(f"{module}.__main__" if is_folder else module)
    text = Path(loaded.__file__ or "").read_text()
    if "typer.run(main)" in text or isinstance(getattr(loaded, "app", None), typer.Typer):
        single = getattr(loaded, "app", None) or typer.Typer()
        if not single.registered_commands:
            single.command()(loaded.main)
        if "--help" not in arguments:
            typer.main.get_command(single).make_context(module, list(arguments))
        return
    for option in (word for word in arguments if word.startswith("--")):
        assert f'"{option.partition("=")[0]}"' in text, f"{module} has no option {option}"


def check_extras(arguments: list[str]) -> None:
    """`pip install`: extras are those of pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        known = set(tomllib.load(file)["project"]["optional-dependencies"])
    for word in arguments:
        for extra in re.findall(r"\[([\w,]+)\]", word):
            assert set(extra.split(",")) <= known, f"pyproject.toml has no extra {extra}"
