"""What is served, and what a request may cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.serving.protocol import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ServedModel:
    """A model, as the routes need to know it.

    Attributes:
      names: of the models; for each, which experts it uses (True all, False none, or the name of an adapter).
      stop_tokens: ids that end an answer.
    """

    names: Mapping[str, bool | str]
    tokenizer: "PreTrainedTokenizerBase"
    stop_tokens: tuple[int, ...]
    max_length: int

    def experts(self, name: str) -> bool | str:
        """Which experts a model uses. Raises RequestError where there is none of that name."""
        if name not in self.names:
            known = ", ".join(self.names)
            told = f"there is no model {name!r:.100}; there is {known}"
            raise RequestError(told, 404, parameter="model", code="model_not_found")
        return self.names[name]


@dataclass(frozen=True)
class ServingLimits:
    """What a request may cost.

    Attributes:
      body_bytes: largest body of a request.
      seconds: longest time from arrival to the last token; whatever exists by then is the answer, if anything
        does.
      prompts: most prompts in one request.
    """

    body_bytes: int = 4_194_304
    seconds: float = 600.0
    prompts: int = 128
