"""Tensors of a checkpoint that hold several of a model's weights, one below the other.

Phi-3 stores q, k and v as one; transformers holds a layer's experts as one at run time, and GPT-OSS stores
them that way. On reading, a fused tensor is seen as its parts, each slice of which is read by itself; on
writing, the parts are joined.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxmoe.families.hf_config import Fused
from jaxmoe.weights.convert import CheckpointTensor
from jaxmoe.weights.weight_files import StoredTensor


def split_fused(
    stored: Mapping[str, StoredTensor],
    fused: Sequence[Fused],
    expected: Mapping[str, tuple[int, ...]],
    layers: int,
) -> dict[str, StoredTensor]:
    """A checkpoint's tensors with its fused ones taken apart; nothing is read.

    Args:
      stored: the tensors by name.
      fused: of the family.
      expected: shapes of the parts by name.
      layers: L.
    Returns: a new dictionary; a fused tensor whose shape does not fit stays as it is, to be refused by name.
    """
    found = dict(stored)
    for one in fused:
        for layer in range(layers):
            name, experts = one.name.format(layer), _experts(one, expected, layer)
            if (whole := stored.get(name)) is None or name in expected:
                continue
            lead = () if experts is None else (experts,)
            shapes = [expected.get(part.format(layer, 0), ()) for part in one.parts]
            inner = (sum(s[0] for s in shapes if s), *shapes[0][1:])
            if not all(shapes) or whole.shape != (*lead, *(inner[::-1] if one.transposed else inner)):
                continue
            del found[name]
            start = 0
            for number, (part, shape) in enumerate(zip(one.parts, shapes, strict=True)):
                step = len(one.parts) if one.interleaved else 1
                rows = _Rows(number if one.interleaved else start, step, one.transposed)
                for expert in range(experts or 1):
                    place = None if experts is None else expert
                    found[part.format(layer, expert)] = _part(whole, place, rows, shape)
                start += shape[0]
    return found


def _experts(one: Fused, expected: Mapping[str, tuple[int, ...]], layer: int) -> int | None:
    """How many experts a fused tensor stacks; None if it is of no experts."""
    if one.parts[0].count("{}") < 2:
        return None
    count = 0
    while one.parts[0].format(layer, count) in expected:
        count += 1
    return count


class _Rows(NamedTuple):
    """Which rows of a fused matrix belong to a part: `start`, start + step, ..; transposed, which columns."""

    start: int
    step: int
    transposed: bool


def _part(whole: StoredTensor, expert: int | None, rows: _Rows, shape: tuple[int, ...]) -> StoredTensor:
    def read(index: tuple[slice, ...]) -> np.ndarray:
        first, last, _ = index[0].indices(shape[0])
        # files are read in contiguous runs: where rows alternate, the others' are read along
        begin, end = (rows.start + row * rows.step for row in (first, last))
        inner = (slice(begin, max(begin, end - rows.step + 1)), *index[1:])
        inner = inner[::-1] if rows.transposed else inner
        out = whole.read(inner) if expert is None else whole.read((slice(expert, expert + 1), *inner))[0]
        return (out.T if rows.transposed else out)[:: rows.step]

    return StoredTensor(shape, whole.dtype, read)


def joined(
    tensors: Iterable[CheckpointTensor], fused: Sequence[Fused], layers: int
) -> list[CheckpointTensor]:
    """The inverse of `split_fused`, for writing: each fused tensor in the place of its first part.

    Args:
      tensors: in a checkpoint's order.
      fused: of the family.
      layers: L.
    Returns: a new list.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    made: dict[str, CheckpointTensor] = {}
    gone: set[str] = set()
    for one in fused:
        for layer in range(layers):
            experts = _experts(one, {name: t.shape for name, t in by_name.items()}, layer)
            rows = [
                [by_name[part.format(layer, expert)] for part in one.parts]
                for expert in range(1 if experts is None else experts)
                if all(part.format(layer, expert) in by_name for part in one.parts)
            ]
            if rows:
                names = [tensor.name for row in rows for tensor in row]
                gone |= set(names)
                made[names[0]] = _join(one, one.name.format(layer), rows, stacked=experts is not None)
    return [made.get(n, t) for n, t in by_name.items() if n in made or n not in gone]


def _join(one: Fused, name: str, rows: list[list[CheckpointTensor]], stacked: bool) -> CheckpointTensor:
    first = rows[0]
    inner = (sum(t.shape[0] for t in first), *first[0].shape[1:])

    def joined(row: list[CheckpointTensor]) -> np.ndarray:
        parts = [tensor.read() for tensor in row]
        whole = np.stack(parts, 1).reshape(inner) if one.interleaved else np.concatenate(parts)
        return whole.T if one.transposed else whole

    def read() -> np.ndarray:
        whole = [joined(row) for row in rows]
        return np.stack(whole) if stacked else np.ascontiguousarray(whole[0])

    shape = inner[::-1] if one.transposed else inner
    return CheckpointTensor(name, (len(rows), *shape) if stacked else shape, first[0].dtype, read)
