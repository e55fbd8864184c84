"""Whether a model has a row of its embedding for every token of a tokenizer."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def vocabulary_size(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The rows that an embedding needs: the largest id plus one, since ids may have gaps.

    >>> from jaxmoe.tokenizer import train_bpe
    >>> vocabulary_size(train_bpe(["to be or not to be"], 270))
    270
    """
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def check_vocabulary(
    tokenizer: "PreTrainedTokenizerBase", vocab_size: int, remedy: str = "take the one it was trained with"
) -> None:
    """Refuses a tokenizer with tokens that the model does not have.

    On a device such ids would silently read the last row of the embedding, and as targets make the loss NaN.
    A larger embedding is fine: many are padded to a round number.

    Args:
      tokenizer: the one whose ids the model is to be given.
      vocab_size: rows of the model's embedding.
      remedy: what the user can do, for the message.
    Raises: ValueError with both numbers and the remedy.
    """
    needed = vocabulary_size(tokenizer)
    if needed > vocab_size:
        raise ValueError(
            f"the tokenizer has {needed} tokens, and the model an embedding of {vocab_size}: {remedy}"
        )
