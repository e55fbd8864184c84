"""Answers with known structure: for examples, for checks, and for planning how many persons are needed.

Not covered: respondents that answer questions (evals.questionnaires.respondents.simulated).
"""

import numpy as np
import numpy.typing as npt


def simulate_responses(
    persons: int, loadings: npt.ArrayLike, *, options: int = 5, seed: int = 0
) -> np.ndarray:
    """Ordered answers from a factor model with uncorrelated factors.

    z = Λf + e, f and e normal, var z = 1;   answer = (options + 1)/2 + z (options − 1)/4, rounded and cut
    to 1 .. options.

    Args:
      persons: how many answer.
      loadings: Λ, of each item on one factor [items] or on several [items, factors]; Σ λ² ≤ 1 in a row.
      options: answers on offer, 1 to this.
      seed: of the draws.
    Returns: persons x items, whole numbers as float64.
    Raises: ValueError for fewer than 1 person or 2 options, or loadings beyond a variance of 1.

    Example:
      >>> from evals.psychometrics import simulate_responses
      >>> simulate_responses(3, [0.7, 0.7, 0.7], seed=1)
      array([[2., 4., 4.],
             [3., 4., 4.],
             [3., 3., 4.]])
    """
    pattern = np.asarray(loadings, np.float64)
    pattern = pattern[:, None] if pattern.ndim == 1 else pattern
    if persons < 1 or options < 2:
        raise ValueError(f"there must be at least 1 person and 2 options; got {persons} and {options}")
    explained = (pattern**2).sum(axis=1)
    if (explained > 1).any():
        item = int(explained.argmax())
        raise ValueError(f"the squared loadings of an item add up to 1 at most; got {explained[item]:.3g}")
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((persons, pattern.shape[1]))
    errors = rng.standard_normal((persons, len(pattern))) * np.sqrt(1 - explained)
    latent = factors @ pattern.T + errors
    return np.clip(np.round((options + 1) / 2 + latent * (options - 1) / 4), 1, options)
