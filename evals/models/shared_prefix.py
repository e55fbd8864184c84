"""Log-probabilities of many answers to few prompts: what texts share is computed once.

Texts are grouped by the token ids that they begin with, however the prompts were built, so the values equal
those of separate rows within rounding. One-token answers to the same question share everything but that
token and cost one lookup each. A group is a row [S + G·W]: the prefix, then the branches side by side, which
see the prefix and themselves (`jaxmoe.generation.shared_prompt`). Where all answers have one token the
branches are packed, several into each of the G blocks, so that hardly a slot is padding.

Letters of this file: P prefixes per call, S slots of a prefix, G branches or blocks per prefix, W slots of
one, N branches per prefix, K answers that end a branch.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from evals.models.local_model import LocalModel, few_sizes, span_sums
from evals.models.prefix_groups import Group, fine_bucket, grouped
from evals.models.text_model import ContinuationScores
from jaxmoe.generation.decode import bucket
from jaxmoe.generation.shared_prompt import Packing, packed_states, response_states
from jaxmoe.model import params
from jaxmoe.model.mesh import batch_ways
from jaxmoe.model.shapes import Array, Float, Int

SHORTEST_PREFIX, SHORTEST_BRANCH, TARGETS = 32, 8, 8
# slots of a block of packed branches
BLOCK = 128
# slots of all rows in a call; larger calls are slower on a CPU, since they exceed its cache
TOKENS, TOKENS_CPU = 16384, 4096


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
      model: scores the texts.
      prompts, continuations: pairs, in the same order.
      heads: texts with the same value are grouped; None groups all of them.
      progress: called with the number of texts scored since the last call.
    Returns: nats and numbers of tokens, one per pair.
    Raises: ValueError as `LocalModel.logprob`.
    """
    texts = model.scored_ids(prompts, continuations)
    sums = np.zeros(len(texts))
    for groups in _calls(model, grouped(texts, heads or [None] * len(texts))):
        found = (_score_packed if groups[0].single else _score)(model, groups)
        for group, values in zip(groups, found, strict=False):
            for branch, scores in zip(group.branches, values, strict=False):
                sums[branch.rows] = scores[: len(branch.rows)]
            if progress is not None:
                progress(sum(len(branch.rows) for branch in group.branches))
    return ContinuationScores(sums.tolist(), [len(text.ids) - text.start for text in texts])


class _Shape(NamedTuple):
    """S, G, W, N (0 where branches are not packed) and K of a call."""

    prefix: int
    blocks: int
    width: int
    branches: int
    targets: int


def _shape(group: Group) -> _Shape:
    prefix = fine_bucket(len(group.prefix), SHORTEST_PREFIX)
    targets = bucket(max(len(branch.targets) for branch in group.branches), TARGETS)
    count = fine_bucket(len(group.branches), 1)
    if not group.single:
        longest = max(len(branch.ids) for branch in group.branches)
        return _Shape(prefix, count, fine_bucket(longest, SHORTEST_BRANCH), 0, targets)
    lengths = [len(branch.ids) - 1 for branch in group.branches]
    width = fine_bucket(max(min(BLOCK, sum(lengths)), *lengths, 1), SHORTEST_BRANCH)
    return _Shape(prefix, fine_bucket(len(_packed(lengths, width)), 1), width, count, targets)


def _packed(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Which texts go into each block: longest first, each into the first block with room; empty ones into
    none."""
    blocks: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        if not lengths[number]:
            continue
        place = next((n for n, left in enumerate(room) if left >= lengths[number]), len(blocks))
        if place == len(blocks):
            blocks.append([])
            room.append(width)
        blocks[place].append(number)
        room[place] -= lengths[number]
    return blocks


def _calls(model: LocalModel, groups: Iterator[Group]) -> Iterator[list[Group]]:
    """Groups of one shape, as many as a call takes; the last call of a shape is filled up.

    If half a call or more is left of a shape that has filled a call before, running a whole call is cheaper
    than another compilation.
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
    device = model.lm.mesh.devices.flat[0]
    limit = TOKENS_CPU if device.platform == "cpu" else TOKENS
    many = limit // (shape.prefix + shape.blocks * shape.width)
    return ways * min(max(1, many // ways), max(1, model.batch_size // ways))


def _score(model: LocalModel, groups: Sequence[Group]) -> np.ndarray:
    """Σ log p of each answer [P, G, K]."""
    shapes = [_shape(group) for group in groups if group.branches]
    shape = shapes[0]
    rows, (_, branches, width, _, targets) = len(groups), shape
    tokens, mask = _prefixes(model, groups, shape)
    own = np.full((rows, branches, width), model.pad_id, np.int32)
    first = np.zeros((rows, branches), np.int32)
    last = np.zeros((rows, branches), np.int32)
    ends = np.zeros((rows, branches, targets), np.int32)
    for p, group in enumerate(groups):
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


def _prefixes(model: LocalModel, groups: Sequence[Group], shape: _Shape) -> tuple[np.ndarray, np.ndarray]:
    """Prefixes padded on the left, and their mask, [P, S]."""
    tokens = np.full((len(groups), shape.prefix), model.pad_id, np.int32)
    mask = np.zeros_like(tokens)
    for p, group in enumerate(groups):
        tokens[p, shape.prefix - len(group.prefix) :] = group.prefix
        mask[p, shape.prefix - len(group.prefix) :] = 1
    return tokens, mask


def _score_packed(model: LocalModel, groups: Sequence[Group]) -> np.ndarray:
    """log p of each answer of one token [P, N, K]."""
    shape = next(_shape(group) for group in groups if group.branches)
    rows, (_, blocks, width, branches, targets) = len(groups), shape
    prefixes = _prefixes(model, groups, shape)
    tokens = np.full((rows, blocks, width), model.pad_id, np.int32)
    segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    last = np.zeros((rows, branches), np.int32)
    ends = np.zeros((rows, branches, targets), np.int32)
    for p, group in enumerate(groups):
        for number, branch in enumerate(group.branches):
            ends[p, number, : len(branch.targets)] = branch.targets
        lengths = [len(branch.ids) - 1 for branch in group.branches]
        for g, inside in enumerate(_packed(lengths, width)):
            at = 0
            for segment, number in enumerate(inside, 1):
                here = slice(at, at := at + lengths[number])
                tokens[p, g, here] = group.branches[number].ids[:-1]
                segments[p, g, here] = segment
                positions[p, g, here] = np.arange(1, lengths[number] + 1)
                last[p, number] = g * width + at  # state 0 is the prefix's
    weights = model.lm.weights
    sharding = params.batch_sharding(model.lm.mesh)
    arrays = jax.device_put((*prefixes, tokens, segments, positions, last, ends), sharding)
    score = partial(_packed_scores, weights.definition, model.lm.dtype, model.lm.mesh)
    return np.asarray(score(weights.trainable, weights.frozen, *arrays))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _packed_scores(
    definition: nnx.GraphDef,
    dtype: DTypeLike,
    mesh: Mesh,
    trainable: params.Params,
    frozen: params.Params,
    prefix_PS: Int[Array, "P S"],
    mask_PS: Int[Array, "P S"],
    tokens_PGW: Int[Array, "P G W"],
    segments_PGW: Int[Array, "P G W"],
    positions_PGW: Int[Array, "P G W"],
    last_PN: Int[Array, "P N"],
    targets_PNK: Int[Array, "P N K"],
) -> Float[Array, "P N K"]:
    """log p of each target after the last slot of its branch."""
    model = params.merge(params.ModelParams(definition, trainable, frozen))
    packing = Packing(segments_PGW, positions_PGW)
    states_PXD = packed_states(model, prefix_PS, mask_PS, tokens_PGW, packing, dtype=dtype, mesh=mesh)
    end_PND = jnp.take_along_axis(states_PXD, last_PN[..., None], axis=1)
    logits_PNV = model.logits(end_PND)
    norm_PN = jax.nn.logsumexp(logits_PNV, axis=-1)
    scores_PNK = jnp.take_along_axis(logits_PNV, targets_PNK, axis=-1) - norm_PN[..., None]
    return jax.lax.with_sharding_constraint(scores_PNK, params.replicated(mesh))


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
