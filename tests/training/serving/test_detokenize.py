"""Text from tokens: whole characters, nothing past a stop string, the same text as decoding all at once."""

import pytest

from jaxmoe.tokenizer import train_bpe
from tests.tiny_checkpoints import tokenizer_with_blanks
from training.serving.detokenize import Detokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["the quick brown fox jumps over the lazy dog, again and again"] * 3, 300)


@pytest.mark.parametrize(
    "text", ["the quick fox", "äöü 漢字 🎉 \u0301e", "", " leading and  double", "a\n\n\tb\r\n"]
)
def test_the_pieces_are_the_whole(tokenizer, text):
    ids = tokenizer.encode(text)
    own = Detokenizer(tokenizer)
    pieces = [own.add(id) for id in ids]
    assert "".join(pieces) + own.end() == tokenizer.decode(ids)
    assert all("\ufffd" not in piece for piece in pieces)


def test_a_broken_character_is_told_at_the_end(tokenizer):
    ids = tokenizer.encode("ok 🎉")[:-1]
    own = Detokenizer(tokenizer)
    assert "\ufffd" not in "".join(own.add(id) for id in ids)
    assert own.end().endswith("\ufffd")


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one\n\nHuman: two", ["\n\nHuman:"], "one"),
        ("one\n\nHum", ["\n\nHuman:"], "one\n\nHum"),
        ("a STOP b END c", ["END", "STOP"], "a "),
        ("STOP", ["STOP"], ""),
        ("nothing here", ["STOP"], "nothing here"),
        ("aaab", ["aab"], "a"),
    ],
)
def test_stop_strings_end_the_text_wherever_tokens_cut_them(tokenizer, text, stops, expected):
    own = Detokenizer(tokenizer, stops)
    written = text.replace(" ", "Ġ").replace("\n", "Ċ")  # the byte alphabet: a token a character
    given = ""
    for id in tokenizer.convert_tokens_to_ids(list(written)):
        given += own.add(id)
        assert expected.startswith(given)
    assert given + own.end() == expected
    assert own.stopped is (expected != text)


def test_hidden_tokens_are_no_text(tokenizer):
    own = Detokenizer(tokenizer, hidden=(tokenizer.eos_token_id,))
    assert own.add(tokenizer.eos_token_id) + own.end() == ""


@pytest.mark.parametrize("broken", [False, True])
def test_an_answer_goes_on_with_its_prompt(broken):
    """The first word keeps its blank where the tokenizer shows none before a word that stands alone."""
    tokenizer = tokenizer_with_blanks()
    ids = tokenizer.encode("see the then the")
    prompt = ids[:-2] if broken else ids[:-1]
    own = Detokenizer(tokenizer, before=prompt)
    given = "".join(own.add(id) for id in ids[len(prompt) :]) + own.end()
    assert given == ("n the" if broken else " the")
    assert tokenizer.decode(ids[-1:]) == "the"
