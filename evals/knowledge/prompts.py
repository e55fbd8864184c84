"""How a question is put to a model, and where its answer ends.

Base models complete, instruction-tuned models answer: the same fact is asked as a few-shot list, as the
start of a statement, or as an instruction. Fine-tuning moves these forms apart (the instruction form rises
first and hides forgetting), so report a completion form beside an instruction form.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from evals.knowledge.answers import Extent, normalize
from evals.knowledge.questions import ChoiceQuestion, ClosedBookQuestion
from jaxmoe.json_values import JsonObject

KnowledgeQuestion = ClosedBookQuestion | ChoiceQuestion


@dataclass(frozen=True)
class PromptTemplate:
    """The text around a question.

    Attributes:
      text: with {question}, {asked} (the question with a question mark at its end) or {stem}.
      answer: how an answer follows it, in examples and when answers are scored; with {answer}.
      separator: between examples, and before the question itself.
      unconditional: what stands before an answer when nothing is asked; for calibrated multiple choice.
      stop: strings that end a response.
      extent: what of a response is the answer: its first line, or as many words as the gold answer has.
    """

    text: str
    answer: str = " {answer}"
    separator: str = "\n\n"
    unconditional: str = ""
    stop: tuple[str, ...] = ()
    extent: Extent = "line"

    def __post_init__(self) -> None:
        try:
            self.text.format(question="", asked="", stem="")
            self.answer.format(answer="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"a prompt template may hold {{question}}, {{asked}}, {{stem}} (answer: {{answer}}), other "
                f"braces doubled; got {self.text!r} with answer {self.answer!r}"
            ) from error

    def prompt(self, question: KnowledgeQuestion, shots: Sequence[ClosedBookQuestion] = ()) -> str:
        """The examples with their canonical answers, then the question.

        Args:
          question: that is asked.
          shots: solved examples.
        Returns: the prompt.

        Raises: ValueError if the template needs a stem and the question has none.
        """
        solved = [self._filled(shot) + self.continuation(shot.answers[0]) for shot in shots]
        return self.separator.join([*solved, self._filled(question)])

    def turns(self, shots: Sequence[ClosedBookQuestion], system: str | None = None) -> list[JsonObject]:
        """The examples as turns of a chat, to stand before a question.

        In one message with the question, a chat model can take the examples for a part of what is asked.

        Args:
          shots: solved examples; the user asks, the assistant gives the canonical answer.
          system: system prompt before them; None for none.
        Returns: messages of role and content.

        Raises: ValueError if the template needs a stem and an example has none.
        """
        messages: list[JsonObject] = [] if system is None else [{"role": "system", "content": system}]
        for shot in shots:
            answer = self.continuation(shot.answers[0]).strip()
            messages += [
                {"role": "user", "content": self._filled(shot)},
                {"role": "assistant", "content": answer},
            ]
        return messages

    def continuation(self, answer: str) -> str:
        """The answer as it follows the prompt."""
        return self.answer.format(answer=answer)

    def _filled(self, question: KnowledgeQuestion) -> str:
        if "{stem}" in self.text and not question.stem:
            raise ValueError(
                f"question {question.id} has no stem to complete; give its row one, or take another template"
            )
        asked = question.question.rstrip()
        return self.text.format(
            question=question.question,
            asked=asked if asked.endswith(("?", ".", "!", ":")) else f"{asked}?",
            stem=(question.stem or "").rstrip(),
        )


TEMPLATES = {
    # the few-shot form of most published closed-book figures for base models
    "qa": PromptTemplate("Q: {asked}\nA:", unconditional="A:", stop=("\n",)),
    "completion": PromptTemplate("{stem}", separator="\n", extent="prefix"),
    "instruction": PromptTemplate("{question}"),
    # the same words, in the form in which instructions are trained by default (jaxmoe.text.forms)
    "auto": PromptTemplate("{question}"),
    "chat": PromptTemplate("Answer with the shortest phrase that is right, and nothing else.\n{asked}"),
}


def template(name: str) -> PromptTemplate:
    """A named template. Raises: ValueError with the known names."""
    if name not in TEMPLATES:
        raise ValueError(f"template must be one of {', '.join(TEMPLATES)}; got {name!r}")
    return TEMPLATES[name]


def draw_shots(
    pool: Sequence[ClosedBookQuestion],
    count: int,
    *,
    against: Sequence[KnowledgeQuestion] = (),
    seed: int = 0,
) -> list[ClosedBookQuestion]:
    """Random examples for few-shot prompts, none of which is asked or shares a cluster with what is asked.

    Args:
      pool: to draw from.
      count: of examples.
      against: what is asked.
      seed: of the draw.
    Returns: the examples, in the order of the draw.

    Raises: ValueError if fewer than `count` are left.
    """
    taken = {normalize(question.question) for question in against}
    clusters = {question.cluster for question in against if question.cluster is not None}
    free = [q for q in pool if normalize(q.question) not in taken and q.cluster not in clusters]
    if len(free) < count:
        raise ValueError(
            f"{count} examples are wanted, but {len(free)} of the {len(pool)} given are not themselves asked"
        )
    return random.Random(seed).sample(free, count)
