"""The config of the LoRAMoE study: its rows, how many runs each has, and how they are measured."""

from dataclasses import dataclass, field
from typing import NamedTuple

from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig
from training.data.batch import BatchConfig
from training.runtime import config as configs
from training.runtime.distributed import MeshConfig
from training.runtime.model import AdapterKind, LoraConfig
from training.studies.bases import check
from training.supervised.step import StepConfig


@dataclass(frozen=True)
class TuningRow:
    """A way to fine-tune.

    Attributes:
      label: name in tables and figures.
      rates: learning rates to choose from; rows of the sweep have none and take those of `rate_of`.
      seeded: the rates with which every seed runs; if empty, the one that the rule chooses.
      rate_of: the row whose rate it takes (the last rate, if several are seeded).
      knowledge_share: share of closed-book questions among the instructions; null takes the study's.
      l2_sp: decay towards the starting weights (optimizer.weight_decay with decay_to=start); for adapters,
        decay of their update.
      replay: share of the samples that are texts sampled from the base itself; pretrained bases only.
      average: instead of measuring at several volumes, measure at the end the base plus these shares of what
        training changed (WiSE-FT, arXiv:2109.01903); pretrained bases only.
    """

    label: str
    adapter: AdapterKind = "loramoe"
    rates: tuple[float, ...] = ()
    seeded: tuple[float, ...] = ()
    rate_of: str | None = None
    experts: ExpertConfig = field(default_factory=ExpertConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    knowledge_share: float | None = None
    l2_sp: float = 0.0
    replay: float = 0.0
    average: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.l2_sp < 0 or not 0 <= self.replay < 1:
            raise ValueError(
                f"l2_sp must not be negative and replay lie in [0, 1); got {self.l2_sp} and {self.replay} in "
                f"row {self.label!r}"
            )
        if not set(self.seeded) <= set(self.rates):
            raise ValueError(f"seeded must be of the row's rates; got {self.seeded} in row {self.label!r}")
        if self.average and self.lora.init != "kaiming":
            raise ValueError(f"average needs lora.init=kaiming; got {self.lora.init} in row {self.label!r}")
        if bool(self.rates) == bool(self.rate_of):
            raise ValueError(f"a row needs rates to choose from, or rate_of another row; row {self.label!r}")


@dataclass(frozen=True)
class PretrainedConfig:
    """How models from a base pretrained elsewhere are examined; see `training.studies.loramoe.pretrained`.

    Attributes:
      divergence_tasks: number of held-out tasks on whose texts the divergence from the base is measured.
      plain_facts: number of facts on whose statements, as plain text, it is also measured; 0 skips this.
      own_tokens: maximum length of the answers that the base samples for these tasks.
      said_tokens: maximum length of the answers that are searched for the right one.
      choices: number of facts asked with four choices after the last snapshot.
      few_shot: number of facts asked then with five others before them.
      files: the user's files of closed-book questions, asked then after the file's first five.
      file_questions: questions taken from each file.
      rows: texts per batch in examinations.
    """

    divergence_tasks: int = 28
    plain_facts: int = 0
    own_tokens: int = 24
    said_tokens: int = 32
    choices: int = 200
    few_shot: int = 200
    files: tuple[str, ...] = ()
    file_questions: int = 200
    rows: int = 16

    def __post_init__(self) -> None:
        sizes = (
            "divergence_tasks",
            "own_tokens",
            "said_tokens",
            "choices",
            "few_shot",
            "file_questions",
            "rows",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"pretrained.{name} must be at least 1; got {getattr(self, name)}")
        if self.plain_facts < 0:
            raise ValueError(f"pretrained.plain_facts must be at least 0; got {self.plain_facts}")


class ExamSizes(NamedTuple):
    """How much every model is asked, at the study's scale.

    Attributes:
      tasks, dev_tasks: held-out task samples in test and dev.
      facts: maximum number of held-out facts; None for all.
      scale: the study's scale, for other counts.
    """

    tasks: int
    dev_tasks: int
    facts: int | None
    scale: float

    def scaled(self, number: int) -> int:
        """Scales a number of items."""
        return max(1, round(number * self.scale))


@dataclass(frozen=True)
class LoramoeConfig:
    """The LoRAMoE study.

    Attributes:
      base: pretraining config of the bases; base number b takes seed b.
      checkpoints: existing bases, instead of pretraining any: folders or hub ids, one for each of `bases`;
        config and data of the base are then not read. They must know the embedded facts, unless `pretrained`
        is given.
      pretrained: for checkpoints that were pretrained elsewhere: they are trained and asked in their chat
        form, and knowledge means the known facts that are kept. Null for bases that the study pretrains.
      bases: number of bases.
      seeds: runs of every row on each base.
      rows: rows by name; `full`, `lora`, `lora_same_rate`, `loramoe`, `loramoe_lbc` and `loramoe_matched` are
        compared with each other.
      sweep: rows that vary one thing each; run on base 0.
      sweep_seeds: runs of every row of the sweep.
      samples: number of instruction samples in 1x.
      volumes: when to measure, as multiples of 1x; the largest ends the run.
      knowledge_share: share of closed-book questions among the instructions.
      instructions: file of rows with instruction, input and output, used for training and tests in place of
        the embedded tasks; pretrained bases only.
      tolerance: how far below its best dev accuracy a row's learning rate may lie, in standard errors of
        that accuracy.
      tasks: number of held-out task samples.
      dev_tasks: number of samples in the dev split, for the learning rate.
      facts: maximum number of held-out facts; null takes all.
      data: batches of instructions.
      warmup_steps: steps over which the learning rate rises; from then on it is constant.
      scale: share of pretraining steps, volumes and test samples; below 1 only the plumbing is tested.
    """

    __pydantic_config__ = configs.STRICT

    rows: dict[str, TuningRow]
    base: str = "reproduce/base"
    checkpoints: tuple[str, ...] = ()
    pretrained: PretrainedConfig | None = None
    bases: int = 2
    seeds: int = 3
    sweep: dict[str, TuningRow] = field(default_factory=dict)
    sweep_seeds: int = 1
    samples: int = 80
    volumes: tuple[int, ...] = (1, 3, 10, 30, 100)
    knowledge_share: float = 0.125
    instructions: str | None = None
    tolerance: float = 2.0
    tasks: int = 350
    dev_tasks: int = 280
    facts: int | None = None
    scale: float = 1.0
    data: BatchConfig = field(
        default_factory=lambda: BatchConfig(batch_size=8, length=64, packing="first_fit")
    )
    warmup_steps: int = 10
    mesh: MeshConfig = field(default_factory=MeshConfig)
    step: StepConfig = field(default_factory=lambda: StepConfig(scan_layers=False))

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale must lie in (0, 1]; got {self.scale}")
        if min(self.bases, self.seeds, self.samples, *self.volumes) < 1:
            raise ValueError("bases, seeds, samples and volumes must be at least 1")
        check(self.checkpoints, self.bases)
        if self.pretrained is not None and not self.checkpoints:
            raise ValueError("pretrained is about checkpoints that are there; name them (checkpoints)")
        if self.instructions is not None and self.pretrained is None:
            raise ValueError("instructions are for pretrained bases; set pretrained, or leave them out")
        if self.pretrained is None and any(
            row.replay or row.average for row in (self.rows | self.sweep).values()
        ):
            raise ValueError(
                "rows with replay or average are for pretrained bases; set pretrained, or leave them out"
            )
        if own := [name for name, row in self.sweep.items() if row.rate_of is None]:
            raise ValueError(f"a row of the sweep takes the rate of another (rate_of); {own[0]} has its own")
        for name, row in (self.rows | self.sweep).items():
            if row.rate_of is not None and not (row.rate_of in self.rows and self.rows[row.rate_of].rates):
                raise ValueError(f"rate_of must name a row with rates; got {row.rate_of!r} in {name}")

    @property
    def exam(self) -> ExamSizes:
        """How much every model is asked."""
        facts = self.facts if self.facts is None and self.scale == 1 else self.scaled(self.facts or 300)
        return ExamSizes(self.scaled(self.tasks), self.scaled(self.dev_tasks), facts, self.scale)

    def scaled(self, number: int) -> int:
        """Scales a number of steps, samples or items."""
        return max(1, round(number * self.scale))
