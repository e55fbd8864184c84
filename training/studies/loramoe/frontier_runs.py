"""The runs of a study on a pretrained base, as recorded by its cells."""

from dataclasses import dataclass, field
from typing import NamedTuple

from jaxmoe.json_values import JsonObject


class FrontierRun(NamedTuple):
    """One fine-tuning: `result` is its cell's; `final` means that all seeds run at its learning rate."""

    row: str
    seed: int
    rate: float
    result: JsonObject
    final: bool


@dataclass
class FrontierRuns:
    """All results so far: those of the base, and the runs."""

    base: JsonObject | None = None
    runs: list[FrontierRun] = field(default_factory=list)

    def groups(self) -> dict[str, list[FrontierRun]]:
        """Runs of one row at one learning rate, by the row's name, or by name and rate if all seeds of a row
        ran with several. Until those rates are known, the rate that was tried first is used."""
        found: dict[str, list[FrontierRun]] = {}
        for row in dict.fromkeys(run.row for run in self.runs):
            mine = [run for run in self.runs if run.row == row]
            final = [run for run in mine if run.final] or [run for run in mine if run.rate == mine[0].rate]
            rates = sorted({run.rate for run in final})
            for rate in rates:
                key = row if len(rates) == 1 else f"{row} {rate:g}"
                found[key] = [run for run in final if run.rate == rate]
        return found
