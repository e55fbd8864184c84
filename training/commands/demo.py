"""Fine-tune a pretrained model with LoRAMoE and with every weight, compare what each kept and learned, export
and chat. demo=scratch does all of it from scratch, code and questionnaires included.

Finished stages are not rerun: the same command continues where it was stopped.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxmoe.given_paths import check_writable, given
from jaxmoe.json_values import JsonObject
from training.demo import pretrained, scratch
from training.runtime import config as configs
from training.runtime import shipped
from training.runtime.given_models import check_base, check_tokenizer

FACTS, TASKS, SCRATCH_TASKS = 1000, 140, 350


@dataclass(frozen=True)
class DemoConfig:
    """Train, compare, export, generate, plot, all in one folder.

    Attributes:
      demo: pretrained starts from `base`, or from scratch if that cannot be fetched; scratch first trains a
        base of 1.3 million weights, and also teaches code and asks questionnaires.
      base: chat model to fine-tune: a named model, GGUF file, folder or hub id.
      output: folder for the runs, results.json and plots; null takes runs/demo or runs/demo-scratch.
      configs: folder with a config for each stage, or the name of a shipped one; null takes
        demo/pretrained or demo/scratch.
      steps_scale: share of each stage's steps to run; below 1 for a quick look at the plumbing.
      tasks: held-out downstream samples in the table; null takes 140, or 350 from scratch.
      facts: held-out facts that the base is asked; null takes 1,000, or all of them from scratch.
    """

    __pydantic_config__ = configs.STRICT

    demo: Literal["pretrained", "scratch"] = "pretrained"
    base: str = "smollm2-135m-instruct"
    output: str | None = None
    configs: str | None = None
    steps_scale: float = 1.0
    tasks: int | None = None
    facts: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.steps_scale <= 1:
            raise ValueError(f"steps_scale must lie in (0, 1]; got {self.steps_scale}")
        for name in ("tasks", "facts"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ValueError(f"{name} must be at least 1; got {count}")


def main(config: DemoConfig) -> JsonObject:
    """Runs the stages one after the other and prints the comparison."""
    if config.demo == "pretrained" and _to_be_had(config.base):
        output, stages = Path(config.output or "runs/demo"), config.configs or "demo/pretrained"
        _check_places(output, stages, "demo/pretrained")
        facts, tasks = config.facts or FACTS, config.tasks or TASKS
        return pretrained.main(config.base, output, stages, config.steps_scale, facts, tasks)
    output, stages = Path(config.output or "runs/demo-scratch"), config.configs or "demo/scratch"
    _check_places(output, stages, "demo/scratch")
    return scratch.main(output, stages, config.steps_scale, config.facts, config.tasks or SCRATCH_TASKS)


def _check_places(output: Path, stages: str, usual: str) -> None:
    """Checks that there is a config for each stage now, not when its turn comes.

    Args:
      output: folder of the demo.
      stages: folder with the configs, or the name of a shipped one.
      usual: the shipped one, which has all of them.
    """
    check_writable("output", output, "folder")
    with given("configs", stages):
        for name in shipped.names():
            if name.startswith(f"{usual}/"):
                configs.read(f"{stages}/{name.removeprefix(f'{usual}/')}")


def _to_be_had(base: str) -> bool:
    """Fetches the base; if the default one cannot be fetched, prints why and returns False."""
    try:
        check_base("base", base)
        check_tokenizer("base", base)
    except ValueError as error:
        if base != DemoConfig.base:
            raise  # nothing replaces a base that the user chose
        print(f"{error}\nThe demo goes on with a small model trained on the spot.", file=sys.stderr)
        return False
    return True
