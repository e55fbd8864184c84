"""The models that a study starts from: pretrained from one config with different seeds, or checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxmoe.json_values import JsonMapping, JsonObject
from training.runtime import config as configs
from training.studies.cells import StoppedError, digest
from training.supervised.config import PretrainConfig
from training.supervised.pretrain import main as pretrain

# the parts of its config that a base depends on
KEPT = ("steps", "seed", "model", "data", "optimizer", "init_std")


@dataclass(frozen=True)
class Bases:
    """Where the bases of a study are, and how they are made.

    Attributes:
      config: pretraining config; base number b adds b to its seeds.
      checkpoints: folders or hub ids to use instead, by number; the config is then not read.
      out: the command's output folder; bases are in OUT/bases, where every study finds them.
      name: prefix of a base's folder name.
      scale: share of the pretraining steps.
      depends: what else a base's data depends on.
    """

    config: str
    checkpoints: Sequence[str]
    out: Path
    name: str = ""
    scale: float = 1.0
    depends: JsonMapping = field(default_factory=dict)

    def pretraining(self, number: int) -> JsonObject:
        """The resolved config, as plain values, of a base that the study pretrains."""
        values = configs.to_dict(configs.load_given(PretrainConfig, "base", self.config))
        if values["steps"] is not None:
            values["steps"] = max(1, round(values["steps"] * self.scale))
            warmup = min(values["optimizer"]["warmup_steps"], values["steps"])
            values["optimizer"]["warmup_steps"] = warmup
        values["seed"] += number
        values["data"]["seed"] += number
        return values

    def settings(self, number: int) -> JsonObject:
        """Everything that a base depends on, as plain JSON."""
        if self.checkpoints:
            return {"checkpoint": self.checkpoints[number]}
        found = self.pretraining(number)
        return {key: found[key] for key in KEPT} | dict(self.depends)

    def folder(self, number: int) -> Path:
        """Folder of a base that the study pretrains."""
        return self.out / "bases" / f"{self.name}{number}-{digest(self.settings(number))}"

    def export(self, number: int) -> str:
        """A base's checkpoint; if it is missing or was deleted, it is pretrained first.

        Raises: StoppedError if pretraining was stopped; the same call resumes it.
        """
        if self.checkpoints:
            return self.checkpoints[number]
        folder = self.folder(number)
        if not self.there(number):
            values = self.pretraining(number) | {"output": str(folder)}
            done = pretrain(configs.parse(PretrainConfig, values, self.config))
            if not done.finished:
                raise StoppedError
        return str(folder / "export")

    def there(self, number: int) -> bool:
        """Whether the base exists, so that no pretraining is needed."""
        return bool(self.checkpoints) or (self.folder(number) / "export").exists()

    def about(self) -> JsonObject:
        """What base number 0 is, for the page."""
        if self.checkpoints:
            return {"checkpoints": list(self.checkpoints)}
        base = self.pretraining(0)
        return {"model": base["model"], "steps": base["steps"]}


def check(checkpoints: Sequence[str], bases: int) -> None:
    """Raises ValueError unless there are as many checkpoints as bases, or none.

    Args:
      checkpoints: the given checkpoints, in the order of the bases.
      bases: how many the study needs.
    """
    if checkpoints and len(checkpoints) != bases:
        raise ValueError(
            f"checkpoints must name one for each of the {bases} bases, or none; got {len(checkpoints)}"
        )
