"""What a user may choose about the analyses."""

from collections.abc import Sequence
from dataclasses import dataclass

from evals.analysis.answer_table import AnswerTable
from evals.psychometrics.agreement import Level


@dataclass(frozen=True)
class AnalysisSettings:
    """Choices for the analyses; each analysis says which of them it uses.

    Attributes:
      confidence: of intervals, two-sided.
      bootstrap: samples of persons.
      seed: of bootstraps and random data.
      factors: number for exploratory analyses; 0 takes the number from parallel analysis.
      rotation: oblimin, varimax or none.
      correlations: pearson or polychoric, for exploratory analyses.
      model: confirmatory, as lines "factor =~ item + item"; empty takes the scales.
      level: of measurement, for Krippendorff's α.
      group: column that tells two groups apart; between: which two of its values, the second the reference.
      pair: column that names the same person in both groups; empty compares different people.
      bound: differences below this many SDs count as none, for equivalence tests.
      criteria: columns to correlate scores with; ranks: Spearman's.
      desirability: scale of socially desirable answers.
      second: answers from another time.
      people: people's answers to the same items.
    """

    confidence: float = 0.95
    bootstrap: int = 500
    seed: int = 0
    factors: int = 0
    rotation: str = "oblimin"
    correlations: str = "pearson"
    model: str = ""
    level: Level = "ordinal"
    group: str = ""
    between: Sequence[str] = ()
    pair: str = ""
    bound: float = 0.2
    criteria: Sequence[str] = ()
    ranks: bool = False
    desirability: str = ""
    second: AnswerTable | None = None
    people: AnswerTable | None = None
