"""What is served, and what a request may cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ServedModel:
    """A model, as the routes need to know it.

    Attributes:
      names: of the models; by each, which experts it uses (True all, False none, or the name of an adapter).
      stop_tokens: ids that end an answer.
    """

    names: Mapping[str, bool | str]
    tokenizer: "PreTrainedTokenizerBase"
    stop_tokens: tuple[int, ...]
    max_length: int


@dataclass(frozen=True)
class ServingLimits:
    """What a request may cost.

    Attributes:
      body_bytes: largest body.
      seconds: longest time from arrival to the last token; what is there by then is the answer.
      prompts: most prompts in one request.
    """

    body_bytes: int = 4 << 20
    seconds: float = 600.0
    prompts: int = 128
