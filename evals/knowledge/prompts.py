"""How a question is put to a model, and where its answer ends.

Base models complete, instruction-tuned models answer: the same fact is asked as a few-shot list, as the
start of a statement, or as an instruction. Fine-tuning moves these forms apart (the instruction form rises
first and hides forgetting), so report a completion form next to an instruction form.

`lm_eval` is not a form of this project: it asks each data set as lm-evaluation-harness does, for figures that
can be compared with published ones.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evals.knowledge.answers import Extent, normalize
from evals.knowledge.published_rows import Suite
from evals.knowledge.questions import ChoiceQuestion, ClosedBookQuestion
from jaxmoe.json_values import JsonObject

KnowledgeQuestion = ClosedBookQuestion | ChoiceQuestion
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ShotOrder = Literal["random", "first"]
# comes before a final answer, as in GSM8K
FINAL = "####"


@dataclass(frozen=True)
class PromptTemplate:
    """The text around a question.

    Attributes:
      text: with {question}, {asked} (the question with a question mark at its end), {stem} or {choices} (one
        per line, "A. " before the first).
      answer: how an answer follows the text, in examples and when answers are scored; with {answer}.
      separator: between examples, and before the question itself.
      unconditional: what comes before an answer when nothing is asked; for calibrated multiple choice.
      stop: strings that end a response.
      extent: which part of a response is the answer: its first line, or as many words as the gold answer has.
      heading: before everything else; with {category}, its underscores turned into blanks.
      letters: multiple choice is answered by the letter instead of the text of a choice.
      worked: examples show their solution before the answer.
    """

    text: str
    answer: str = " {answer}"
    separator: str = "\n\n"
    unconditional: str = ""
    stop: tuple[str, ...] = ()
    extent: Extent = "line"
    heading: str = ""
    letters: bool = False
    worked: bool = False

    def __post_init__(self) -> None:
        try:
            self.text.format(question="", asked="", stem="", choices="")
            self.answer.format(answer="")
            self.heading.format(category="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                "a prompt template may hold {question}, {asked}, {stem}, {choices} (answer: {answer}; "
                f"heading: {{category}}), other braces doubled; got {self.text!r} with answer {self.answer!r}"
            ) from error

    def prompt(self, question: KnowledgeQuestion, shots: Sequence[KnowledgeQuestion] = ()) -> str:
        """The examples with their canonical answers, then the question.

        Args:
          question: the one asked.
          shots: solved examples.
        Returns: the prompt.

        Raises: ValueError if the template needs a stem or choices and the question has none.
        """
        heading = self.heading.format(category=question.category.replace("_", " "))
        solved = [self._filled(shot) + self.continuation(self.solved(shot)) for shot in shots]
        return heading + self.separator.join([*solved, self._filled(question)])

    def turns(self, shots: Sequence[KnowledgeQuestion], system: str | None = None) -> list[JsonObject]:
        """The examples as turns of a chat, to precede a question.

        In one message with the question, a chat model can mistake the examples for part of what is asked.

        Args:
          shots: solved examples; the user asks, the assistant gives the canonical answer.
          system: system prompt before them; None for none.
        Returns: messages of role and content.

        Raises: ValueError if the template needs a stem or choices and an example has none.
        """
        messages: list[JsonObject] = [] if system is None else [{"role": "system", "content": system}]
        for shot in shots:
            answer = self.continuation(self.solved(shot)).strip()
            messages += [
                {"role": "user", "content": self._filled(shot)},
                {"role": "assistant", "content": answer},
            ]
        return messages

    def continuation(self, answer: str) -> str:
        """The answer in the form in which it follows the prompt."""
        return self.answer.format(answer=answer)

    def options(self, question: ChoiceQuestion) -> tuple[str, ...]:
        """What the model chooses from: the letters of the choices, or their texts."""
        return tuple(LETTERS[: len(question.choices)]) if self.letters else question.choices

    def solved(self, question: KnowledgeQuestion) -> str:
        """The answer of an example, after its solution where the template shows solutions."""
        if isinstance(question, ChoiceQuestion):
            answer = self.options(question)[question.answer]
        else:
            answer = question.answers[0]
        if not self.worked:
            return answer
        if question.solution is not None and FINAL in question.solution:
            return question.solution
        return "\n".join(filter(None, (question.solution, f"{FINAL} {answer}")))

    def _filled(self, question: KnowledgeQuestion) -> str:
        if "{stem}" in self.text and not question.stem:
            raise ValueError(
                f"question {question.id} has no stem to complete; give its row one, or take another "
                "template (knowledge.templates: auto, chat, qa, instruction)"
            )
        choices = question.choices if isinstance(question, ChoiceQuestion) else ()
        if "{choices}" in self.text and not choices:
            raise ValueError(f"question {question.id} has no choices to list; take another template")
        if len(choices) > len(LETTERS):
            raise ValueError(
                f"question {question.id} has {len(choices)} choices, more than there are letters"
            )
        asked = question.question.rstrip()
        return self.text.format(
            question=question.question,
            asked=asked if asked.endswith(("?", ".", "!", ":")) else f"{asked}?",
            stem=(question.stem or "").rstrip(),
            choices="\n".join(
                f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)
            ),
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


# how lm-evaluation-harness asks each data set; those without a form of their own are asked like ARC
LM_EVAL: dict[Suite, PromptTemplate] = {
    "": PromptTemplate("Question: {question}\nAnswer:", unconditional="Answer:", stop=("\n",)),
    "mmlu": PromptTemplate(
        "{question}\n{choices}\nAnswer:",
        unconditional="Answer:",
        heading="The following are multiple choice questions (with answers) about {category}.\n\n",
        letters=True,
    ),
    "hellaswag": PromptTemplate("{question}"),
    "gsm8k": PromptTemplate(
        "Question: {question}\nAnswer:", stop=("Question:", "</s>", "<|im_end|>"), worked=True
    ),
}


_STEPS = f"Think step by step. End with a line of {FINAL} and the answer alone."
_STEPS_CHOICE = f"Think step by step. End with a line of {FINAL} and the letter of the right choice."
# the forms in which a model reasons before it answers: for plain questions, and for those with choices
REASONING = {
    "qa": "Q: {task}\nA: Let's think step by step.",
    "instruction": "{task}\n{steps}",
    "auto": "{task}\n{steps}",
    "chat": "{task}\n{steps}",
}


def template(name: str, suite: Suite = "") -> PromptTemplate:
    """A named template.

    Args:
      name: a key of TEMPLATES, or lm_eval.
      suite: the data set that is asked; for lm_eval.
    Returns: the template.
    Raises: ValueError that lists the known names.
    """
    if name == "lm_eval":
        return LM_EVAL[suite]
    if name not in TEMPLATES:
        raise ValueError(f"template must be one of {', '.join(TEMPLATES)}, lm_eval; got {name!r}")
    return TEMPLATES[name]


def reasoning_template(name: str, suite: Suite = "", *, choices: bool = False) -> PromptTemplate:
    """The form of a named template in which the model reasons, then answers (chain of thought).

    Args:
      name: a key of REASONING, or lm_eval for GSM8K, which reasons there.
      suite: the data set that is asked.
      choices: whether the questions have choices; they are listed, and answered by letter.
    Returns: the template.
    Raises: ValueError for a template that leaves no room to reason.
    Reference: Wei et al. 2022, arXiv:2201.11903; Kojima et al. 2022, arXiv:2205.11916.
    """
    if name == "lm_eval" and suite == "gsm8k":
        return LM_EVAL[suite]
    if name not in REASONING:
        raise ValueError(
            f"template {name} leaves no room to reason before the answer; take {', '.join(REASONING)}, or "
            "leave reasoning out"
        )
    text = REASONING[name].replace("{task}", "{question}\n{choices}" if choices else "{question}")
    return PromptTemplate(
        text.replace("{steps}", _STEPS_CHOICE if choices else _STEPS),
        stop=("\nQ:",) if name == "qa" else (),
        letters=choices,
        worked=True,
    )


def draw_shots(
    pool: Sequence[KnowledgeQuestion],
    count: int,
    *,
    against: Sequence[KnowledgeQuestion] = (),
    seed: int = 0,
    order: ShotOrder = "random",
) -> list[KnowledgeQuestion]:
    """Examples for few-shot prompts; none of them is asked or shares a cluster with what is asked.

    Args:
      pool: to draw from.
      count: number of examples.
      against: the questions asked.
      seed: of the draw.
      order: random draws them; first takes the first ones in the pool's order.
    Returns: the examples, in the order of the draw or of the pool.

    Raises: ValueError if fewer than `count` are left.
    """
    taken = {normalize(question.question) for question in against}
    clusters = {question.cluster for question in against if question.cluster is not None}
    free = [q for q in pool if normalize(q.question) not in taken and q.cluster not in clusters]
    if len(free) < count:
        raise ValueError(
            f"{count} examples are wanted, but {len(free)} of the {len(pool)} given are not themselves asked"
        )
    return free[:count] if order == "first" else random.Random(seed).sample(free, count)
