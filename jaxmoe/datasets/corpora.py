"""The embedded corpora put together: pretraining text, instruction mixture, held-out tests.

Pretraining states every fact of the selection in many wordings, beside the downstream families in other
words and in-context copying. The instruction mixture asks only for facts of the train split; the
knowledge tests are facts of dev and test, which no instruction ever mentions.
"""

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass

from jaxmoe.datasets.downstream import downstream_rows, downstream_texts
from jaxmoe.datasets.downstream_families import COLORS, FOODS, JOBS, NAMES, PLACES, THINGS
from jaxmoe.datasets.downstream_questions import question_texts, repeated_texts
from jaxmoe.datasets.formats.fields import Row
from jaxmoe.datasets.world_knowledge import (
    DEMO_RELATIONS,
    Fact,
    check_split,
    completion,
    knowledge_texts,
    qa_row,
    qa_rows,
    select_facts,
)


@dataclass(frozen=True)
class CorpusConfig:
    """Which facts, and how much of everything.

    The defaults are the whole corpus; `demo_corpus` is small enough for minutes on two CPU cores.
    """

    relations: tuple[str, ...] | None = None  # None: all
    facts: int | None = None  # at most so many; None: all of the relations
    exposures: int = 60  # statements a fact in pretraining
    skill_texts: int = 60_000  # pretraining texts of the downstream kinds and of copying
    question_texts: int = 0  # pretraining texts that ask the downstream tasks in other words
    repeated_texts: int = 0  # pretraining texts that say words of the corpus twice
    openers: bool = True  # opening phrases before some statements: more wordings, more tokens
    knowledge_share: float = 0.125  # closed-book questions in the instruction mixture
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.knowledge_share <= 1:
            raise ValueError(f"corpus.knowledge_share must be between 0 and 1; got {self.knowledge_share}")
        for name in ("exposures", "skill_texts", "question_texts", "repeated_texts"):
            if getattr(self, name) < 0:
                raise ValueError(f"corpus.{name} must not be negative; got {getattr(self, name)}")

    def selected(self, split: str | None = None) -> list[Fact]:
        """Facts of the corpus, in one split or all. Raises: ValueError for a split that there is not."""
        check_split(split)
        chosen = select_facts(relations=self.relations, limit=self.facts)
        return [fact for fact in chosen if split in (None, fact.split)]


def demo_corpus(**changes: object) -> CorpusConfig:
    """577 short facts with 60 exposures each and 45,000 skill texts: 1.4 million tokens in texts of at
    most 35.

    A base of 1.3 million parameters (4 layers, width 128, vocabulary 4,096; AdamW at 3e-3, 16 rows of 64
    tokens a step; one seed) completed 91 % of the facts after 800 steps and all after 1,300. After 1,400, of
    100 held-out texts a family, it ended all summaries and reviews rightly, 90 of coreference, 59 of reading.
    """
    demo = CorpusConfig(relations=DEMO_RELATIONS, skill_texts=45_000, openers=False)
    return dataclasses.replace(demo, **changes)


STUDY_RELATIONS = ("country_capital", "element_symbol", "state_capital")


def study_corpus(**changes: object) -> CorpusConfig:
    """Facts and skills for a base that has met the downstream tasks as questions too, so that fine-tuning
    mostly teaches it to answer, as it does with a large pretrained model."""
    study = CorpusConfig(
        relations=STUDY_RELATIONS,
        exposures=40,
        skill_texts=15_000,
        question_texts=35_000,
        repeated_texts=3_000,
        openers=False,
    )
    return dataclasses.replace(study, **changes)


def pretraining_texts(config: CorpusConfig) -> list[str]:
    """Knowledge and skill texts, shuffled."""
    texts = [
        *knowledge_texts(config.selected(), config.exposures, seed=config.seed, openers=config.openers),
        *downstream_texts(config.skill_texts, seed=config.seed),
        *question_texts(config.question_texts, seed=config.seed),
        *repeated_texts(config.repeated_texts, _single_words(config), seed=config.seed),
    ]
    random.Random(f"order {config.seed}").shuffle(texts)
    return texts


def _single_words(config: CorpusConfig) -> list[str]:
    """Subjects and answers of the corpus that are one word, and the nouns of the downstream tasks."""
    named = (text for fact in config.selected() for text in (fact.subject, fact.answer))
    return sorted(
        {text for text in named if " " not in text} | {*NAMES, *THINGS, *FOODS, *PLACES, *COLORS, *JOBS}
    )


def tokenizer_texts(config: CorpusConfig) -> Iterator[str]:
    """What the tokenizer is trained on: pretraining text and as much of the instructions' wording."""
    yield from knowledge_texts(config.selected(), 6, seed=config.seed, openers=config.openers)
    yield from downstream_texts(3_000, seed=config.seed)
    yield from question_texts(min(config.question_texts, 1_000), seed=config.seed)
    for row in instruction_rows(config, 3_000):
        yield f"{row['instruction']}\n{row['input']}"
        yield row["output"]


def instruction_rows(config: CorpusConfig, count: int) -> list[Row]:
    """The fine-tuning mixture: downstream families in turn, and closed-book questions on train facts.

    Args:
      config: the corpus; `knowledge_share` of the rows are questions.
      count: rows of the whole mixture.
    Returns: the rows, shuffled; the same for the same config and count.
    Raises: ValueError if questions are wanted and the corpus has no train facts.
    """
    questions = round(count * config.knowledge_share)
    rows = list(downstream_rows("train", count - questions, seed=config.seed))
    if questions:
        rows += qa_rows(config.selected("train"), questions, seed=config.seed)
    random.Random(f"mixture {config.seed}").shuffle(rows)
    return rows


def task_test_rows(split: str, count: int) -> list[Row]:
    """Held-out downstream rows of `dev` or `test`, the families in turn; the same ones every time.

    Args:
      split: dev or test.
      count: the most rows; fewer if the families run out of contents.
    Returns: instruction rows, none of whose contents occurs in train.
    Raises: ValueError on an unknown split.
    """
    return list(downstream_rows(split, count, seed=0))


def knowledge_test_rows(config: CorpusConfig, split: str, count: int | None = None) -> list[Row]:
    """Held-out facts, each as a question (instruction form) with its `completion` form beside it.

    Args:
      config: the corpus that states the facts.
      split: train, dev or test.
      count: the most facts, drawn at random, the same every time; None takes all.
    Returns: question rows (`qa_row`) with `completion` and `relation` added.
    """
    facts = config.selected(split)
    if count is not None and count < len(facts):
        facts = random.Random(f"test {split}").sample(facts, count)
    return [
        qa_row(fact, variant) | {"completion": completion(fact), "relation": fact.relation}
        for variant, fact in enumerate(facts)
    ]
