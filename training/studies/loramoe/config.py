"""The config of the LoRAMoE study: its rows, how many runs of each, how they are measured."""

from dataclasses import dataclass, field

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
      label: in tables and figures.
      rates: learning rates to choose from; a row of the sweep has none and takes those of `rate_of`.
      rate_of: the row whose chosen rate it takes.
      knowledge_share: closed-book questions among the instructions; null takes the study's.
    """

    label: str
    adapter: AdapterKind = "loramoe"
    rates: tuple[float, ...] = ()
    rate_of: str | None = None
    experts: ExpertConfig = field(default_factory=ExpertConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    knowledge_share: float | None = None

    def __post_init__(self) -> None:
        if bool(self.rates) == bool(self.rate_of):
            raise ValueError(f"a row needs rates to choose from, or rate_of another row; row {self.label!r}")


@dataclass(frozen=True)
class LoramoeConfig:
    """The LoRAMoE study.

    Attributes:
      base: pretraining config of the bases; base number b takes seed b.
      checkpoints: bases that are there already, instead of pretraining any: folders or hub ids, one for each
        of `bases`. They must know the embedded facts; config and data of the base are then not read.
      bases: how many bases.
      seeds: runs of every row on each base.
      rows: by name; `full`, `lora`, `lora_same_rate`, `loramoe`, `loramoe_lbc` and `loramoe_matched` are
        compared with each other.
      sweep: rows that vary one thing each; run on base 0.
      sweep_seeds: runs of every row of the sweep.
      samples: instruction samples that are called 1x.
      volumes: when to look, as multiples of 1x; the largest ends the run.
      knowledge_share: closed-book questions among the instructions.
      tolerance: how far below its best dev accuracy a row's learning rate may lie, in standard errors of
        that accuracy.
      tasks: held-out task samples.
      dev_tasks: those of the dev split, for the learning rate.
      facts: held-out facts at most; null takes all.
      data: batches of instructions.
      warmup_steps: over which the learning rate climbs; from then on it is constant.
      scale: share of pretraining steps, volumes and test samples; below 1 only the plumbing is tried.
    """

    __pydantic_config__ = configs.STRICT

    rows: dict[str, TuningRow]
    base: str = "reproduce/base"
    checkpoints: tuple[str, ...] = ()
    bases: int = 2
    seeds: int = 3
    sweep: dict[str, TuningRow] = field(default_factory=dict)
    sweep_seeds: int = 1
    samples: int = 80
    volumes: tuple[int, ...] = (1, 3, 10, 30, 100)
    knowledge_share: float = 0.125
    tolerance: float = 2.0
    tasks: int = 350
    dev_tasks: int = 280
    facts: int | None = None
    scale: float = 1.0
    data: BatchConfig = field(default_factory=lambda: BatchConfig(8, 64, "first_fit"))
    warmup_steps: int = 10
    mesh: MeshConfig = field(default_factory=MeshConfig)
    step: StepConfig = field(default_factory=lambda: StepConfig(scan_layers=False))

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale must lie in (0, 1]; got {self.scale}")
        if min(self.bases, self.seeds, self.samples, *self.volumes) < 1:
            raise ValueError("bases, seeds, samples and volumes must be at least 1")
        check(self.checkpoints, self.bases)
        for name, row in (self.rows | self.sweep).items():
            if row.rate_of is not None and not (row.rate_of in self.rows and self.rows[row.rate_of].rates):
                raise ValueError(f"rate_of must name a row with rates; got {row.rate_of!r} in {name}")

    def scaled(self, number: int) -> int:
        """A number of steps, samples or items at this scale."""
        return max(1, round(number * self.scale))
