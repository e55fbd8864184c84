"""Replay: texts sampled from the base, which some rows of the study train on instead of instructions."""

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evals.models.local_model import LocalModel
from jaxmoe.json_values import JsonObject
from jaxmoe.tokenizer import encode_text
from training.data.batch import NO_TASK, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A base continues these beginnings of sentences. After an end token it would begin in the middle of a
# sentence, and so do some bases after a single word. At temperature 1, a small base writes little sense.
TOKENS, TEMPERATURE, TOP_P = 64, 0.8, 0.9
OPENINGS = (
    "The history of the city",
    "In this article, we",
    "Once upon a time,",
    "The most important thing about",
    "Scientists have found that",
    "A good way to learn",
    "My favorite season is",
    "When the war ended,",
    "The human body",
    "Many people believe that",
    "To make a simple soup,",
    "The first chapter of the book",
    "Every morning, she",
    "The river flows through",
    "One of the best known",
    "Last year, the company",
    "It is well known that",
    "The museum was founded",
    "If you want to travel,",
    "Music has always been",
    "The main difference between",
    "During the winter, the animals",
    "Our research shows that",
    "He was born in",
    "There are three kinds of",
    "The law requires that",
    "Plants need water because",
    "The old man looked at",
    "In mathematics, a",
    "The government announced that",
    "Computers can be used to",
    "At the end of the day,",
)

SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)")


def replay_settings() -> JsonObject:
    """What the texts depend on besides the base, as plain JSON."""
    return {"openings": [*OPENINGS], "tokens": TOKENS, "temperature": TEMPERATURE, "top_p": TOP_P}


def base_texts(model: LocalModel) -> list[str]:
    """The base's continuations of the openings, each up to the end of its last complete sentence.

    Args:
      model: the base, prompted with plain text.
    Returns: texts with their openings; one without a complete sentence is left out.
    Raises: ValueError if none has one.
    """
    drawn = model.generate(OPENINGS, TOKENS, temperature=TEMPERATURE, top_p=TOP_P)
    texts = [whole_sentences(begun + more) for begun, more in zip(OPENINGS, drawn, strict=True)]
    if not any(texts):
        raise ValueError("the base wrote no complete sentence, so nothing can be replayed; leave replay out")
    return [text for text in texts if text]


def whole_sentences(text: str) -> str:
    """A text without its last sentence where that is incomplete.

    Args:
      text: cut at some number of tokens.
    Returns: its beginning; "" if no sentence is complete.

    >>> whole_sentences("The river is long. It flows thro")
    'The river is long.'
    """
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""


def replay_sample(tokenizer: "PreTrainedTokenizerBase", text: str, length: int) -> Sample:
    """A text of the base as a sample whose end is not taught: the base did not end it.

    Args:
      tokenizer: the base's tokenizer.
      text: what the base wrote.
      length: number of tokens that a sample may have.
    Returns: ids [T] and a mask that is 1 everywhere except at position 0.
    """
    encoded = encode_text(tokenizer, text)
    keep = min(len(encoded.ids) - 1, length)
    return Sample(encoded.ids[:keep], encoded.loss_mask[:keep], NO_TASK)


def with_replay(samples: Sequence[Sample], texts: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """Replaces some instructions by texts that were sampled from the base.

    Args:
      samples: the instructions.
      texts: texts from the base, all used in turn.
      share: share of the samples that are texts.
      seed: decides which samples are replaced.
    Returns: as many samples.
    """
    places = random.Random(f"replay {seed}").sample(range(len(samples)), round(share * len(samples)))
    mixed = list(samples)
    for number, place in enumerate(sorted(places)):
        mixed[place] = texts[number % len(texts)]
    return mixed
