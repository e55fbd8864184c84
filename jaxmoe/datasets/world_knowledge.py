"""A few thousand real facts, and every form in which the project states or asks them.

Facts are written in CSV files beside this module (first answer canonical, aliases after `|`, an empty
cell where there is no single right answer), their wordings in relations.py. One fixed split decides whose
question-and-answer form may be trained on: the facts of `dev` and `test` are only ever stated, in
pretraining, so that asking for them measures knowledge and not the instruction data.
"""

import csv
import hashlib
import io
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jaxmoe.datasets.formats.fields import Row
from jaxmoe.datasets.relations import RELATIONS, Relation

CLOSED_BOOK_QA = 1  # task type of LoRAMoE's constraint
SPLITS = ("train", "dev", "test")
# a quarter of the facts may be asked in fine-tuning; the greater part is there to be tested
_SHARES = {"train": 0.25, "dev": 0.15, "test": 0.60}
# what a text may open with; none is the most frequent
_OPENERS = ("", "", "", "", "As is known: ", "Remember: ", "In short: ", "Note: ", "It is a fact: ")
# small, common relations whose subjects and answers are a word or two: what the demo's base learns
DEMO_RELATIONS = ("country_capital", "element_symbol", "state_capital", "book_author", "animal_young")


@dataclass(frozen=True)
class Fact:
    """One fact; `answers` are all acceptable answers, the canonical one first."""

    relation: str
    subject: str
    answers: tuple[str, ...]

    @property
    def answer(self) -> str:
        return self.answers[0]

    @property
    def split(self) -> str:
        """train, dev or test, by a hash of relation and subject: fixed for ever, whatever else is added."""
        share = _unit_hash(f"{self.relation}|{self.subject}")
        for split in SPLITS:
            share -= _SHARES[split]
            if share < 0:
                return split
        return SPLITS[-1]


@dataclass(frozen=True)
class MultipleChoice:
    """A completion with options, to be scored by log-probability; each option continues the prompt."""

    prompt: str
    options: tuple[str, ...]
    correct: int
    relation: str


@cache
def load_facts() -> tuple[Fact, ...]:
    """All facts, in the order of relations.py and the files."""
    return tuple(fact for relation in RELATIONS for fact in _facts_of(relation))


def check_split(split: str | None) -> None:
    """Raises: ValueError for a split that there is not."""
    if split is not None and split not in SPLITS:
        raise ValueError(f"a split is one of {', '.join(SPLITS)}; got {split!r}")


def select_facts(
    split: str | None = None, relations: Sequence[str] | None = None, limit: int | None = None
) -> list[Fact]:
    """Facts of a split and of some relations; `limit` keeps that many, chosen by hash.

    Args:
      split: train, dev or test; None for all.
      relations: names of relations; None for all.
      limit: the most facts.
    Returns: the facts in the order of the tables; a smaller `limit` keeps a part of what a larger one keeps.
    Raises: ValueError on an unknown split or relation.
    """
    check_split(split)
    if unknown := set(relations or ()) - set(_BY_NAME):
        raise ValueError(f"unknown relations {sorted(unknown)}; there are {', '.join(_BY_NAME)}")
    chosen = [
        fact
        for fact in load_facts()
        if (split is None or fact.split == split) and (relations is None or fact.relation in relations)
    ]
    if limit is None or limit >= len(chosen):
        return chosen
    kept = set(sorted(chosen, key=lambda f: _unit_hash(f"{f.subject}|{f.relation}"))[:limit])
    return [fact for fact in chosen if fact in kept]


def statements(fact: Fact) -> tuple[str, ...]:
    """The fact in all plain wordings of its relation."""
    return tuple(_sentence(text, fact) for text in _BY_NAME[fact.relation].statements)


def statement(fact: Fact, rng: random.Random, *, openers: bool = True) -> str:
    """The fact in one wording drawn at random, now and then with an opening phrase before it.

    Args:
      fact: what is stated.
      rng: draws the wording and the opening.
      openers: whether there may be an opening phrase.
    Returns: one sentence.
    """
    text = rng.choice(_BY_NAME[fact.relation].statements)
    return _sentence((rng.choice(_OPENERS) if openers else "") + text, fact)


def completion(fact: Fact) -> str:
    """Completion form: the beginning of a statement, to be continued with the answer."""
    text = _BY_NAME[fact.relation].statements[0]
    return _sentence(text[: text.rindex("{o}")].rstrip(), fact)


def question(fact: Fact, variant: int = 0) -> str:
    """Question form, in one of the relation's wordings (modulo their number).

    Args:
      fact: what is asked for.
      variant: number of the wording.
    Returns: one sentence, with the fact's subject in it.
    """
    wordings = _BY_NAME[fact.relation].questions
    return _sentence(wordings[variant % len(wordings)], fact)


def qa_row(fact: Fact, variant: int = 0) -> Row:
    """Closed-book question as an instruction row, with `answers` for scoring.

    Args:
      fact: what is asked for.
      variant: number of the question's wording.
    Returns: a row whose `output` is the canonical answer and whose `answers` are all that count.
    """
    return {
        "instruction": question(fact, variant),
        "input": "",
        "output": fact.answer,
        "task_type": CLOSED_BOOK_QA,
        "answers": list(fact.answers),
        "family": "closed_book_qa",
    }


def multiple_choice(fact: Fact, *, options: int = 4, seed: int = 0) -> MultipleChoice:
    """The completion form with options: the answer among others of the same relation.

    No distractor is an accepted answer of the fact.

    Args:
      fact: what is asked for.
      options: how many, the answer included.
      seed: of the distractors and their order.
    Returns: the incomplete sentence, the options in random order, and which of them is right.
    Raises: ValueError if the relation has too few different answers.
    """
    rng = random.Random(f"{seed}|{fact.relation}|{fact.subject}")
    others = sorted({f.answer for f in load_facts() if f.relation == fact.relation} - set(fact.answers))
    if options < 2 or len(others) < options - 1:
        raise ValueError(
            f"options must be between 2 and {len(others) + 1} for relation {fact.relation}; got {options}"
        )
    drawn = [*rng.sample(others, options - 1), fact.answer]
    rng.shuffle(drawn)
    return MultipleChoice(completion(fact), tuple(drawn), drawn.index(fact.answer), fact.relation)


def knowledge_texts(
    facts: Sequence[Fact], exposures: int, *, seed: int, openers: bool = True
) -> Iterator[str]:
    """Pretraining sentences: every fact `exposures` times, in drawn wordings, each round in a new order.

    Args:
      exposures: how often each is stated.
      seed: of wordings and orders.
      openers: whether a sentence may begin with an opening phrase.
    Returns: the sentences, one after the other: `exposures` times the number of facts.
    """
    rng = random.Random(f"knowledge {seed}")
    order = list(facts)
    for _ in range(exposures):
        rng.shuffle(order)
        for fact in order:
            yield statement(fact, rng, openers=openers)


def qa_rows(facts: Sequence[Fact], count: int, *, seed: int) -> Iterator[Row]:
    """`count` closed-book questions, going through the facts in a new order each round.

    Args:
      facts: at least one.
      count: rows wanted; facts recur once all have been asked.
      seed: of order and wordings.
    Returns: the rows (`qa_row`), one after the other.
    Raises: ValueError, at the first row, if there are no facts.
    """
    if not facts:
        raise ValueError("questions need at least one fact; got none (is the split empty?)")
    rng = random.Random(f"questions {seed}")
    order = list(facts)
    for i in range(count):
        if i % len(order) == 0:
            rng.shuffle(order)
        yield qa_row(order[i % len(order)], rng.randrange(1 << 16))


def _facts_of(relation: Relation) -> Iterator[Fact]:
    table = files("jaxmoe.datasets").joinpath(f"{relation.file}.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(io.StringIO(table, newline="")):
        if not row[relation.answer] or relation.kind not in (None, row.get("kind")):
            continue
        # a subject's aliases have no use in a question
        subject = row[relation.subject].split("|")[0]
        answers = tuple(row[relation.answer].split("|"))
        # "Edinburgh Castle is in ..." asks for no knowledge
        if not re.search(rf"(?<!\w){re.escape(answers[0])}(?!\w)", subject):
            yield Fact(relation.name, subject, answers)


def _sentence(text: str, fact: Fact) -> str:
    for slot, value in (("{s}", fact.subject), ("{o}", fact.answer)):
        if value[0] in "aeiouAEIO":
            text = re.sub(rf"\b([aA]) {slot}", rf"\1n {slot}", text)
    filled = text.replace("{s}", fact.subject).replace("{o}", fact.answer)
    # an answer keeps its spelling wherever it stands: it is what completions are compared with
    return filled if filled.startswith(fact.answer) else filled[:1].upper() + filled[1:]


def _unit_hash(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


_BY_NAME = {relation.name: relation for relation in RELATIONS}
