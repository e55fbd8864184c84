"""A local model as a respondent: exact log-probabilities of the options, or sampled answers.

With options scored, the model says how probable each label (or each option's words) is right after the
question. Words of several tokens need a calibration for their length, and a model prefers some words whatever
the question: contextual calibration divides by how probable an option is when nothing is asked.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from evals.models import shared_prefix
from evals.models.local_model import LocalModel
from evals.models.text_model import TextModel
from evals.questionnaires.reading import parse
from evals.questionnaires.respondent import Answer, Question, from_probabilities
from evals.questionnaires.respondents.option_scores import Scored, continuation, softmax

Length = Literal["none", "tokens", "characters"]
Choose = Literal["most_probable", "drawn"]
# what takes the place of an item when nothing is asked
NOTHING_ASKED = ("N/A", "...", "[no statement]")


def logits(
    sums: np.ndarray, tokens: np.ndarray, characters: np.ndarray, length: Length, empty: np.ndarray | None
) -> np.ndarray:
    """Option scores from log-probabilities, before the softmax.

    Args:
      sums: Σ log p over the tokens of each option, [questions, options].
      tokens, characters: how many each option has, [questions, options].
      length: what the sums are divided by: nothing, tokens or characters.
      empty: scores where nothing is asked, [contents, options] or [questions, contents, options]; the log of
        their mean probability is subtracted. None subtracts nothing.
    Returns: scores, [questions, options].
    Reference: for the subtraction, Zhao et al. 2021, arXiv:2102.09690.
    """
    per = {"none": np.ones_like(tokens), "tokens": tokens, "characters": characters}[length]
    scores = sums / per
    if empty is None:
        return scores
    return scores - np.log(softmax(empty).mean(axis=-2))


@dataclass(frozen=True)
class ScoringRespondent:
    """Answers by how probable each option is.

    Attributes:
      model: a LocalModel computes shared beginnings once; any other TextModel scores row by row.
      scored: the options' labels, or their words.
      length: how scores of several tokens are made comparable; labels need none.
      calibrated: divide by the options' probability when nothing is asked.
      choose: the most probable option, or one drawn by the question's seed.
      base: which base and weights the model has, from `evals.models.model_identity`; not recorded if
        empty.
    """

    model: TextModel
    name: str = "model"
    scored: Scored = "label"
    length: Length = "none"
    calibrated: bool = False
    choose: Choose = "most_probable"
    share_prefixes: bool = True
    base: str = ""

    def __post_init__(self) -> None:
        for what, value, known in (
            ("scored", self.scored, get_args(Scored)),
            ("length", self.length, get_args(Length)),
            ("choose", self.choose, get_args(Choose)),
        ):
            if value not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}; got {value!r}")

    @property
    def settings(self) -> dict[str, object]:
        """What answers depend on."""
        return {
            "mode": f"log-probabilities of {self.scored}",
            "length": self.length,
            "calibrated": self.calibrated,
            "choose": self.choose,
            "form": getattr(self.model, "form", None),
            **_weights(self.base),
        }

    @property
    def repeats_itself(self) -> bool:
        """Only draws depend on the seed."""
        return self.choose == "most_probable"

    def probabilities(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """The options' probabilities of each question, as shown."""
        rows = [
            (q.prompt, continuation(q, place, self.scored))
            for q in questions
            for place in range(len(q.choices))
        ]
        heads = [(q.head, len(q.choices)) for q in questions for _ in q.choices]
        sums, tokens = self._logprobs(rows, heads)
        empty = self._empty(questions) if self.calibrated else {}
        found, at = [], 0
        for question in questions:
            here = slice(at, at := at + len(question.choices))
            letters = np.array([len(text.strip()) for _, text in rows[here]], float)
            scores = logits(
                sums[here][None],
                tokens[here][None],
                letters[None],
                self.length,
                empty.get(self._context(question)),
            )
            found.append(softmax(scores)[0])
        return found

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answers all questions in few padded batches."""
        for number, probabilities in enumerate(self.probabilities(questions)):
            question = questions[number]
            position = int(probabilities.argmax())
            if self.choose == "drawn":
                draw = uniform(question) * probabilities.sum()
                position = min(int((probabilities.cumsum() <= draw).sum()), len(probabilities) - 1)
            yield number, from_probabilities(question, probabilities.tolist(), position)

    def _context(self, question: Question) -> tuple[str, str]:
        return question.head, question.template.tail

    def _empty(self, questions: Sequence[Question]) -> dict[tuple[str, str], np.ndarray]:
        """Scores [E, J] where nothing is asked, once for each head."""
        first: dict[tuple[str, str], Question] = {}
        for question in questions:
            first.setdefault(self._context(question), question)
        asked = [replace(q, text=nothing) for q in first.values() for nothing in NOTHING_ASKED]
        rows = [
            (q.prompt, continuation(q, place, self.scored)) for q in asked for place in range(len(q.choices))
        ]
        sums, tokens = self._logprobs(rows, [q.head for q in asked for _ in q.choices])
        characters = np.array([len(text.strip()) for _, text in rows], float)
        scores = logits(sums, tokens, characters, self.length, None)
        found, at = {}, 0
        for context, question in first.items():
            size = len(NOTHING_ASKED) * len(question.choices)
            found[context] = scores[at : at + size].reshape(len(NOTHING_ASKED), -1)
            at += size
        return found

    def _logprobs(
        self, rows: Sequence[tuple[str, str]], heads: Sequence[object]
    ) -> tuple[np.ndarray, np.ndarray]:
        prompts, continuations = [row[0] for row in rows], [row[1] for row in rows]
        if self.share_prefixes and isinstance(self.model, LocalModel):
            found = shared_prefix.logprob(self.model, prompts, continuations, heads=heads)
        else:
            found = self.model.logprob(prompts, continuations)
        return np.array(found.logprobs), np.array(found.tokens, float)


def _weights(base: str) -> dict[str, object]:
    return {"base and revision": base} if base else {}


def uniform(question: Question) -> float:
    """A number in [0, 1) that depends only on the question and its seed."""
    digest = hashlib.blake2b("\x1f".join(question.key).encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


@dataclass(frozen=True)
class WritingRespondent:
    """Answers by writing: sampled text is read by `reading.parse`.

    Attributes:
      temperature: 0 writes the most probable text, and then seeds make no difference.
      base: as for `ScoringRespondent`.
    """

    model: TextModel
    name: str = "model"
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 16
    base: str = ""

    @property
    def settings(self) -> dict[str, object]:
        """What answers depend on."""
        return {
            "mode": "written",
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
            "form": getattr(self.model, "form", None),
            **_weights(self.base),
        }

    @property
    def repeats_itself(self) -> bool:
        """True at temperature 0."""
        return self.temperature == 0

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answers the questions of each seed in one call."""
        for seed in dict.fromkeys(question.seed for question in questions):
            numbers = [n for n, question in enumerate(questions) if question.seed == seed]
            texts = self.write([questions[n].prompt for n in numbers], seed)
            for number, text in zip(numbers, texts, strict=True):
                yield number, parse(questions[number], text)

    def write(self, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """What it writes after each prompt.

        Args:
          prompts: whole texts; the form of the model may wrap them.
          seed: of the sampling; makes no difference at temperature 0.
        Returns: a text for each prompt, in their order, of at most max_new_tokens tokens.
        """
        return self.model.generate(
            prompts, self.max_new_tokens, temperature=self.temperature, top_p=self.top_p, seed=seed
        )
