"""The commands: python -m training COMMAND --config NAME_OR_FILE key=value ...

They are assembled from the table in training.commands. A command's module and its libraries are imported when
it runs; --help reads their source instead.
"""

import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

from training.runtime.ctrl_c import end_at_once

if __name__ == "__main__":  # first, as importing the rest takes a while
    end_at_once()

import typer
from rich.console import Console
from typer.core import TyperCommand

from training.commands import COMMANDS
from training.runtime.allocator import one_heap
from training.runtime.config_help import config_of, summary, text
from training.runtime.lost_process import LOST, is_loss, say_lost
from training.runtime.version import version

# keeps transformers from telling every user that torch is missing; nothing here needs it
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

# Errors in the user's input, reported in one line; any other error is ours and keeps its traceback.
INPUT_ERRORS = (ValueError, OSError)
EXIT_BAD_INPUT, EXIT_FAILED = 2, 1
# run-time errors whose message needs no traceback, by name: importing them takes time
SAYS_ALL = frozenset({"DivergedError", "SandboxError", "ToolsError"})
OUT_OF_MEMORY = "the device's memory does not suffice: {remedy} (--traceback shows where)"
_SMALLER_STEPS = (
    "raise step.accumulate, set step.remat=full or step.precision=bfloat16, lower data.batch_size, "
    "or raise mesh.fsdp"
)
REMEDIES = {
    "pretrain": _SMALLER_STEPS,
    "sft": f"{_SMALLER_STEPS}; base_dtype=bfloat16 halves a frozen base, int8 and nf4 hold it in less",
    "ppo": "raise ppo.accumulate, set forward.remat=full, forward.precision=bfloat16 or base_dtype=bfloat16, "
    "lower rollout.prompts or rollout.samples, or raise mesh.fsdp",
}
OTHER_REMEDY = "set dtype=bfloat16 where the command has that key, or lower its batch size"
# the extra of this package that installs an optional library
EXTRAS = {"uvicorn": "serve", "starlette": "serve", "prometheus_client": "serve"}
# module and class of the config of each command that reads one
CONFIGS = {name: found for name, module in COMMANDS.items() if (found := config_of(module)) is not None}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # a local may hold an API key
    rich_markup_mode=None,
    help="Train, fine-tune, export and try language models with LoRA experts.\n\n"
    "Every command reads one YAML file and takes overrides: "
    "python -m training sft --config sft/tiny optimizer.lr=1e-4 adapter=lora\n\n"
    "COMMAND --help lists every key of its config.",
)


@app.callback(invoke_without_command=True)
def options(
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Options of the program itself, not of a command."""
    if show_version:
        print(f"jaxmoe {version()}")
        raise typer.Exit


def with_keys(configs: dict[str, tuple[str, str]]) -> type[TyperCommand]:
    """A command class whose --help ends with the keys of a config, or of several.

    Args:
      configs: module and class of each, by the name under which --help shows it.
    """

    class WithKeys(TyperCommand):
        def format_epilog(self, ctx: Any, formatter: Any) -> None:  # typer has its own copy of click's types
            for name, config in configs.items():
                of = f" of {name}" if len(configs) > 1 else ""
                formatter.write(f"\nKeys of the config{of} (override any of them as key=value):\n")
                formatter.write(text(*config) + "\n")

    return WithKeys


def guarded(run: Callable[[], object], traceback: bool, command: str) -> None:
    """Runs a command; bad input ends in one line and exit code 2.

    Args:
      traceback: let errors through, so that Python shows where they arose.
      command: its name, on which the advice depends if memory runs out.
    """
    try:
        run()
    except Exception as error:
        if not is_loss(error):
            _explain(error, traceback, command)
            raise
        if not say_lost():
            _say(LOST)
        os._exit(EXIT_FAILED)  # on a normal exit JAX would wait for the others


def _explain(error: Exception, traceback: bool, command: str) -> None:
    """Ends the program with one line if the error needs no more."""
    try:
        raise error
    except INPUT_ERRORS as error:
        if traceback:
            raise
        # Orbax leaves unfinished writes, which complain at exit
        if type(error).__name__ == "DiskFullError":
            sys.unraisablehook = lambda _: None
        said = " ".join(str(error).split()) or type(error).__name__
        _say(f"error: {said}")
        sys.exit(EXIT_BAD_INPUT)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(str(error.name).partition(".")[0])
        if traceback or extra is None:
            raise
        _say(f"error: this needs {error.name}: pip install 'jaxmoe[{extra}]'")
        sys.exit(EXIT_BAD_INPUT)
    except RuntimeError as error:
        plain = type(error).__name__ in SAYS_ALL
        if traceback or not (plain or "RESOURCE_EXHAUSTED" in str(error)):
            raise
        remedy = REMEDIES.get(command, OTHER_REMEDY)
        said = " ".join(str(error).split()) if plain else OUT_OF_MEMORY.format(remedy=remedy)
        _say(f"stopped: {said}")
        sys.exit(EXIT_FAILED)


def _say(line: str) -> None:
    Console(markup=False, emoji=False, stderr=True, soft_wrap=True).print(line, markup=False, highlight=False)


def register_config(name: str, module: str, declared: tuple[str, str]) -> None:
    """Adds a command that reads a config.

    Args:
      name: as users type it.
      module: dotted name of the command's module, imported when the command runs.
      declared: module and class of its config.
    """

    def run(
        config: Annotated[
            str | None,
            typer.Option(
                metavar="NAME_OR_FILE",
                help="Shipped config (sft/tiny) or YAML file; without it, all keys come from KEY=VALUE.",
            ),
        ] = None,
        overrides: Annotated[
            list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Override keys of the file.")
        ] = None,
        traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
    ) -> None:
        def load_and_run() -> object:
            from training.runtime.config import check_file, load

            check_file(config, overrides or ())
            schema = getattr(import_module(declared[0]), declared[1])
            return import_module(module).main(load(schema, config, overrides or ()))

        guarded(load_and_run, traceback, name)

    app.command(name, help=summary(module), cls=with_keys({name: declared}))(run)


def register_command(name: str, module: str) -> None:
    """Adds a command with arguments and options of its own.

    Args:
      name: as users type it.
      module: dotted name of the command's module, imported now; its `CONFIGS`, if any, are shown by --help.
    """
    loaded = import_module(module)

    @functools.wraps(loaded.command)
    def run(**arguments: Any) -> None:  # whatever the command declares
        guarded(lambda: loaded.command(**arguments), bool(arguments.get("traceback")), name)

    configs: dict[str, tuple[str, str]] = getattr(loaded, "CONFIGS", {})
    app.command(name, help=summary(module), cls=with_keys(configs))(run)


for _name, _module in COMMANDS.items():
    if _name in CONFIGS:
        register_config(_name, _module, CONFIGS[_name])
    else:
        register_command(_name, _module)


def main() -> None:
    """The program `jaxmoe`, and python -m training."""
    end_at_once()
    one_heap()
    app(prog_name="jaxmoe" if os.path.basename(sys.argv[0]) == "jaxmoe" else "python -m training")


if __name__ == "__main__":
    main()
