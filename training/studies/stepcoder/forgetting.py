"""What practice costs a pretrained base: facts that it no longer completes, and how far it has moved.

A fact is known if the base completes its statement by greedy decoding; the practiced models are asked only
those facts. Divergence is exact over the vocabulary, token by token, on the new task's inputs (RL's Razor,
arXiv:2509.04259): answers that the base itself sampled for held-out problems.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import jax
import numpy as np

from evals.knowledge import greedy
from evals.knowledge.embedded_questions import closed_book_questions
from evals.knowledge.questions import ClosedBookQuestion
from evals.models.divergence import Reference
from evals.models.local_model import ScoredIds
from jaxmoe.language_model import LanguageModel
from jaxmoe.model.mesh import even_rows
from jaxmoe.tokenizer import pad_id
from training.studies.cells import Result

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ForgettingConfig:
    """How much is asked.

    Attributes:
      facts: number of held-out facts that the base is asked; null takes all.
      rows: texts per batch; changes no result.
    """

    facts: int | None = None
    rows: int = 32

    def __post_init__(self) -> None:
        if min(self.rows, 1 if self.facts is None else self.facts) < 1:
            raise ValueError("forgetting.facts and forgetting.rows must be at least 1")


def of_base(
    config: ForgettingConfig,
    lm: LanguageModel,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    new_tokens: int,
) -> Result:
    """What later models are compared with.

    Args:
      config: how much is asked.
      lm: the base.
      tokenizer: the base's tokenizer.
      prompts: held-out problems, as given to it.
      new_tokens: maximum length of an answer.
    Returns: `asked`, the numbers of the `known` facts and their `relations`, and `texts`: ids of prompt and
      answer, and where the answer begins.
    Raises: ValueError if the base knows none.
    """
    facts = closed_book_questions("test", None, config.facts)
    known = np.flatnonzero(_completed(lm, tokenizer, facts, _rows(config, lm))).tolist()
    if not known:
        raise ValueError(
            f"the base completes none of the {len(facts)} facts that it was asked, so nothing can be "
            "forgotten; take a base that knows some, or leave `forgetting` out"
        )
    texts = _answered(lm, prompts, new_tokens, pad_id(tokenizer), _rows(config, lm))
    return {
        "asked": len(facts),
        "known": known,
        "relations": [facts[number].category for number in known],
        "texts": [text._asdict() for text in texts],
    }


def _answered(
    lm: LanguageModel, prompts: Sequence[list[int]], new_tokens: int, pad: int, rows: int
) -> list[ScoredIds]:
    """Prompts with one answer each, sampled at temperature 1."""
    width = max(map(len, prompts))
    tokens = np.full((-(-len(prompts) // rows) * rows, width), pad, np.int32)
    mask = np.zeros_like(tokens)
    mask[:, -1] = 1  # padding rows
    for row, ids in enumerate(prompts):
        tokens[row, width - len(ids) :], mask[row, width - len(ids) :] = ids, 1
    root, texts = jax.random.key(0), []
    for at in range(0, len(prompts), rows):
        part = slice(at, at + rows)
        found = lm.generate(
            tokens[part], mask[part], new_tokens, temperature=1.0, key=jax.random.fold_in(root, at)
        )
        for ids, new, count in zip(prompts[part], found.tokens[:, width:], found.lengths, strict=False):
            texts.append(ScoredIds([*ids, *new[:count].tolist()], len(ids)))
    return texts


class Forgetting:
    """Tests models that derive from a base on its facts and answers.

    Args:
      config: how much is asked.
      base: the base itself, from which divergence is measured.
      tokenizer: the base's tokenizer.
      found: what `of_base` returned.
    """

    def __init__(
        self,
        config: ForgettingConfig,
        base: LanguageModel,
        tokenizer: "PreTrainedTokenizerBase",
        found: Result,
    ):
        self._config, self._base, self._tokenizer, self._found = config, base, tokenizer, found

    def of(self, lm: LanguageModel) -> Result:
        """How much a model keeps, and how far it is from its base.

        Args:
          lm: the practiced model.
        Returns: `completed`, the share of the known facts that is kept; `kept`, a 1 or 0 for each; `kl` in
          nats per token, on the base's answers (own) and on the prompts.
        """
        facts = closed_book_questions("test", None, self._config.facts)
        known = [facts[number] for number in self._found["known"]]
        kept = _completed(lm, self._tokenizer, known, _rows(self._config, lm))
        apart = self._reference.divergence(lm)
        return {
            "completed": float(kept.mean()),
            "kept": "".join(str(int(mark)) for mark in kept),
            "kl": {"own": apart.continuations._asdict(), "prompts": apart.prompts._asdict()},
        }

    @cached_property
    def _reference(self) -> Reference:
        texts = [ScoredIds(**text) for text in self._found["texts"]]
        return Reference(self._base, texts, pad_id(self._tokenizer), _rows(self._config, self._base))


def _rows(config: ForgettingConfig, lm: LanguageModel) -> int:
    return even_rows(lm.mesh, config.rows)


def _completed(
    lm: LanguageModel,
    tokenizer: "PreTrainedTokenizerBase",
    facts: Sequence[ClosedBookQuestion],
    rows: int,
) -> np.ndarray:
    return greedy.take(lm, greedy.prepare(lm, tokenizer, facts, "text", greedy.STATEMENTS, rows)).right
