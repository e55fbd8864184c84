"""Tensors of a checkpoint that hold several of a model's weights, one below the other.

Phi-3 stores q, k and v as one; transformers holds a layer's experts as one while it runs. Reading, a fused
tensor is seen as its parts, of which each slice is read by itself; writing, parts are joined.
"""

from collections.abc import Iterable, Mapping, Sequence

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
            if not all(shapes) or whole.shape != (*lead, sum(s[0] for s in shapes), *shapes[0][1:]):
                continue
            del found[name]
            start = 0
            for part, shape in zip(one.parts, shapes, strict=True):
                for expert in range(experts or 1):
                    place = None if experts is None else expert
                    found[part.format(layer, expert)] = _part(whole, place, start, shape)
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


def _part(whole: StoredTensor, expert: int | None, start: int, shape: tuple[int, ...]) -> StoredTensor:
    def read(index: tuple[slice, ...]) -> np.ndarray:
        first, last, _ = index[0].indices(shape[0])
        inner = (slice(start + first, start + last), *index[1:])
        if expert is None:
            return whole.read(inner)
        return whole.read((slice(expert, expert + 1), *inner))[0]

    return StoredTensor(shape, whole.dtype, read)


def joined(
    tensors: Iterable[CheckpointTensor], fused: Sequence[Fused], layers: int
) -> list[CheckpointTensor]:
    """The opposite of `split_fused`, for writing: each fused tensor in the place of its first part.

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
                made[names[0]] = _join(one.name.format(layer), rows, stacked=experts is not None)
    return [made.get(n, t) for n, t in by_name.items() if n in made or n not in gone]


def _join(name: str, rows: list[list[CheckpointTensor]], stacked: bool) -> CheckpointTensor:
    first = rows[0]
    shape = (sum(t.shape[0] for t in first), *first[0].shape[1:])

    def read() -> np.ndarray:
        whole = [np.concatenate([tensor.read() for tensor in row]) for row in rows]
        return np.stack(whole) if stacked else whole[0]

    return CheckpointTensor(name, (len(rows), *shape) if stacked else shape, first[0].dtype, read)
