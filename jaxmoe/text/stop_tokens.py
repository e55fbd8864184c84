"""The tokens after which an answer is over.

A checkpoint names them in up to four places: the tokenizer's end of sequence, `eos_token_id` of config.json
and of generation_config.json (Llama 3 Instruct names its end of turn only there), and the end of a turn in
the chat template. A model stops at each of them.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from jaxmoe.text.chat_template import chat_template, has_chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def stop_tokens(
    tokenizer: "PreTrainedTokenizerBase", model: int | Iterable[int] | None = None
) -> tuple[int, ...]:
    """Every token that ends an answer: those of the tokenizer, its chat template, and the model.

    Args:
      tokenizer: of the model.
      model: what the checkpoint's config.json and generation_config.json name: `LanguageModel.stop_tokens`.
    Returns: token ids in ascending order; at least one if the tokenizer has an end of sequence.

    >>> from jaxmoe.tokenizer import train_bpe
    >>> tokenizer = train_bpe(["to be or not to be"], 300)
    >>> stop_tokens(tokenizer, 7) == tuple(sorted({7, tokenizer.eos_token_id}))
    True
    """
    found = {*as_ids(model), *as_ids(tokenizer.eos_token_id)}
    if has_chat_template(tokenizer):
        found |= {*chat_template(tokenizer).end_ids()}
    return tuple(sorted(found))


def checkpoint_stop_tokens(folder: Path | None, config: int | Iterable[int] | None) -> tuple[int, ...]:
    """The end tokens of config.json with those of the generation_config.json in the same folder.

    Args:
      folder: of the checkpoint; None for a model without one.
      config: eos_token_id of config.json.
    Returns: token ids in ascending order.
    Raises: ValueError if generation_config.json is damaged.
    """
    found = set(as_ids(config))
    file = None if folder is None else folder / "generation_config.json"
    if file is not None and file.is_file():
        try:
            found |= {*as_ids(json.loads(file.read_text(encoding="utf-8")).get("eos_token_id"))}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{file}: eos_token_id must be a token id or a list of them; delete the file or repair it"
            ) from error
    return tuple(sorted(found))


def as_ids(value: object) -> tuple[int, ...]:
    """A token id, a list of them or nothing, as a tuple.

    >>> as_ids(None), as_ids(2), as_ids([2, 32007])
    ((), (2,), (2, 32007))
    """
    if value is None:
        return ()
    several: list[object] = list(cast("Iterable[object]", value)) if isinstance(value, Iterable) else [value]
    if any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in several):
        raise ValueError(f"token ids must be whole numbers from 0; got {several}")
    return tuple(token for token in several if isinstance(token, int))
