"""The models that a study starts from: pretrained by one config, a seed each, or checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxmoe.json_values import JsonMapping, JsonObject
from training.runtime import config as configs
from training.studies.cells import StoppedError, digest
from training.supervised.config import PretrainConfig
from training.supervised.pretrain import main as pretrain

# what a base depends on, of its config
KEPT = ("steps", "seed", "model", "data", "optimizer", "init_std")


@dataclass(frozen=True)
class Bases:
    """Where the bases of a study are, and how they are made.

    Attributes:
      config: pretraining config; number b takes its seeds plus b.
      checkpoints: folders or hub ids instead, by number; the config is then not read.
      out: folder of the command; bases lie in OUT/bases, where every study finds them.
      name: what a base's folder begins with.
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
        """The resolved config, as plain values, of a base that is pretrained here."""
        values = configs.to_dict(configs.load(PretrainConfig, self.config))
        if values["steps"] is not None:
            values["steps"] = max(1, round(values["steps"] * self.scale))
            warmup = min(values["optimizer"]["warmup_steps"], values["steps"])
            values["optimizer"]["warmup_steps"] = warmup
        values["seed"] += number
        values["data"]["seed"] += number
        return values

    def settings(self, number: int) -> JsonObject:
        """All that a base depends on, as plain JSON."""
        if self.checkpoints:
            return {"checkpoint": self.checkpoints[number]}
        found = self.pretraining(number)
        return {key: found[key] for key in KEPT} | dict(self.depends)

    def folder(self, number: int) -> Path:
        """Of a base that is pretrained here."""
        return self.out / "bases" / f"{self.name}{number}-{digest(self.settings(number))}"

    def export(self, number: int) -> str:
        """A base's checkpoint; one that is not there, or was deleted, is pretrained first.

        Raises: StoppedError if that was stopped; the same call goes on.
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
        """Whether no pretraining is to be done."""
        return bool(self.checkpoints) or (self.folder(number) / "export").exists()

    def about(self) -> JsonObject:
        """For the page: what number 0 is."""
        if self.checkpoints:
            return {"checkpoints": list(self.checkpoints)}
        base = self.pretraining(0)
        return {"model": base["model"], "steps": base["steps"]}


def check(checkpoints: Sequence[str], bases: int) -> None:
    """Raises ValueError unless there are as many checkpoints as bases, or none.

    Args:
      checkpoints: given ones, in the bases' order.
      bases: that the study needs.
    """
    if checkpoints and len(checkpoints) != bases:
        raise ValueError(
            f"checkpoints must name one for each of the {bases} bases, or none; got {len(checkpoints)}"
        )
