"""Log-probabilities of many answers to few prompts: what texts share is computed once.

Texts are grouped by the token ids that they begin with, whatever the prompts were made of, so the values are
those of separate rows within rounding. Answers of one token to the same question share everything but that
token and cost one lookup each. A group is a row [S + G·W]: the prefix, then the branches side by side, which
see the prefix and themselves (`jaxmoe.generation.shared_prompt`).

Letters of this file: P prefixes a call, S slots of a prefix, G branches a prefix, W slots of a branch, K
answers that end a branch.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from evals.models.local_model import LocalModel, ScoredIds, few_sizes, span_sums
from evals.models.text_model import ContinuationScores
from jaxmoe.generation.decode import bucket
from jaxmoe.generation.shared_prompt import response_states
from jaxmoe.model import params
from jaxmoe.model.mesh import batch_ways
from jaxmoe.model.shapes import Array, Float, Int

BRANCHES, SHORTEST_PREFIX, SHORTEST_BRANCH, TARGETS = 64, 32, 8, 8
# tokens of all branches in a call, so that a wide row does not outgrow the cache or the memory
TOKENS = 16384


class Branch(NamedTuple):
    """Texts that differ in their last token alone, after the prefix.

    Attributes:
      ids: after the prefix, up to and with the first text's last token.
      first: the first of them that is scored.
      targets: the last tokens; rows: whose they are.
    """

    ids: list[int]
    first: int
    targets: list[int]
    rows: list[int]


@dataclass(frozen=True)
class Group:
    """Branches of one prefix."""

    prefix: list[int]
    branches: list[Branch]


def logprob(
    model: LocalModel,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    heads: Sequence[Hashable] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ContinuationScores:
    """`LocalModel.logprob`, with shared beginnings computed once.

    Args:
      model: that scores.
      prompts, continuations: pairs, in the same order.
      heads: texts with the same value are grouped; None groups all of them.
      progress: called with the number of texts scored since the last call.
    Returns: nats and numbers of tokens, one a pair.
    Raises: ValueError as `LocalModel.logprob`.
    """
    texts = model.scored_ids(prompts, continuations)
    sums = np.zeros(len(texts))
    for groups in _calls(model, _groups(texts, heads or [None] * len(texts))):
        found = _score(model, groups)
        for group, values in zip(groups, found, strict=False):
            for branch, scores in zip(group.branches, values, strict=False):
                sums[branch.rows] = scores[: len(branch.rows)]
            if progress is not None:
                progress(sum(len(branch.rows) for branch in group.branches))
    return ContinuationScores(sums.tolist(), [len(text.ids) - text.start for text in texts])


def _groups(texts: Sequence[ScoredIds], heads: Sequence[Hashable]) -> Iterator[Group]:
    """Groups by head, their common beginning found in the ids; wide ones are cut into pieces."""
    together: dict[Hashable, list[int]] = {}
    for row, head in enumerate(heads):
        together.setdefault(head, []).append(row)
    for rows in together.values():
        # what predicts the first scored token must stay outside of no branch: at least one id is left
        length = _common([texts[row].ids for row in rows])
        length = min(length, *(min(texts[row].start, len(texts[row].ids) - 1) for row in rows))
        branches: dict[tuple[int, ...], Branch] = {}
        for row in rows:
            ids, start = texts[row].ids[length:], texts[row].start - length
            same = (*ids[:-1], -1 - start)
            if same not in branches:
                branches[same] = Branch(ids, start, [], [])
            branches[same].targets.append(ids[-1])
            branches[same].rows.append(row)
        prefix = texts[rows[0]].ids[:length]
        # of like lengths side by side, so that little is padding
        ordered = sorted(branches.values(), key=lambda branch: len(branch.ids))
        for first in range(0, len(ordered), BRANCHES):
            yield Group(prefix, ordered[first : first + BRANCHES])


def _common(rows: Sequence[list[int]]) -> int:
    """How many ids all rows begin with: those of the least and the greatest row."""
    low, high = min(rows), max(rows)
    return next(
        (n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )


class _Shape(NamedTuple):
    """S, G, W and K of a call."""

    prefix: int
    branches: int
    branch: int
    targets: int


def _shape(group: Group) -> _Shape:
    return _Shape(
        bucket(len(group.prefix), SHORTEST_PREFIX),
        bucket(len(group.branches)),
        bucket(max(len(branch.ids) for branch in group.branches), SHORTEST_BRANCH),
        bucket(max(len(branch.targets) for branch in group.branches), TARGETS),
    )


def _calls(model: LocalModel, groups: Iterator[Group]) -> Iterator[list[Group]]:
    """Groups of one shape, as many as a call takes; the last ones of a shape are filled up.

    Where half a call or more is left of a shape that was full before, the whole call is cheaper than another
    compilation.
    """
    waiting: dict[_Shape, list[Group]] = {}
    compiled = set()
    for group in groups:
        shape = _shape(group)
        same = waiting.setdefault(shape, [])
        same.append(group)
        if len(same) == _rows(model, shape):
            compiled.add(shape)
            yield waiting.pop(shape)
    ways = _ways(model)
    for shape, rest in waiting.items():
        full, rows = _rows(model, shape), ways * bucket(-(-len(rest) // ways))
        rows = full if shape in compiled and 2 * rows >= full else min(full, rows)
        yield rest + [Group(rest[-1].prefix, [])] * (rows - len(rest))


def _ways(model: LocalModel) -> int:
    return batch_ways(model.lm.mesh)


def _rows(model: LocalModel, shape: _Shape) -> int:
    ways = _ways(model)
    many = TOKENS // (shape.prefix + shape.branches * shape.branch)
    return ways * min(max(1, many // ways), max(1, model.batch_size // ways))


def _score(model: LocalModel, groups: Sequence[Group]) -> np.ndarray:
    """Σ log p of each answer [P, G, K]."""
    shapes = [_shape(group) for group in groups if group.branches]
    shape = shapes[0]
    rows, (slots, branches, width, targets) = len(groups), shape
    tokens = np.full((rows, slots), model.pad_id, np.int32)
    mask = np.zeros((rows, slots), np.int32)
    own = np.full((rows, branches, width), model.pad_id, np.int32)
    first = np.zeros((rows, branches), np.int32)
    last = np.zeros((rows, branches), np.int32)
    ends = np.zeros((rows, branches, targets), np.int32)
    for p, group in enumerate(groups):
        tokens[p, slots - len(group.prefix) :] = group.prefix
        mask[p, slots - len(group.prefix) :] = 1
        for g, branch in enumerate(group.branches):
            own[p, g, : len(branch.ids)] = branch.ids
            first[p, g] = branch.first
            last[p, g] = len(branch.ids) - 1
            ends[p, g, : len(branch.targets)] = branch.targets
    most = int((last - first).max())
    inner = 0 if most <= 0 else min(few_sizes(most), width)
    weights = model.lm.weights
    arrays = jax.device_put((tokens, mask), params.batch_sharding(model.lm.mesh))
    score = partial(_branch_scores, weights.definition, model.lm.dtype, model.lm.mesh, inner)
    flat = (own.reshape(-1, width), first.reshape(-1), last.reshape(-1), ends.reshape(-1, targets))
    found = score(weights.trainable, weights.frozen, *arrays, *flat)
    return np.asarray(found).reshape(rows, branches, targets)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _branch_scores(
    definition: nnx.GraphDef,
    dtype: DTypeLike,
    mesh: Mesh,
    inner: int,
    trainable: params.Params,
    frozen: params.Params,
    prefix_PS: Int[Array, "P S"],
    mask_PS: Int[Array, "P S"],
    tokens_BW: Int[Array, "B W"],
    first_B: Int[Array, " B"],
    last_B: Int[Array, " B"],
    targets_BK: Int[Array, "B K"],
) -> Float[Array, "B K"]:
    """Σ log p of tokens first .. last − 1 (at most `inner` of them) and of each target in the place of the
    last; B = P·G."""
    model = params.merge(params.ModelParams(definition, trainable, frozen))
    before_BWD = response_states(model, prefix_PS, mask_PS, tokens_BW, dtype=dtype, mesh=mesh)
    end_BD = jnp.take_along_axis(before_BWD, last_B[:, None, None], axis=1)[:, 0]
    logits_BV = model.logits(end_BD[:, None])[:, 0]
    norm_B = jax.nn.logsumexp(logits_BV, axis=-1)
    end_BK = jnp.take_along_axis(logits_BV, targets_BK, axis=-1) - norm_B[:, None]
    scores_BK = end_BK
    if inner:
        head = model.output_head(dtype)
        scores_BK = end_BK + span_sums(before_BWD, head, tokens_BW, first_B, last_B - first_B, inner)[:, None]
    return jax.lax.with_sharding_constraint(scores_BK, params.replicated(mesh))
