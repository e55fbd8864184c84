"""Replay: texts sampled from the base, which some rows of the study train on instead of instructions."""

import random
from collections.abc import Sequence

from jaxmoe.json_values import JsonObject

# number of texts that a base samples for replay, and their tokens
REPLAYED, REPLAYED_TOKENS = 32, 64


def with_replay(
    rows: Sequence[JsonObject], texts: Sequence[str], share: float, seed: int
) -> list[JsonObject]:
    """Replaces some rows by texts that were sampled from the base.

    Args:
      rows: the instructions.
      texts: texts from the base; empty ones are left out, and all are used in turn.
      share: share of the samples that are texts.
      seed: decides which rows are replaced.
    Returns: as many rows.
    Raises: ValueError if all texts are empty.
    """
    full = [text for text in texts if text.strip()]
    if not full:
        raise ValueError(
            "the base has drawn only empty texts, so that nothing can be replayed; leave replay out"
        )
    places = random.Random(f"replay {seed}").sample(range(len(rows)), round(share * len(rows)))
    mixed = list(rows)
    for number, place in enumerate(sorted(places)):
        mixed[place] = {"text": full[number % len(full)]}
    return mixed
