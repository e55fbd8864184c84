"""The demo's questionnaires: its models asked as described people, and whether to believe what they say."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evals.faithfulness.report import write_report
from evals.models.local_model import Form
from jaxmoe.language_model import LanguageModel
from training.runtime import config as configs
from training.suites.behavior import ask, bases_told, card, prepare
from training.suites.config import EvalConfig
from training.suites.evaluation import Loaded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def questionnaire(
    models: Mapping[str, LanguageModel],
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    config: str = "demo/scratch/behavior",
) -> Path:
    """Asks every model the questions of the config's section `behavior`; the first is the base of the others.

    Answers are kept in the folder, and questions that are answered there are not asked again. The models are
    given, so the config's own base, beside and output are not read.

    Args:
      models: by the name under which the report shows them.
      tokenizer: of all the models.
      folder: for answers and report.
      config: YAML file or name of a shipped config, of the command eval.
    Returns: the path of report.html.
    """
    settings = configs.load(EvalConfig, config)
    behavior = settings.behavior
    study = prepare(behavior, settings.seed, settings.confidence)
    loaded: list[tuple[str, Loaded, Form]] = [
        (name, Loaded(lm, tokenizer, settings.batch_size, settings.max_length, False), behavior.form)
        for name, lm in models.items()
    ]
    asked = ask(study, behavior, loaded, folder)
    said = {**card(study, behavior), "models": ", ".join(models), "form": behavior.form} | bases_told(asked)
    return write_report(study.report(asked.answers, said, replies=asked.replies), folder)
