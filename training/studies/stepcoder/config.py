"""The config of the StepCoder study: rows, regimes, bases, seeds."""

from dataclasses import dataclass, field
from typing import Literal

from rl.stepcoder.grading import MaskKind
from training.ppo.problems import CurriculumConfig, ProblemsConfig
from training.runtime import config as configs
from training.runtime.model import AdapterKind
from training.studies.bases import check
from training.studies.stepcoder.forgetting import ForgettingConfig
from training.studies.stepcoder.gradient import GradientConfig


@dataclass(frozen=True)
class StepcoderRow:
    """A way to practice.

    Attributes:
      label: name in tables and figures.
      method: ppo, or sft on the canonical solutions of the same problems.
      curriculum, mask: as in `training ppo`.
      adapter: what is trained; null takes the PPO config's.
      lr: learning rate; null takes the PPO config's.
      rounds, every: as in the study, whose values null takes; for a way that learns from fewer samples.
      regimes: names of the regimes in which it is run; empty takes all.
    """

    label: str
    method: Literal["ppo", "sft"] = "ppo"
    curriculum: Literal["cccs", "none"] = "none"
    mask: MaskKind = "response"
    adapter: AdapterKind | None = None
    lr: float | None = None
    rounds: int | None = None
    every: int | None = None
    regimes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(number for number in (1, self.rounds, self.every) if number is not None) < 1:
            raise ValueError(f"rounds and every must be at least 1; row {self.label!r}")
        if self.lr is not None and self.lr <= 0:
            raise ValueError(f"lr must be above 0; got {self.lr} in row {self.label!r}")


@dataclass(frozen=True)
class StepcoderRegime:
    """What is practiced on, and when the curriculum moves on.

    Attributes:
      label: name in tables and figures.
      rounds: as in the study, whose value null takes; a row's own value takes precedence.
      problems: which embedded problems; all regimes must hold out the same ones. If practice keeps fewer
        tests, the run's seed draws which.
    """

    label: str
    rounds: int | None = None
    problems: ProblemsConfig = field(default_factory=ProblemsConfig)
    cccs: CurriculumConfig = field(default_factory=CurriculumConfig)

    def __post_init__(self) -> None:
        if self.rounds is not None and self.rounds < 1:
            raise ValueError(f"rounds must be at least 1; regime {self.label!r} has {self.rounds}")


@dataclass(frozen=True)
class StepcoderConfig:
    """The StepCoder study.

    Attributes:
      rows: rows by name; `ppo`, `cccs`, `fgo` and `stepcoder` are compared with each other.
      regimes: regimes by name; the claims are judged in each.
      base: pretraining config of the bases, one per seed.
      checkpoints: existing bases, instead of pretraining any: folders or hub ids, one for each of `bases`.
      ppo: config of every run; rows, regimes and seeds replace its curriculum, mask, problems, cccs and seed.
      bases: number of bases; run s starts from the base in position s mod bases.
      entry: held-out pass@1 that a base must have before practice. A base with less is skipped, and the next
        seed is pretrained: a base that has not learned to copy its statement's words learns in no row.
      tries: maximum number of bases to pretrain in order to find enough.
      seeds: runs of every row in every regime.
      rounds: number of rounds of rollouts; null takes the value in `ppo`.
      every: rounds between two measurements on the held-out problems.
      limit: maximum number of held-out problems; null takes all.
      gradient: measure the mask's effect on the gradient at every base; null skips this.
      forgetting: also measure which of the facts that a base knew practice costs it, for checkpoints that
        know some; null skips this.
      scale: share of pretraining steps, rounds, batches and held-out problems; below 1 only the plumbing
        is tested.
    """

    __pydantic_config__ = configs.STRICT

    rows: dict[str, StepcoderRow]
    regimes: dict[str, StepcoderRegime]
    base: str = "pretrain/code_small"
    checkpoints: tuple[str, ...] = ()
    ppo: str = "ppo/quickstart"
    bases: int = 3
    entry: float = 0.0
    tries: int = 8
    seeds: int = 3
    rounds: int | None = None
    every: int = 8
    limit: int | None = None
    gradient: GradientConfig | None = field(default_factory=GradientConfig)
    forgetting: ForgettingConfig | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale must lie in (0, 1]; got {self.scale}")
        counts = (self.bases, self.seeds, self.tries, self.every, self.rounds, self.limit)
        if min(count for count in counts if count is not None) < 1:
            raise ValueError("bases, seeds, tries, every, rounds and limit must be at least 1")
        check(self.checkpoints, self.bases)
        if self.forgetting is not None and self.bases > 1:
            raise ValueError(
                f"forgetting compares rows on the facts that one base knew; set bases=1, not {self.bases}"
            )
        if not self.rows or not self.regimes:
            raise ValueError("rows and regimes must have one entry at least")
        for name, row in self.rows.items():
            if unknown := set(row.regimes) - set(self.regimes):
                raise ValueError(f"regimes of row {name} must be of the study's; got {sorted(unknown)}")
        held_out = {repr((r.problems.held_out, r.problems.embedded)) for r in self.regimes.values()}
        if len(held_out) > 1 or any(
            r.problems.path or r.problems.held_out_path for r in self.regimes.values()
        ):
            raise ValueError(
                "regimes must hold out the same embedded problems: give all of them the same "
                "problems.held_out and problems.embedded, and no path"
            )

    def scaled(self, number: int) -> int:
        """Scales a number of steps, rounds or problems."""
        return max(1, round(number * self.scale))
