"""Loss masks of chats: what the assistant says to the end of its turn and nothing else, in many formats."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from jaxmoe.text.answer_spans import answer_spans
from jaxmoe.text.chat_template import chat_template
from jaxmoe.tokenizer import encode_chat, encode_chat_prompt
from tests.jaxmoe.text.templates import FAMILIES, tokenizer_for

every_family = pytest.mark.parametrize("family", FAMILIES)
ONE = [{"role": "user", "content": "two plus two"}, {"role": "assistant", "content": "it is four"}]
ENDED = ["it is four<|im_end|>", "hello is two<|im_end|>"]
MORE = [*ONE, {"role": "user", "content": "SECRET"}, {"role": "assistant", "content": "hello is two"}]
LAST = [*MORE, {"role": "user", "content": "SECRET again"}]
SYSTEM = {"role": "system", "content": "SECRET system"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": "two"}}}
TOOLS = [
    {"role": "user", "content": "two plus two"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "SECRET result"},
    {"role": "assistant", "content": "it is four"},
    {"role": "user", "content": "SECRET"},
    {"role": "assistant", "content": "hello"},
]


def targets(tokenizer, encoded) -> list[str]:
    """The runs of target tokens as texts."""
    at = np.flatnonzero(encoded.loss_mask)
    runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)
    return [tokenizer.decode(encoded.ids[run], clean_up_tokenization_spaces=False) for run in runs]


def wanted(family: str, messages) -> list[str]:
    form = FAMILIES[family]
    said = [m["content"] for m in messages if m["role"] == "assistant"]
    forms = [form.middle or form.answer] * (len(said) - 1) + [form.answer]
    if messages[-1]["role"] != "assistant":
        forms[-1] = form.middle or form.answer
    return [shape.format(text) for shape, text in zip(forms, said, strict=True)]


@every_family
@pytest.mark.parametrize("messages", [ONE, MORE, LAST], ids=["one", "more", "ends with a question"])
@pytest.mark.parametrize("system", [False, True], ids=["plain", "system"])
def test_every_answer_to_the_end_of_its_turn_and_nothing_else(family, messages, system):
    if system and not FAMILIES[family].system:
        with pytest.raises(
            ValueError, match="the chat template refuses the conversation: System role"
        ) as error:
            encode_chat(tokenizer_for(family), [SYSTEM, *messages])
        assert "\n" not in str(error.value)
        return
    tokenizer = tokenizer_for(family)
    messages = [SYSTEM, *messages] if system else messages
    encoded = encode_chat(tokenizer, messages)
    assert encoded.ids.tolist() == tokenizer.apply_chat_template(messages)["input_ids"]
    assert targets(tokenizer, encoded) == wanted(family, messages)


@every_family
def test_targets_begin_where_the_generation_prompt_ends(family):
    tokenizer = tokenizer_for(family)
    prompt, encoded = encode_chat_prompt(tokenizer, ONE[:1]), encode_chat(tokenizer, ONE)
    assert encoded.ids[: len(prompt)].tolist() == prompt
    assert np.flatnonzero(encoded.loss_mask)[0] == len(prompt)


@pytest.mark.parametrize("family", [name for name, form in FAMILIES.items() if form.tools])
@pytest.mark.parametrize("length", [2, 4, 6])
@pytest.mark.parametrize("system", [False, True], ids=["plain", "system"])
def test_tool_calls_are_said_by_the_assistant_and_their_results_are_not(family, length, system):
    tokenizer = tokenizer_for(family)
    got = targets(tokenizer, encode_chat(tokenizer, [*[SYSTEM] * system, *TOOLS[:length]]))
    assert len(got) == length // 2
    assert "SECRET" not in "".join(got)
    assert '"add"' in got[0]
    assert '"two"' in got[0]
    assert all(text.endswith(FAMILIES[family].ends) for text in got)
    # the call from its first character: what stands before it is the header
    opening = {"llama3": '{"name"', "mistral": "[TOOL_CALLS]"}.get(family, "<tool_call>")
    assert got[0].lstrip().startswith(opening) or got[0].startswith("<think>\n\n</think>\n\n<tool_call>")


THOUGHT = "<think>\ntwo and two\n</think>\n\n"
THINKING = [{**m, "content": THOUGHT + m["content"]} if m["role"] == "assistant" else m for m in MORE]
APART = [{**m, "reasoning_content": "two and two"} if m["role"] == "assistant" else m for m in MORE]


@pytest.mark.parametrize("messages", [THINKING, APART], ids=["in the text", "apart"])
@pytest.mark.parametrize(
    ("thinking", "want"),
    [
        ("template", ["it is four<|im_end|>", f"{THOUGHT}hello is two<|im_end|>"]),
        ("keep", [f"{THOUGHT}it is four<|im_end|>", f"{THOUGHT}hello is two<|im_end|>"]),
        ("drop", ["it is four<|im_end|>", "hello is two<|im_end|>"]),
    ],
)
def test_thinking_is_kept_or_dropped_by_choice(messages, thinking, want):
    tokenizer = tokenizer_for("qwen3")
    encoded = encode_chat(tokenizer, messages, thinking=thinking)
    assert targets(tokenizer, encoded) == want
    assert tokenizer.decode(encoded.ids).count("two and two") == sum("think" in text for text in want)
    prompt = encode_chat_prompt(tokenizer, messages[:3], thinking=thinking)
    start = np.flatnonzero(encoded.loss_mask)[-1] + 1 - len(tokenizer(want[-1])["input_ids"])
    assert prompt == encoded.ids[:start].tolist()


def test_thinking_before_a_tool_call_is_kept():
    tokenizer = tokenizer_for("qwen3")
    talk = [m | {"reasoning_content": "two and two"} if m.get("tool_calls") else m for m in TOOLS]
    first = targets(tokenizer, encode_chat(tokenizer, talk, thinking="keep"))[0]
    native = targets(tokenizer, encode_chat(tokenizer, talk[:2]))[0]
    assert first == native == f"{THOUGHT}<tool_call>\n" + first.split("<tool_call>\n")[1]
    assert "two and two" not in tokenizer.decode(encode_chat(tokenizer, talk, thinking="drop").ids)


def test_a_template_without_thinking_keeps_what_the_answer_says():
    tokenizer = tokenizer_for("llama3")
    assert targets(tokenizer, encode_chat(tokenizer, THINKING))[0] == f"{THOUGHT}it is four<|eot_id|>"


@every_family
@pytest.mark.parametrize("inside", ["special", "end", "header"])
def test_special_tokens_within_an_answer_do_not_end_its_targets(family, inside):
    """As in answers about tokens, code with fill-in-the-middle marks, or copied prompts."""
    form, tokenizer = FAMILIES[family], tokenizer_for(family)
    token = {"special": form.special[-1], "end": form.ends, "header": form.special[1]}[inside]
    said = f"it is {token} four {token} two"
    messages = [MORE[0], {"role": "assistant", "content": said}, *MORE[2:]]
    assert targets(tokenizer, encode_chat(tokenizer, messages)) == wanted(family, messages)


@every_family
def test_a_user_who_writes_the_template_is_not_learned(family):
    tokenizer = tokenizer_for(family)
    copied = tokenizer.apply_chat_template(ONE, tokenize=False)
    messages = [{"role": "user", "content": f"{copied} SECRET"}, *MORE[1:]]
    got = targets(tokenizer, encode_chat(tokenizer, messages))
    assert got == wanted(family, messages)


SAID = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda t: t.strip())


@given(st.lists(SAID, min_size=2, max_size=6), st.sampled_from(sorted(FAMILIES)))
@settings(max_examples=150, deadline=None)
def test_whatever_is_said_the_spans_hold_the_answers(said, family):
    """Blanks around an answer may be trimmed, nothing else may change; a question is in no span."""
    said = [f"{text}»" if i % 2 == 0 else text for i, text in enumerate(said)]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    template = chat_template(tokenizer_for(family))
    if "</think>" in "".join(said):
        return
    rendered = answer_spans(template, messages)
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    assert len(rendered.spans) == len(answers)
    for span, answer in zip(rendered.spans, answers, strict=True):
        spoken = rendered.text[span.start : span.stop]
        assert answer.strip() in spoken
        assert "»" not in spoken.replace(answer, "").replace(answer.strip(), "")
        assert len(spoken) <= len(answer) + 40


# as in reports of masks that go wrong: ends of turn in plain text, or as added tokens that are not special,
# before one end of sequence at the very end
PLAIN_ENDS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}{{ eos_token }}{% endif %}"
)


def test_ends_of_turn_in_plain_text_are_learned():
    """As tokens, they end the last answer too; as letters they do not end it for a sampler: the eos does."""
    tokenizer = tokenizer_for("qwen2.5", template=PLAIN_ENDS)
    assert targets(tokenizer, encode_chat(tokenizer, MORE)) == ENDED
    tokenizer = tokenizer_for("zephyr", template=PLAIN_ENDS)
    assert targets(tokenizer, encode_chat(tokenizer, MORE)) == [ENDED[0], ENDED[1] + "\n</s>"]


def test_a_header_that_is_no_generation_prompt_is_not_learned():
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    tokenizer = tokenizer_for("qwen2.5", template=template)
    assert targets(tokenizer, encode_chat(tokenizer, MORE)) == ENDED


def marked(block: str) -> str:
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        + block
        + "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


@pytest.mark.parametrize(
    "block",
    [
        "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n",
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n",
        "{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}",
        "{%- generation -%}{{ m.content }}{%- endgeneration -%}<|im_end|>\n",
    ],
)
def test_a_generation_block_is_followed_to_the_end_of_turn(block):
    tokenizer = tokenizer_for("qwen2.5", template=marked(block))
    assert targets(tokenizer, encode_chat(tokenizer, MORE)) == ENDED


def test_a_template_that_leaves_out_tool_calls_is_named_as_such():
    with pytest.raises(ValueError, match=r"leaves out the tool calls of message 2; .*chat_template\.jinja"):
        encode_chat(tokenizer_for("smollm2"), TOOLS)


def test_a_generation_block_decides_which_answers_are_learned():
    last_only = (
        "{% if loop.last %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}"
    )
    tokenizer = tokenizer_for("qwen2.5", template=marked(last_only + "<|im_end|>\n"))
    assert targets(tokenizer, encode_chat(tokenizer, MORE)) == ["hello is two<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{% for m in messages %}{{ m.content | lower }}</s>{% endfor %}", "message 2 not as it is"),
        ("{% for m in messages %}{{ m.content + m.content }}</s>{% endfor %}", "message 2 more than once"),
        ("{% for m in messages %}{{ m.content | length }}{{ m.content }}</s>{% endfor %}", "by what it says"),
        ("{{ raise_exception('no\n such luck') }}", "refuses the conversation: no such luck"),
        ("{{ messages.nothing.at.all }}", "refuses the conversation"),
        ("{% for m in messages %}{% generation %}{% endgeneration %}{{ m.content }}{% endfor %}", "no token"),
    ],
)
def test_a_template_that_cannot_be_resolved_is_refused_in_one_line(template, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        encode_chat(tokenizer_for("zephyr", template=template), MORE)
    assert "\n" not in str(error.value)


def test_lone_surrogates_become_the_replacement_character():
    tokenizer = tokenizer_for("smollm2")
    talk = [ONE[0], {"role": "assistant", "content": "it \ud83d is four"}]
    assert targets(tokenizer, encode_chat(tokenizer, talk)) == ["it \ufffd is four<|im_end|>"]


def test_tokens_over_the_boundary_belong_to_the_answer():
    """A blank before the answer is one token with it, as in SentencePiece vocabularies."""
    pieces = ["<unk>", "</s>", *sorted({"▁", *"QASECRTfourtwplusi:\n"}), "▁four", "▁two"]
    vocabulary = [(piece, -1.0 - 0.01 * i) for i, piece in enumerate(pieces)]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Replace("▁", " ")
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}Q:{{ m.content }} A:"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token="</s>", chat_template=template
    )
    talk = [
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "four"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "two"},
    ]
    encoded = encode_chat(tokenizer, talk)
    said = [tokenizer.convert_ids_to_tokens(int(i)) for i in encoded.ids[encoded.loss_mask > 0]]
    assert said == ["▁four", "</s>", "▁two", "</s>"]
