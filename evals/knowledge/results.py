"""The result of a set of questions: scores with their error, by category, and every record.

Not covered: asking (closed_book, multiple_choice), files and tables (the caller's).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Generic, Protocol, TypeVar

from evals.psychometrics.uncertainty import Comparison, Score, compare, mean_score


class QuestionRecord(Protocol):
    """One question that was put to a model."""

    @property
    def id(self) -> str:
        """The question's id within its set."""
        ...

    @property
    def cluster(self) -> str | None:
        """What dependent questions have in common."""
        ...

    @property
    def category(self) -> str:
        """The group by which scores are also given."""
        ...

    @property
    def scores(self) -> Mapping[str, float]:
        """What two models can be compared by, each 0 to 1."""
        ...


Record = TypeVar("Record", bound=QuestionRecord)


@dataclass(frozen=True)
class KnowledgeResult(Generic[Record]):
    """Scores by metric, the same by category where there is more than one, and every record in order.

    Metrics of closed-book questions: exact_match, f1, contains (an answer anywhere in the response),
    answer_nats (mean −log p of a token of the canonical answer); of multiple choice: one accuracy for each
    `multiple_choice.ChoiceRule`.
    """

    scores: dict[str, Score]
    by_category: dict[str, dict[str, Score]]
    records: list[Record]

    def summary(self) -> dict[str, object]:
        """The scores without the records, as plain dictionaries."""
        return {
            "scores": {name: score._asdict() for name, score in self.scores.items()},
            "by_category": {
                category: {name: score._asdict() for name, score in scores.items()}
                for category, scores in self.by_category.items()
            },
        }

    def items(self) -> list[dict[str, object]]:
        """Every record as a plain dictionary, one for a line of JSON."""
        return [asdict(record) for record in self.records]  # type: ignore[call-overload]


def summarize(
    records: list[Record], metrics: Mapping[str, Sequence[float]], confidence: float
) -> KnowledgeResult[Record]:
    """Means of the metrics with their error, over all records and by category.

    Args:
      records: in the order of the values.
      confidence: of the intervals, in (0, 1).
      metrics: by name, a value for each record.
    Returns: the means.
    """
    clusters = _clusters(records)

    def score(chosen: Sequence[int]) -> dict[str, Score]:
        named = None if clusters is None else [clusters[i] for i in chosen]
        return {
            metric: mean_score([values[i] for i in chosen], named, confidence=confidence)
            for metric, values in metrics.items()
        }

    names = list(dict.fromkeys(record.category for record in records))
    by_category = {}
    if len(names) > 1:
        for name in sorted(names):
            by_category[name] = score([i for i, record in enumerate(records) if record.category == name])
    return KnowledgeResult(score(range(len(records))), by_category, records)


def compare_results(
    a: KnowledgeResult[Record], b: KnowledgeResult[Record], metric: str, *, confidence: float = 0.95
) -> Comparison:
    """Model b against model a on the same questions, paired; see `evals.psychometrics.uncertainty.compare`.

    Args:
      a, b: results of two models.
      confidence: of the interval, in (0, 1).
      metric: exact_match, f1 or contains, or a choice rule.
    Returns: b − a with its error, interval and p.
    Raises: ValueError if the two did not answer the same questions in the same order, or lack the metric.
    """
    if [r.id for r in a.records] != [r.id for r in b.records]:
        raise ValueError("two results can be compared if both hold the same questions in the same order")
    return compare(_metric(a, metric), _metric(b, metric), _clusters(a.records), confidence=confidence)


def _metric(result: KnowledgeResult[Record], metric: str) -> list[float]:
    if any(metric not in record.scores for record in result.records):
        raise ValueError(f"metric must be one of {', '.join(result.records[0].scores)}; got {metric!r}")
    return [record.scores[metric] for record in result.records]


def _clusters(records: Sequence[QuestionRecord]) -> list[str] | None:
    """The cluster of each record, unique where it shares none; None where no record shares one."""
    if all(record.cluster is None for record in records):
        return None
    return [
        f"item {n}" if record.cluster is None else f"cluster {record.cluster}"
        for n, record in enumerate(records)
    ]
