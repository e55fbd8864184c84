"""A tokenizer with more tokens than the model is refused, one with fewer is not."""

from types import SimpleNamespace
from typing import Any

import pytest

from jaxmoe.text.vocabulary import check_vocabulary, vocabulary_size
from tests.jaxmoe.text.templates import tokenizer_for


def test_the_largest_id_counts_not_the_number_of_tokens():
    gaps: Any = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 7})
    assert vocabulary_size(gaps) == 8
    tokenizer = tokenizer_for("qwen3")
    assert vocabulary_size(tokenizer) == len(tokenizer)


def test_a_tokenizer_that_is_too_large_is_refused_with_the_remedy():
    tokenizer = tokenizer_for("qwen3")
    check_vocabulary(tokenizer, len(tokenizer))
    check_vocabulary(tokenizer, len(tokenizer) + 100)
    with pytest.raises(ValueError, match=r"has \d+ tokens, and the model an embedding of 97: add rows"):
        check_vocabulary(tokenizer, 97, "add rows")
