"""Dynamic sampling: a round learns from groups of samples whose rewards differ, as far as they can be found.

If all samples of a prompt get the same reward, every comparison of them is 0 and the prompt teaches nothing.
So further batches of prompts are sampled until there are enough others. Reference: Yu et al. 2025 (DAPO),
arXiv:2503.14476, section 3.2.

Letters of this file: P prompts of a round, G samples per prompt.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxmoe.model.shapes import PyTree
from rl.policy.trajectory import Outcomes, Rollout
from rl.stepcoder.grading import Graded
from rl.stepcoder.rollouts import Sampled, Turn


class GradedBatch(NamedTuple):
    """A batch of prompts with all their samples, and their verdicts."""

    sampled: Sampled
    graded: Graded


def contrast(rewards_B: np.ndarray, samples: int) -> np.ndarray:
    """Which groups have rewards that differ.

    Args:
      rewards_B: of the graded programs, a prompt's adjacent.
      samples: G.
    Returns: bool [B / G].

    >>> contrast(np.array([1.0, 1.0, 1.0, -0.3]), 2).tolist()
    [False, True]
    """
    rewards_PG = rewards_B.reshape(-1, samples)
    return rewards_PG.max(axis=1) > rewards_PG.min(axis=1)


def assemble(batches: Sequence[GradedBatch], prompts: int) -> GradedBatch:
    """Builds a round from several batches: first the groups with contrast, in order, then others to fill up.

    Args:
      batches: all with the same number of samples.
      prompts: P, of the round; each batch has at least this many.
    Returns: a round of P prompts; it has as many slots as the widest batch, and its times are those of all
      batches.
    """
    samples = batches[0].sampled.rollout.samples
    found = [contrast(np.asarray(b.graded.outcomes.rewards_B), samples) for b in batches]
    with_contrast = [(i, int(p)) for i, has in enumerate(found) for p in np.flatnonzero(has)]
    without = [(i, int(p)) for i, has in enumerate(found) for p in np.flatnonzero(~has)]
    chosen = [*with_contrast, *without][:prompts]
    rows = [(i, p * samples + s) for i, p in chosen for s in range(samples)]
    rollouts = [b.sampled.rollout for b in batches]
    outcomes = [b.graded.outcomes for b in batches]
    scored = all(r.sampler_logprobs_BW is not None for r in rollouts)
    rollout = Rollout(
        _take([r.prompts_PS for r in rollouts], chosen, left=True),
        _take([r.prompt_mask_PS for r in rollouts], chosen, left=True),
        _take([r.responses_BW for r in rollouts], rows),
        _take([r.response_mask_BW for r in rollouts], rows),
        _take([r.sampler_logprobs_BW for r in rollouts], rows) if scored else None,
    )
    sampled = Sampled(
        rollout,
        np.asarray([batches[i].sampled.truncated_B[row] for i, row in rows]),
        [batches[i].sampled.rows[row] for i, row in rows],
        sum(b.sampled.tail_tokens for b in batches),
        sum(b.sampled.seconds for b in batches),
        [_turns(batches[i].sampled)[row] for i, row in rows] if batches[0].sampled.turns else None,
        float(np.mean([b.sampled.wasted for b in batches])),
    )
    feedback = {
        new: batches[i].graded.feedback[row]
        for new, (i, row) in enumerate(rows)
        if row in batches[i].graded.feedback
    }
    graded = Graded(
        Outcomes(*(_take(parts, rows) for parts in zip(*outcomes, strict=True))),
        np.asarray([batches[i].graded.verdict_B[row] for i, row in rows]),
        feedback,
        (
            float(np.mean([b.graded.latency_s[0] for b in batches])),
            max(b.graded.latency_s[1] for b in batches),
        ),
        sum(b.graded.seconds for b in batches),
        sum(b.graded.waited_s for b in batches),
    )
    return GradedBatch(sampled, graded)


def _turns(sampled: Sampled) -> list[list[Turn]]:
    assert sampled.turns is not None
    return sampled.turns


def _take(arrays: Sequence[PyTree], places: Sequence[tuple[int, int]], *, left: bool = False) -> PyTree:
    """Rows (batch, row) of arrays that may differ in width, padded with zeros on the right or on the left.

    The arrays are numpy arrays on the host, although the record of a round declares jax.Array.
    """
    if arrays[0] is None:
        return None
    if np.ndim(arrays[0]) == 1:
        return np.stack([np.asarray(arrays[i][row]) for i, row in places])
    width = max(a.shape[1] for a in arrays)
    out = np.zeros((len(places), width), np.asarray(arrays[0]).dtype)
    for new, (i, row) in enumerate(places):
        values = np.asarray(arrays[i][row])
        out[new, width - len(values) if left else 0 :][: len(values)] = values
    return out
