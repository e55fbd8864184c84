"""Continuations of many prompts through an engine's slots: a text that ends makes room for the next at once.

Answers vary widely in length, and a batch runs until its longest row ends. What is drawn depends only on the
seed, the prompt's place and the sample's number.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

import jax

from jaxmoe.generation.engine import Engine, EngineConfig
from jaxmoe.generation.requests import NewToken, Request
from jaxmoe.generation.sampling import Sampling
from jaxmoe.language_model import LanguageModel
from jaxmoe.progress import say

Decoding = Literal["batches", "engine"]


class EngineTexts:
    """Decodes token ids with an engine of its own, created when it is first needed.

    Args:
      lm: the model.
      slots: texts decoded at a time.
      window: most tokens of a text, prompt and answer together.
    """

    def __init__(self, lm: LanguageModel, slots: int, window: int):
        self._lm, self._config = lm, EngineConfig(slots=slots, max_length=window)
        self._engine: Engine | None = None

    def continued(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        sampling: Sampling,
        samples: int,
        seed: int,
        ends: frozenset[int],
        on_ids: Callable[[int, int, list[int]], None] | None = None,
    ) -> list[list[list[int]]]:
        """New tokens of each sample of each prompt.

        Args:
          prompts: token ids.
          max_new_tokens: limit for each sample.
          sampling: settings for all samples.
          samples: number of samples per prompt.
          seed: gives the random numbers, together with the prompt's place and the sample's number.
          ends: a text ends with the first of these, which is kept.
          on_ids: called with a prompt's place, the sample's number and its ids as soon as it ends.
        Returns: ids by prompt and sample.
        """
        if self._engine is None:
            self._engine = Engine(self._lm, self._config)
        engine = self._engine
        # leftovers of an earlier call would change how a prompt is cut into chunks, and so the last bits
        engine.forget()

        def stops(token: NewToken) -> bool:
            return token.token in ends

        places: dict[int, tuple[int, int]] = {}
        for place, prompt in enumerate(prompts):
            for sample in range(samples):
                drawn = _seed(seed, place, sample)
                places[engine.submit(Request(prompt, max_new_tokens, sampling, drawn, on_token=stops))] = (
                    place,
                    sample,
                )
        found: dict[tuple[int, int], list[int]] = {}
        while not engine.idle:
            for number, done in engine.step().items():
                found[places[number]] = done.tokens
                if on_ids is not None:
                    on_ids(*places[number], done.tokens)
        return [[found[place, sample] for sample in range(samples)] for place in range(len(prompts))]


def _seed(seed: int, place: int, sample: int) -> int:
    digest = hashlib.sha256(f"{seed}/{place}/{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def engine_texts(lm: LanguageModel, decoding: Decoding, slots: int, window: int) -> EngineTexts | None:
    """The engine for a model's texts, if it is wanted and possible.

    Args:
      lm: the model.
      decoding: batches or engine.
      slots: texts decoded at a time.
      window: most tokens of a text.
    Returns: the engine, not started yet; None for batches. If an engine is wanted but not possible, says so.
    """
    if decoding == "batches":
        return None
    turning = next((rope.rope_type for rope in lm.config.ropes if rope.depends_on_length), None)
    if turning is not None:
        say(f"texts are decoded in batches: rope_type {turning} turns with the longest text of a batch")
        return None
    if jax.process_count() > 1:
        say("texts are decoded in batches: the engine runs in a single process")
        return None
    return EngineTexts(lm, slots, window)
