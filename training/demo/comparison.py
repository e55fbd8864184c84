"""What each model of a demo kept and learned, as a table: one column per model, one row per kind of
question."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from evals.knowledge.results import KnowledgeResult
from evals.psychometrics.uncertainty import Score
from jaxmoe.json_values import JsonObject


def as_row(score: Score) -> JsonObject:
    """A score and its 95 % interval for results.json; without a value if nothing was asked."""
    if not score.n:
        return {"value": None, "low": None, "high": None}
    return {"value": score.value, "low": score.low, "high": score.high}


def task_rows(answered: KnowledgeResult) -> JsonObject:
    """Exact match on the tasks, overall and by family, for results.json."""
    families = {name: as_row(scores["exact_match"]) for name, scores in answered.by_category.items()}
    return {"tasks": as_row(answered.scores["exact_match"]), "by family": families}


def comparison_table(
    rows: Mapping[str, JsonObject], kinds: Sequence[str], labels: Mapping[str, str], asked: str
) -> Table:
    """The scores of all models side by side.

    Args:
      rows: of results.json, by model.
      kinds: of questions, in their order; the task families follow.
      labels: the name of each model's column.
      asked: how many questions were asked, for the title.
    Returns: the table, in % with 95 % intervals.
    """
    table = Table(title=f"exact match, % [95 % interval]; {asked}")
    table.add_column("")
    for name in rows:
        table.add_column(labels[name], justify="right")
    for kind in kinds:
        table.add_row(kind, *(_cell(row[kind]) for row in rows.values()))
    for family in sorted(next(iter(rows.values()))["by family"]):
        cells = (_cell(row["by family"][family]) for row in rows.values())
        table.add_row(f"  {family.replace('_', ' ')}", *cells)
    return table


def _cell(score: JsonObject) -> str:
    if score["value"] is None:
        return "–"
    value, low, high = (f"{score[key] * 100:.0f}" for key in ("value", "low", "high"))
    return value if score["low"] == score["high"] else f"{value} [{low}, {high}]"
