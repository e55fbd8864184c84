"""The runs of a study on a pretrained base, as the cells left them."""

from dataclasses import dataclass, field
from typing import NamedTuple

from jaxmoe.json_values import JsonObject


class FrontierRun(NamedTuple):
    """One fine-tuning: `result` is its cell's; `final` with a learning rate with which all seeds run."""

    row: str
    seed: int
    rate: float
    result: JsonObject
    final: bool


@dataclass
class FrontierRuns:
    """All there is: what was found of the base, and the runs."""

    base: JsonObject | None = None
    runs: list[FrontierRun] = field(default_factory=list)

    def groups(self) -> dict[str, list[FrontierRun]]:
        """Runs of one row with one learning rate, by the row's name, and by name and rate where all seeds of
        a row ran with several. Until it is known with which, the rate that was tried first stands in."""
        found: dict[str, list[FrontierRun]] = {}
        for row in dict.fromkeys(run.row for run in self.runs):
            mine = [run for run in self.runs if run.row == row]
            final = [run for run in mine if run.final] or [run for run in mine if run.rate == mine[0].rate]
            rates = sorted({run.rate for run in final})
            for rate in rates:
                key = row if len(rates) == 1 else f"{row} {rate:g}"
                found[key] = [run for run in final if run.rate == rate]
        return found
