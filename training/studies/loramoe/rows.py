"""What rows of the study train on in the place of some instructions: texts that the base has drawn."""

import random
from collections.abc import Sequence

from jaxmoe.json_values import JsonObject

# texts that a base draws to read some of them again, and their tokens
REPLAYED, REPLAYED_TOKENS = 32, 64


def with_replay(
    rows: Sequence[JsonObject], texts: Sequence[str], share: float, seed: int
) -> list[JsonObject]:
    """Rows of which some give their places to texts that the base has drawn.

    Args:
      rows: instructions.
      texts: of the base; empty ones are left out, and all are used in turn.
      share: of the samples that are texts.
      seed: decides which rows.
    Returns: as many rows.
    Raises: ValueError if the base has drawn nothing.
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
