"""Tokenizer: bytes survive, files round-trip, and exactly the answer counts in the loss."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from jaxmoe import tokenizer as tok

CORPUS = ["The capital of France is Paris.", "The capital of Spain is Madrid.", "Who wrote Hamlet?"] * 20
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "The capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Spain?"},
    {"role": "assistant", "content": "Madrid."},
]
# as published templates are: no generation marker, a line break behind the end of turn
PLAIN_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def bpe():
    return tok.train_bpe(CORPUS, 400)


def targets(bpe, encoded):
    return bpe.decode(encoded.ids[encoded.loss_mask > 0])


def test_answer_tokens_equal_those_in_a_sentence(bpe):
    sentence = bpe("The capital of France is Paris")["input_ids"]
    answer = bpe("Paris")["input_ids"]
    assert sentence[-len(answer) :] == answer


@given(st.text(max_size=40))
def test_any_text_survives(bpe, text):
    decoded = bpe.decode(
        bpe(text, split_special_tokens=True)["input_ids"], clean_up_tokenization_spaces=False
    )
    assert decoded == (text if text.startswith(" ") or not text else " " + text)


def test_lone_surrogates_do_not_end_anything(bpe):
    assert len(tok.train_bpe([*CORPUS, "\ud800 lone"], 300)) == 300
    odd, plain = "Paris \udfff", "Paris \ufffd"
    for encode in (tok.plain_ids, lambda t, x: tok.encode_text(t, x).ids.tolist(), tok.encode_prompt):
        assert encode(bpe, odd) == encode(bpe, plain)
    assert (
        tok.encode_instruction(bpe, odd, odd, odd).ids.tolist()
        == tok.encode_instruction(bpe, plain, plain, plain).ids.tolist()
    )


def test_saved_and_loaded_is_the_same(bpe, tmp_path):
    tok.save_tokenizer(bpe, tmp_path)
    loaded = tok.load_tokenizer(tmp_path)
    assert (loaded.eos_token, loaded.pad_token, loaded.chat_template) == ("</s>", "<pad>", tok.CHAT_TEMPLATE)
    np.testing.assert_array_equal(tok.encode_chat(loaded, TALK).ids, tok.encode_chat(bpe, TALK).ids)


def test_instruction_row_follows_the_original_format(bpe):
    encoded = tok.encode_instruction(bpe, "Name the capital.", "France", "Paris")
    prompt = bpe("Name the capital.\nFrance")["input_ids"]
    answer = bpe("Paris")["input_ids"]
    eos = bpe.eos_token_id
    assert encoded.ids.tolist() == [*prompt, eos, *answer, eos]
    assert encoded.loss_mask.tolist() == [0.0] * (len(prompt) + 1) + [1.0] * (len(answer) + 1)
    assert tok.encode_prompt(bpe, "Name the capital.", "France") == [*prompt, eos]


def test_no_blank_line_without_an_input(bpe):
    assert tok.encode_prompt(bpe, "Name it.") == [*bpe("Name it.")["input_ids"], bpe.eos_token_id]


@pytest.mark.parametrize("limit", [2, 3, 5, 8, 40])
def test_truncation_takes_from_the_prompt_first(bpe, limit):
    whole = tok.encode_instruction(bpe, "The capital of France is what, in one word?", "", "Paris")
    cut = tok.encode_instruction(bpe, "The capital of France is what, in one word?", "", "Paris", limit)
    assert len(cut.ids) == min(limit, len(whole.ids))
    wanted = whole.ids[whole.loss_mask > 0][: limit - 1]
    np.testing.assert_array_equal(cut.ids[cut.loss_mask > 0], wanted)
    prompt = int((cut.loss_mask == 0).sum())
    end_of_prompt = int((whole.loss_mask == 0).sum())
    np.testing.assert_array_equal(cut.ids[:prompt], whole.ids[end_of_prompt - prompt : end_of_prompt])


def test_a_bos_stays_and_is_no_target():
    bpe = tok.train_bpe(CORPUS, 400)
    bpe.add_special_tokens({"bos_token": "<s>"})
    bpe.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", bpe.bos_token_id), ("</s>", bpe.eos_token_id)]
    )
    cut = tok.encode_instruction(bpe, "The capital of France is what?", "", "Paris", 6)
    assert cut.ids[0] == bpe.bos_token_id
    assert len(cut.ids) == 6
    assert cut.ids.tolist().count(bpe.eos_token_id) == 2  # the separator and the end, none from the tokenizer
    text = tok.encode_text(bpe, "Paris")
    assert text.ids[0] == bpe.bos_token_id
    assert text.loss_mask.tolist() == [0.0] + [1.0] * (len(text.ids) - 1)


@pytest.fixture
def with_template(bpe):
    """Give the tokenizer another chat template for the length of one test."""

    def put(template):
        bpe.chat_template = template
        return bpe

    yield put
    bpe.chat_template = tok.CHAT_TEMPLATE


def test_marked_template_counts_only_what_the_assistant_said(bpe):
    assert targets(bpe, tok.encode_chat(bpe, TALK)) == " Paris.</s> Madrid.</s>"


def test_unmarked_template_counts_the_same_and_not_the_line_break(with_template):
    bpe = with_template(PLAIN_TEMPLATE)
    assert targets(bpe, tok.encode_chat(bpe, TALK)) == "Paris.</s>Madrid.</s>"


def test_generation_prompt_is_a_prefix_of_the_whole(bpe):
    prompt = tok.encode_chat_prompt(bpe, TALK[:2])
    assert tok.encode_chat(bpe, TALK).ids[: len(prompt)].tolist() == prompt


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (
            "{% for m in messages %}{{ m['content'] }}{% generation %}{% endgeneration %}{% endfor %}",
            "no token",
        ),
        (
            "{% generation %}{% for m in messages %}{{ m['content'] }}{% endfor %}{% endgeneration %}",
            "every token",
        ),
        ("{% for m in messages %}{{ m['content'] | lower }}{% endfor %}", "not as it is"),
    ],
)
def test_masks_that_cannot_be_trusted_are_errors(with_template, template, complaint):
    with pytest.raises(ValueError, match=complaint):
        tok.encode_chat(with_template(template), TALK)


@pytest.fixture
def hasty_threads():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("template", [tok.CHAT_TEMPLATE, PLAIN_TEMPLATE])
def test_threads_encode_chats_as_one_thread_does(with_template, template, hasty_threads):
    """Training rows are encoded ahead while others are; the library's renderer serves one at a time."""
    bpe = with_template(template)
    want, long = tok.encode_chat(bpe, TALK), TALK * 40
    want_long = tok.encode_chat(bpe, long)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda i: tok.encode_chat(bpe, long if i % 2 else TALK), range(80)))
        prompts = set(pool.map(lambda _: tuple(tok.encode_chat_prompt(bpe, TALK)), range(40)))
    for i, encoded in enumerate(got):
        np.testing.assert_array_equal(encoded.ids, (want_long if i % 2 else want).ids)
        np.testing.assert_array_equal(encoded.loss_mask, (want_long if i % 2 else want).loss_mask)
    assert len(prompts) == 1


def test_chat_needs_a_template_and_an_answer(bpe, with_template):
    with pytest.raises(ValueError, match="at least one assistant message"):
        tok.encode_chat(bpe, TALK[:2])
    with pytest.raises(ValueError, match="no chat template"):
        tok.encode_chat(with_template(None), TALK)


def test_rows_are_told_by_their_keys(bpe):
    assert (
        tok.encode_row(bpe, {"text": "Paris"}, 20).ids.tolist() == tok.encode_text(bpe, "Paris").ids.tolist()
    )
    assert len(tok.encode_row(bpe, {"messages": TALK}, 7).ids) == 7
    with pytest.raises(ValueError, match=r"messages, instruction, completion .* text; got \['prompt'\]"):
        tok.encode_row(bpe, {"prompt": "Paris"}, 20)


def test_answer_ends_at_the_end_of_sequence(bpe):
    ids = [*bpe("Paris")["input_ids"], bpe.eos_token_id, *bpe("Madrid")["input_ids"]]
    assert tok.decode_answer(bpe, ids) == " Paris"


def test_an_answer_keeps_its_blanks(bpe):
    """What a text model goes on with begins with a blank, and code with an indent."""
    ids = bpe("  x = 1  \n")["input_ids"]
    assert tok.decode_answer(bpe, ids).endswith("  x = 1  \n")


def test_friendly_errors(tmp_path):
    with pytest.raises(ValueError, match="at least 261"):
        tok.train_bpe(CORPUS, 100)
    with pytest.raises(ValueError, match="at least one text"):
        tok.train_bpe([], 300)
    with pytest.raises(ValueError, match="no tokenizer could be loaded"):
        tok.load_tokenizer(tmp_path)
