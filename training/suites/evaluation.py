"""What the suites of an evaluation share: the loaded model, items with their scores."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from evals.models.local_model import Form, LocalModel
from evals.psychometrics.uncertainty import Score
from jaxmoe.language_model import LanguageModel
from training.suites.journal import ItemJournal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ScoredItem:
    """One item of a set: what identifies it, what it shares with others, its scores, and the whole record."""

    id: str
    cluster: str | None
    scores: dict[str, float]
    record: dict[str, object] = field(repr=False)

    def line(self, set_name: str) -> dict[str, object]:
        """The item as one object, for a line of JSON."""
        identity = {"set": set_name, "id": self.id, "cluster": self.cluster, "scores": self.scores}
        return identity | {key: value for key, value in self.record.items() if key not in identity}


@dataclass(frozen=True)
class ItemSet:
    """One set of items under one form of asking.

    Attributes:
      scores, by_category: means over items with their error.
      more: what else results.json is to hold of the set.
    """

    name: str
    scores: dict[str, Score]
    by_category: dict[str, dict[str, Score]]
    items: list[ScoredItem]
    more: dict[str, object] = field(default_factory=dict[str, object])

    def with_more(self, **more: object) -> "ItemSet":
        """The set with further entries for results.json."""
        return replace(self, more={**more, **self.more})

    def lines(self) -> Iterator[dict[str, object]]:
        """Each item as one object, for a line of JSON."""
        for item in self.items:
            yield item.line(self.name)


class Loaded(NamedTuple):
    """A model and how it is to be run.

    Attributes:
      journal: where items are kept as they come; None keeps them in memory.
    """

    lm: LanguageModel
    tokenizer: "PreTrainedTokenizerBase"
    batch_size: int
    max_length: int | None
    progress: bool
    journal: ItemJournal | None = None

    def text_model(self, form: Form) -> LocalModel:
        """The model as evaluations see it; raises ValueError for chats without a chat template."""
        return LocalModel(self.lm, self.tokenizer, form, self.batch_size, self.max_length)


# A suite made ready (its files read, its settings checked): model -> sets.
SuiteRun = Callable[[Loaded], list[ItemSet]]
