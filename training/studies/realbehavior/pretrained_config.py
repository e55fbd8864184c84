"""The config of the RealBehavior study on a pretrained chat model: who is asked what, and how."""

from dataclasses import dataclass, field
from typing import Literal

from evals.faithfulness.criteria import Thresholds
from evals.models.local_model import Form


@dataclass(frozen=True)
class AskedWay:
    """One way of asking a model, with the conditions that it can afford.

    Attributes:
      answers: label scores the options' letters by log-probability, written samples a text and reads it.
      instruments: shipped questionnaires; conclusions use the first.
      templates, option_orders: wordings, and orders of the options; all are crossed.
      personas: who the model is told to be, as in `suite=behavior`.
      situations: behavior tasks for each construct; 0 for none.
      temperature, max_new_tokens: settings for written answers.
      form: how a question is presented to the model.
      batch_size: questions asked at once.
    """

    answers: Literal["label", "written"] = "label"
    instruments: tuple[str, ...] = ("ipip_neo_120", "mini_ipip")
    templates: tuple[str, ...] = ("form", "terse")
    option_orders: tuple[str, ...] = ("forward", "reversed")
    personas: str = "graded-64"
    situations: int = 1
    temperature: float = 1.0
    max_new_tokens: int = 16
    form: Form = "chat"
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not self.instruments:
            raise ValueError("a way of asking needs at least one instrument; got none")
        if self.situations < 0:
            raise ValueError(f"situations must be at least 0; got {self.situations}")


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuning of the pretrained model.

    Attributes:
      label: name in tables and figures.
      config: config for `python -m training sft`; the study sets its base and output.
    """

    label: str
    config: str


@dataclass(frozen=True)
class PretrainedStudyConfig:
    """A pretrained chat model, and what it is asked before and after fine-tuning.

    Attributes:
      base: named model, GGUF file, folder or hub id of a chat model.
      tuned: fine-tunings, by name.
      ways: how the base is asked, by name.
      tuned_ways: how it is asked after each fine-tuning, by name; conditions in which a way of the same name
        also asks the base are compared in pairs.
      thresholds: what counts as faithful.
    """

    base: str = "smollm2-135m-instruct"
    tuned: dict[str, FineTuned] = field(default_factory=dict)
    ways: dict[str, AskedWay] = field(default_factory=lambda: {"scored": AskedWay()})
    tuned_ways: dict[str, AskedWay] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        if not self.ways:
            raise ValueError("pretrained.ways must name at least one way of asking the base; got none")
        if unknown := [name for name in self.tuned_ways if name not in self.ways]:
            raise ValueError(
                f"pretrained.tuned_ways must be of {', '.join(self.ways)}, the base's; got {unknown[0]!r}"
            )
