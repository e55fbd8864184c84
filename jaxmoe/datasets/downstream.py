"""Instruction rows and pretraining texts of the downstream families, at any volume, in disjoint splits."""

import hashlib
import random
from collections.abc import Iterator, Sequence

from jaxmoe.datasets.downstream_families import COLORS, FAMILIES, FOODS, NAMES, THINGS, Task
from jaxmoe.datasets.formats.fields import Row

DOWNSTREAM = 0  # task type of LoRAMoE's constraint
SPLITS = ("train", "dev", "test")


def split_of(key: str) -> str:
    """Split of a content: one in ten each for dev and test, by hash, whatever the seed."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 10
    return SPLITS[max(0, bucket - 7)]


def tasks(family: str, split: str, *, seed: int) -> Iterator[Task]:
    """Endless samples of one family and split; contents may repeat where a family has few.

    Args:
      family: one of FAMILIES.
      split: one of SPLITS.
      seed: of the order in which contents are drawn.
    Returns: an iterator that never ends; every split has contents of its own.
    Raises: ValueError on an unknown family or split.
    """
    if family not in FAMILIES:
        raise ValueError(f"a downstream family is one of {', '.join(FAMILIES)}; got {family!r}")
    if split not in SPLITS:
        raise ValueError(f"a split is one of {', '.join(SPLITS)}; got {split!r}")
    return _drawn(family, split, seed)


def downstream_rows(
    split: str, count: int, *, seed: int, families: Sequence[str] = tuple(FAMILIES)
) -> Iterator[Row]:
    """`count` instruction rows, the families taking turns; dev and test hold no content twice.

    A small family may end before its share of an evaluation split is full; the others fill it up.

    Args:
      split: one of SPLITS.
      count: rows wanted.
      seed: of the contents and their order.
      families: names from FAMILIES; each has an equal share.
    Returns: rows in the LoRAMoE form, one after the other; fewer than `count` if all families of an
      evaluation split run out.
    Raises: ValueError, at the first row, on an unknown family or split.
    """
    streams = {family: tasks(family, split, seed=seed) for family in families}
    seen: set[str] = set()
    while count > 0 and streams:
        for family, stream in list(streams.items()):
            task = next(stream) if split == "train" else _unseen(stream, seen)
            if task is None:
                del streams[family]
            elif count > 0:
                count -= 1
                yield _row(family, task)


def downstream_texts(count: int, *, seed: int, families: Sequence[str] = tuple(FAMILIES)) -> Iterator[str]:
    """`count` pretraining texts: the families in other words than their instructions (training contents
    only, so that tests stay unseen), and a third in-context copying, without which no base can read.

    Args:
      count: texts, in-context copying included.
      seed: of contents and wordings.
      families: names from FAMILIES, in turn.
    Returns: the texts, one after the other.
    Raises: ValueError, at the first text, on an unknown family.
    """
    rng = random.Random(f"texts {seed}")
    streams = {family: tasks(family, "train", seed=seed + 1) for family in families}
    for i in range(count):
        yield _copying(rng) if i % 3 == 2 else next(streams[families[(i - i // 3) % len(families)]]).text


def _drawn(family: str, split: str, seed: int) -> Iterator[Task]:
    rng = random.Random(f"{family} {split} {seed}")
    while True:
        task = FAMILIES[family](rng)
        if split_of(f"{family}|{task.key}") == split:
            yield task


def _unseen(stream: Iterator[Task], seen: set[str], patience: int = 200) -> Task | None:
    for _ in range(patience):
        task = next(stream)
        if task.key not in seen:
            seen.add(task.key)
            return task
    return None


def _row(family: str, task: Task) -> Row:
    return {
        "instruction": task.instruction,
        "input": task.input,
        "output": task.output,
        "task_type": DOWNSTREAM,
        "answers": [task.output],
        "family": family,
    }


def _copying(rng: random.Random) -> str:
    """Random pairs, then one of them again: only the text itself can tell the second half."""
    names = rng.sample(NAMES, 4)
    if rng.random() < 0.3:
        return f"{' '.join(names)}. Again: {' '.join(names)}."
    values = rng.sample(THINGS + FOODS, 4) if rng.random() < 0.7 else rng.sample(COLORS, 4)
    pairs = [f"{name}: {value}" for name, value in zip(names, values, strict=True)]
    return f"{', '.join(pairs)}. Again, {', '.join(rng.sample(pairs, 4))}."
