"""The commands: python -m training COMMAND --config FILE key=value ...

A command's module and its libraries are imported when it runs; --help reads their source instead.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from typer.core import TyperCommand

from training.runtime.allocator import one_heap
from training.runtime.config_help import text

# transformers would tell every user that torch is missing; nothing here needs it
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

# What is wrong with the input, said in one line; anything else is our mistake and keeps its traceback.
INPUT_ERRORS = (ValueError, OSError)
EXIT_BAD_INPUT, EXIT_FAILED = 2, 1
OUT_OF_MEMORY = (
    "the device's memory does not suffice: raise step.accumulate, set step.remat=full, "
    "step.precision=bfloat16 or base_dtype=bfloat16, lower data.batch_size, or spread the weights by "
    "mesh.fsdp (--traceback shows where)"
)


class Command(NamedTuple):
    """A command: `main(config)` in a module, and the schema of its config there."""

    module: str
    schema: str
    summary: str


COMMANDS = {
    "demo": Command(
        "training.commands.demo",
        "DemoConfig",
        "Train a small base, fine-tune it with full SFT and with LoRAMoE, compare what each kept and "
        "learned, export, generate, plot. Finished stages are not run again.",
    ),
    "pretrain": Command(
        "training.supervised.pretrain", "PretrainConfig", "Train all weights of a model on text."
    ),
    "sft": Command(
        "training.supervised.sft",
        "SftConfig",
        "Fine-tune a model on instructions: adapter=loramoe adds routed LoRA experts to the frozen base, "
        "adapter=lora plain LoRA, adapter=none trains every weight.",
    ),
    "ppo": Command(
        "training.ppo.train",
        "PpoConfig",
        "Train a code model by PPO from compiler feedback: curriculum=cccs|none, mask=fgo|response, "
        "algorithm=ppo|grpo|rloo.",
    ),
    "eval": Command(
        "training.commands.evaluate",
        "EvalConfig",
        "Measure a model: suite=knowledge asks closed-book and multiple-choice questions, suite=coding runs "
        "its programs in the sandbox, suite=behavior tests its self-report and whether to believe it.",
    ),
    "export": Command(
        "training.commands.export",
        "ExportConfig",
        "Write a trained model for other programs: Hugging Face folders; LoRAMoE, MoE-PEFT, PEFT adapters.",
    ),
    "generate": Command(
        "training.commands.generate",
        "GenerateConfig",
        "Continue prompts with a trained model or a checkpoint.",
    ),
    "serve": Command(
        "training.commands.serve",
        "ServeConfig",
        "Serve a model over HTTP as OpenAI's API: many requests at a time, with its experts and without.",
    ),
}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Train, fine-tune, export and try language models with LoRA experts.\n\n"
    "Every command reads one YAML file and takes overrides: "
    "python -m training sft --config configs/sft/tiny.yaml optimizer.lr=1e-4 adapter=lora\n\n"
    "COMMAND --help lists every key of its config.",
)


def with_keys(*commands: Command) -> type[TyperCommand]:
    """A command class whose --help ends with the keys of the config, or of several."""

    class WithKeys(TyperCommand):
        def format_epilog(self, ctx, formatter) -> None:  # type: ignore[no-untyped-def]
            for command in commands:
                of = f" of {command.summary}" if len(commands) > 1 else ""
                formatter.write(f"\nKeys of the config{of} (override any of them as key=value):\n")
                formatter.write(text(command.module, command.schema) + "\n")

    return WithKeys


def guarded(run: Callable[[], object], traceback: bool) -> None:
    """Runs a command; bad input ends in one line and exit code 2."""
    try:
        run()
    except INPUT_ERRORS as error:
        if traceback:
            raise
        if (
            type(error).__name__ == "DiskFullError"
        ):  # Orbax leaves half-done writes, which complain at the end
            sys.unraisablehook = lambda _: None
        said = " ".join(str(error).split()) or type(error).__name__
        Console(stderr=True, soft_wrap=True).print(f"error: {said}", markup=False, highlight=False)
        sys.exit(EXIT_BAD_INPUT)
    except RuntimeError as error:
        diverged = type(error).__name__ == "DivergedError"
        if traceback or not (diverged or "RESOURCE_EXHAUSTED" in str(error)):
            raise
        said = str(error) if diverged else OUT_OF_MEMORY
        Console(stderr=True, soft_wrap=True).print(f"stopped: {said}", markup=False, highlight=False)
        sys.exit(EXIT_FAILED)


def register(name: str, command: Command) -> None:
    """Adds a command to the app."""

    def run(
        config: Annotated[
            Path | None, typer.Option(help="YAML file; without one, everything is given by KEY=VALUE.")
        ] = None,
        overrides: Annotated[
            list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Override keys of the file.")
        ] = None,
        traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
    ) -> None:
        def load_and_run() -> object:
            from training.runtime import config as configs

            module = import_module(command.module)
            return module.main(configs.load(getattr(module, command.schema), config, overrides or ()))

        guarded(load_and_run, traceback)

    app.command(name, help=command.summary, cls=with_keys(command))(run)


for _name, _command in COMMANDS.items():
    register(_name, _command)


@app.command()
def plot(run: Annotated[Path, typer.Argument(help="Output folder of a run.", show_default=False)]) -> None:
    """Draw a run's loss curves and expert use into RUN/plots."""

    def draw() -> None:
        from training.plots.plot_run import plot_run

        for path in plot_run(run):
            print(path)

    guarded(draw, traceback=False)


@app.command(
    help="Compile a run's step for a slice that need not be there; tell memory, traffic, time and MFU."
)
def plan(
    config: Annotated[Path, typer.Option(help="YAML file of the run.", show_default=False)],
    topology: Annotated[
        str, typer.Option(help="v4, v5e, v5p or v6e:4x4 (TPU slice), a100, h100 or h200:8 (GPUs), cpu:8.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Override keys of the file.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Also write the plan as JSON.")] = None,
    decode: Annotated[bool, typer.Option(help="Plan generation with the run's model too.")] = True,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    """Memory is the executable's own; times assume the chip's published peaks."""

    def load_and_plan() -> object:
        from training.commands import plan as planning

        return planning.main(config, overrides or [], topology, save, decode=decode)

    guarded(load_and_plan, traceback)


# the studies of `reproduce`, for --help: where each config is declared
STUDIES = (
    Command("training.studies.loramoe.study", "LoramoeConfig", "loramoe"),
    Command("training.studies.stepcoder.study", "StepcoderConfig", "stepcoder"),
    Command("training.studies.realbehavior.study", "RealbehaviorConfig", "realbehavior"),
)


@app.command(
    cls=with_keys(*STUDIES),
    help="Put a paper's claims to the test: loramoe, stepcoder, realbehavior, or all. Writes OUT/STUDY.json, "
    "figures and a page; what is finished (OUT/cells) is not run again.",
)
def reproduce(
    study: Annotated[
        str, typer.Argument(help="loramoe, stepcoder, realbehavior, or all.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for cells, results and pages.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Override keys of the study's file.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file; configs/reproduce/STUDY.yaml.")] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing; write what the finished cells say.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    """Run by run, restartable; a learning rate is chosen on dev splits only."""

    def load_and_run() -> object:
        from training.commands import reproduce as reproducing

        return reproducing.main(study, out, config, overrides or (), report_only=report_only)

    guarded(load_and_run, traceback)


if __name__ == "__main__":
    one_heap()
    app(prog_name="python -m training")
