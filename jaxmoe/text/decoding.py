"""Token ids as text: transformers' result has no declared type, and is one text for one list of ids."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def decode(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], *, special_tokens: bool = False) -> str:
    """The text of token ids, its blanks as they are.

    Args:
      tokenizer: a fast tokenizer.
      ids: of one text.
      special_tokens: write them too; otherwise they are left out.
    Returns: the text.

    >>> from jaxmoe.tokenizer import train_bpe
    >>> tokenizer = train_bpe(["to be or not to be"], 300)
    >>> decode(tokenizer, tokenizer.encode("not to be"))
    'not to be'
    """
    # transformers declares no types here
    plain = cast("Callable[..., str]", tokenizer.decode)  # pyright: ignore[reportUnknownMemberType]
    return plain(list(ids), skip_special_tokens=not special_tokens, clean_up_tokenization_spaces=False)
