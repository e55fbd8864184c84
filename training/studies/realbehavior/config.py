"""The config of the RealBehavior study: whose behavior is asked about, with which questions, how often."""

from dataclasses import dataclass, field

from evals.faithfulness.criteria import Thresholds
from evals.models.local_model import Form
from evals.questionnaires.respondents.simulated import NULLS, RULES
from training.runtime import config as configs
from training.studies.realbehavior.pretrained_config import PretrainedStudyConfig


@dataclass(frozen=True)
class AskedConfig:
    """What all respondents are asked, models and simulated respondents alike.

    Attributes:
      instruments: shipped questionnaires that measure the same constructs; conclusions use the first.
      templates, option_orders: wordings, and orders of the options; all are crossed.
      personas: number of described people, composed of high and low on every construct; balanced for 8, 16
        and 32.
      situations: behavior tasks for each construct.
      form: how a question is presented to a model: text, instruction or chat.
      window: minimum number of tokens for a question if a model's own limit is lower: a question that is cut
        loses the described person.
      batch_size: questions scored at once.
      thresholds: what counts as faithful.
    """

    instruments: tuple[str, ...] = ("ipip_50", "mini_ipip")
    templates: tuple[str, ...] = ("form", "terse")
    option_orders: tuple[str, ...] = ("forward", "reversed")
    personas: int = 16
    situations: int = 1
    form: Form = "text"
    window: int = 640
    batch_size: int = 64
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        if not self.instruments:
            raise ValueError("asked.instruments must name at least one; got none")
        if not 2 <= self.personas <= 32:
            raise ValueError(f"asked.personas must be 2 to 32; got {self.personas}")


@dataclass(frozen=True)
class Tuned:
    """A row of the LoRAMoE study whose answers are followed.

    Attributes:
      label: name in tables and figures.
      rate: its learning rate, as chosen by the study that compares the rows.
    """

    label: str
    rate: float


@dataclass(frozen=True)
class Reinforced:
    """The run of the StepCoder study whose answers are followed.

    Attributes:
      label: name in tables and figures.
      row, regime: its row and regime in that study.
      seeds: number of runs; seed s starts from that study's base s mod bases.
      rounds: number of rounds of rollouts.
      every: rounds between two measurements.
      held_out: number of held-out problems on which it is also measured, to show that it learned something.
    """

    label: str = "RL from tests"
    row: str = "stepcoder"
    regime: str = "mixture"
    seeds: int = 1
    rounds: int = 16
    every: int = 8
    held_out: int = 64

    def __post_init__(self) -> None:
        if min(self.rounds, self.every, self.held_out) < 1 or self.seeds < 0:
            raise ValueError("reinforced.rounds, every and held_out must be at least 1, and seeds at least 0")


@dataclass(frozen=True)
class RealbehaviorConfig:
    """The RealBehavior study.

    Attributes:
      tuned: fine-tuned rows, by their names in the LoRAMoE study.
      loramoe, stepcoder: configs of the studies whose bases and training are used; they take this study's
        scale.
      bases: how many of the LoRAMoE study's bases are used.
      seeds: runs of every tuned row on each base.
      volumes: when to ask, as multiples of that study's 1x; the largest ends the run.
      reinforced: the reinforcement learning run.
      nulls: simulated respondents, including the faithful one.
      null_seeds: number of seeds for each of them.
      asked: the questions.
      drift: mean shift of a score, in SDs of the base, above which characteristics count as moved.
      goal: share of wrong conclusions that the judging is allowed to make.
      scale: share of training, described people and null seeds; below 1 only the plumbing is tested.
      pretrained: ask a pretrained chat model instead; the rest of this config is then unused.
    """

    __pydantic_config__ = configs.STRICT

    tuned: dict[str, Tuned] = field(default_factory=dict)
    loramoe: str = "reproduce/loramoe"
    stepcoder: str = "reproduce/stepcoder"
    bases: int = 2
    seeds: int = 2
    volumes: tuple[int, ...] = (1, 10, 30, 100)
    reinforced: Reinforced = field(default_factory=Reinforced)
    nulls: tuple[str, ...] = (*NULLS, "faithful")
    null_seeds: int = 100
    asked: AskedConfig = field(default_factory=AskedConfig)
    drift: float = 0.5
    goal: float = 0.05
    scale: float = 1.0
    pretrained: PretrainedStudyConfig | None = None

    def __post_init__(self) -> None:
        if self.pretrained is None and not self.tuned:
            raise ValueError("tuned must name rows of the LoRAMoE study, or pretrained a model; got neither")
        if self.pretrained is not None and self.scale != 1:
            raise ValueError(
                f"scale has no part in a pretrained model's study; got {self.scale} (fewer "
                "pretrained.ways.NAME.personas make it shorter)"
            )
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale must lie in (0, 1]; got {self.scale}")
        if min(self.bases, self.seeds, self.null_seeds, *self.volumes) < 1:
            raise ValueError("bases, seeds, null_seeds and volumes must be at least 1")
        if list(self.volumes) != sorted(set(self.volumes)):
            raise ValueError(f"volumes must rise; got {list(self.volumes)}")
        if unknown := [name for name in self.nulls if name not in RULES]:
            raise ValueError(f"nulls must be of {', '.join(RULES)}; got {unknown[0]!r}")
        if not (self.drift > 0 and 0 < self.goal < 1):
            raise ValueError(f"drift must be positive, goal in (0, 1); got {self.drift} and {self.goal}")

    def scaled(self, number: int) -> int:
        """Scales a number of rounds, people or seeds."""
        return max(1, round(number * self.scale))
