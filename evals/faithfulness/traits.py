"""What is described or known about the persons who answer, and what their scores say beyond it."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from evals.questionnaires.administration import DESCRIBED

# a trait with at most this many values is taken out value by value, whatever the shape of its effect
LEVELS = 9


class PersonTraits(NamedTuple):
    """Persons x constructs, NaN where nothing is described.

    Attributes:
      table: persons as index, constructs as columns.
      described: whether personas describe the traits, or they are known from elsewhere.
    """

    table: pd.DataFrame
    described: bool

    def of(self, persons: pd.Index) -> pd.DataFrame:
        """The traits in the order of the given persons, as a response cube has them (tuples)."""
        return self.table.reindex([who[0] if len(who) == 1 else who for who in persons])


def described_traits(long_table: pd.DataFrame, persons: list[str]) -> PersonTraits | None:
    """The traits of the personas, from the columns that `administer` writes; None where there are none.

    Args:
      long_table: as `administer` returns it.
      persons: the columns that tell persons apart.
    Returns: persons x constructs, without constructs that no persona describes.
    """
    names = [name for name in map(str, long_table.columns) if name.startswith(DESCRIBED)]
    if not names:
        return None
    table = long_table.groupby(persons, sort=False)[names].first()
    table.columns = pd.Index([name.removeprefix(DESCRIBED) for name in names])
    known = table.loc[:, table.notna().any()]
    return PersonTraits(pd.DataFrame(known), True) if known.shape[1] else None


class Beyond(NamedTuple):
    """What is left of columns after the description is taken out.

    Attributes:
      residuals, complete: [n, k], for persons with all values; complete holds the columns' own values.
      df: n minus the degrees of freedom that the description takes.
      reason: why there is no result; empty otherwise.
    """

    residuals: np.ndarray
    complete: np.ndarray
    n: int
    df: int
    reason: str = ""


def beyond_description(values_PK: np.ndarray, traits: pd.DataFrame, construct: str) -> Beyond:
    """Residuals of columns from the persons' described traits, by least squares.

    Where most persons share their description with another (twins), each description enters as its own
    category, so that nothing that follows from it in any way is left. Otherwise the construct's own trait
    enters value by value if it has few values, so that no curve of it is left, and the other traits enter
    linearly: products of traits stay. Traits that are not described for everybody are left out.

    Args:
      values_PK: persons x columns.
      traits: of the same persons, one column per construct.
      construct: the one whose own trait it is.
    Returns: residuals and degrees of freedom.
    """
    known = traits.loc[:, traits.notna().all()].to_numpy(np.float64)
    own = traits[construct].to_numpy(np.float64) if construct in traits.columns else None
    parts = [np.ones((len(values_PK), 1)), known]
    _, which, count = np.unique(known, axis=0, return_inverse=True, return_counts=True)
    if known.shape[1] and (count[which] > 1).mean() > 0.5:
        parts.append(np.eye(len(count))[which.ravel()])
    elif own is not None and len(levels := np.unique(own[~np.isnan(own)])) <= LEVELS:
        parts.append((own[:, None] == levels).astype(np.float64))
    design = np.column_stack(parts)
    both = np.column_stack([values_PK, design])
    usable = ~np.isnan(both).any(axis=1)
    complete, design = values_PK[usable], design[usable]
    n = len(complete)
    rank = int(np.linalg.matrix_rank(design)) if n else 0
    if n - rank < 4:
        why = f"{n} respondents are too few beside {rank} described levels: describe more people"
        return Beyond(np.zeros_like(complete), complete, n, 0, why)
    left, _, _ = np.linalg.svd(design, full_matrices=False)
    basis = left[:, :rank]
    centered = complete - complete.mean(axis=0)
    return Beyond(centered - basis @ (basis.T @ centered), complete, n, n - rank)
