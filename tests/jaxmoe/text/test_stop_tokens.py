"""Which tokens end an answer: whatever the tokenizer, its chat template or the checkpoint's configs say."""

import json

import numpy as np
import pytest

from jaxmoe.text.forms import resolve_form
from jaxmoe.text.stop_tokens import as_ids, checkpoint_stop_tokens, stop_tokens
from tests.jaxmoe.text.templates import FAMILIES, tokenizer_for


@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_of_turn_is_a_stop_token(family: str):
    tokenizer = tokenizer_for(family)
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(FAMILIES[family].ends)}
    assert set(stop_tokens(tokenizer)) == ends


def test_configs_and_tokenizer_are_united():
    tokenizer = tokenizer_for("llama3")
    own = set(stop_tokens(tokenizer))
    assert set(stop_tokens(tokenizer, (3, 901))) == own | {3, 901}
    assert set(stop_tokens(tokenizer, 902)) == own | {902}
    tokenizer = tokenizer_for("llama3", template=None)
    assert stop_tokens(tokenizer) == (tokenizer.eos_token_id,)


def test_generation_config_names_more_ends(tmp_path):
    assert checkpoint_stop_tokens(None, 2) == checkpoint_stop_tokens(tmp_path, 2) == (2,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 2, 5]}))
    assert checkpoint_stop_tokens(tmp_path, (2, 7)) == (2, 5, 7, 9)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 4}))
    assert checkpoint_stop_tokens(tmp_path, None) == (4,)


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"eos_token_id": "a"}', '{"eos_token_id": true}', "[" * 200_000]
)
def test_a_damaged_generation_config_is_one_line(tmp_path, text: str):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"generation_config.json: eos_token_id must be") as error:
        checkpoint_stop_tokens(tmp_path, 2)
    assert "\n" not in str(error.value)


def test_ids_are_whole_numbers():
    assert as_ids(np.asarray([3, 4]).tolist()) == (3, 4)
    with pytest.raises(ValueError, match="whole numbers"):
        as_ids([2, -1])


def test_form_auto_follows_the_tokenizer():
    with_template, without = tokenizer_for("zephyr"), tokenizer_for("zephyr", template=None)
    assert resolve_form(with_template, "auto") == "chat"
    assert resolve_form(without, "auto") == "instruction"
    assert resolve_form(without, "auto", otherwise="completion") == "completion"
    assert resolve_form(with_template, "text") == "text"
    with pytest.raises(ValueError, match="form chat needs a chat template"):
        resolve_form(without, "chat")
