"""What the suites of an evaluation share: the loaded model, and items with their scores."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from evals.models.api_model import ApiModel
from evals.models.api_requests import ApiRequests
from evals.models.engine_texts import Decoding, EngineTexts, engine_texts
from evals.models.local_model import Form, LocalModel
from evals.models.model_identity import weights_digest
from evals.models.text_model import FormedTextModel
from evals.psychometrics.uncertainty import Score
from evals.questionnaires.respondents.api_server import ServerConfig
from jaxmoe.language_model import LanguageModel
from jaxmoe.text.forms import resolve_form
from training.runtime.journal import ItemJournal

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
      more: what else results.json is to hold about the set.
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


class Subject(Protocol):
    """A model under test, here or behind a server."""

    @property
    def progress(self) -> bool:
        """Whether to show how far the evaluation has come."""
        ...

    @property
    def journal(self) -> ItemJournal | None:
        """Where items are kept as they arrive; None keeps them in memory."""
        ...

    def identity(self) -> str:
        """What identifies the model."""
        ...

    def resolved(self, form: str, otherwise: str = "instruction") -> str:
        """The form that auto stands for; every other form stays as it is.

        Args:
          form: auto, or a form that the caller knows.
          otherwise: what auto means if the model is not a chat model.
        Returns: chat or `otherwise` for auto, else `form`.
        """
        ...

    def text_model(self, form: Form) -> FormedTextModel:
        """The model as evaluations see it; ValueError for a form in which it cannot be asked."""
        ...


class Loaded(NamedTuple):
    """A model and how to run it.

    Attributes:
      journal: where items are kept as they arrive; None keeps them in memory.
      decoding: how texts are decoded; see `engine_texts`.
      engine: that decodes them; None for batches.
    """

    lm: LanguageModel
    tokenizer: "PreTrainedTokenizerBase"
    batch_size: int
    max_length: int | None
    progress: bool
    journal: ItemJournal | None = None
    decoding: Decoding = "batches"
    engine: EngineTexts | None = None

    def ready(self) -> "Loaded":
        """With the engine that `decoding` asks for, if possible; all its text models share it."""
        window = min(self.max_length or self.lm.config.max_positions, self.lm.config.max_positions)
        return self._replace(engine=engine_texts(self.lm, self.decoding, self.batch_size, window))

    def text_model(self, form: Form) -> LocalModel:
        """The model as evaluations see it; raises ValueError for chats without a chat template."""
        return LocalModel(self.lm, self.tokenizer, form, self.batch_size, self.max_length, engine=self.engine)

    def identity(self) -> str:
        """A digest of the weights."""
        return weights_digest(self.lm)

    def resolved(self, form: str, otherwise: str = "instruction") -> str:
        """Decides by whether the tokenizer has a chat template.

        Args:
          form, otherwise: as of `resolve_form`.
        Returns: the form.
        """
        return resolve_form(self.tokenizer, form, otherwise)


class Behind(NamedTuple):
    """A model behind a server.

    Attributes:
      requests: to the server, with the account of what they cost.
      progress, journal: as of `Loaded`.
    """

    server: ServerConfig
    requests: ApiRequests
    progress: bool
    journal: ItemJournal | None = None

    def text_model(self, form: Form) -> ApiModel:
        """The model as evaluations see it; raises ValueError for the form instruction."""
        return self.server.text_model(self.requests, form)

    def identity(self) -> str:
        """The model's name and where it is."""
        return f"{self.server.model} at {self.server.url}"

    def resolved(self, form: str, otherwise: str = "instruction") -> str:
        """Decides by the server's route.

        Args:
          form, otherwise: as of `ServerConfig.resolved`.
        Returns: the form.
        """
        return self.server.resolved(form, otherwise)


# A suite made ready (its files read, its settings checked): model -> sets.
SuiteRun = Callable[[Subject], list[ItemSet]]
