"""A real (tiny, random) model behind the text protocol, against its own logits."""

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from evals.models import local_model
from evals.models.local_model import LocalModel
from evals.models.model_identity import base_and_revision
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import encode_chat_prompt, encode_instruction, plain_ids, train_bpe
from tests.tiny_checkpoints import in_double
from tests.tolerances import DOUBLE

pytestmark = pytest.mark.usefixtures("in_double_precision")

TEXTS = ["Lima is the capital of Peru. Quito lies in Ecuador.", "Q: who?\nA: me and you", "    return x + 1"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXTS * 4, 400)


@pytest.fixture(scope="module")
def lm(in_double_precision, tokenizer):
    config = ModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        max_positions=96,
        eos_token_id=tokenizer.eos_token_id,
    )
    weights = params.split(params.build(config, seed=0, std=0.5), "none")
    return in_double(LanguageModel(config, weights, params.single_device_mesh()))


@pytest.fixture(scope="module")
def model(lm, tokenizer):
    return LocalModel(lm, tokenizer, batch_size=4)


def direct(lm, ids, start):
    """Σ log p from the whole vocabulary's logits."""
    logits = np.asarray(lm([ids]).logits[0], np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return sum(logprobs[t - 1, ids[t]] for t in range(start, len(ids)))


def test_logprobs_equal_those_of_the_full_logits(lm, tokenizer, model):
    pairs = [
        ("Lima is the capital of", " Peru"),
        ("Q: who?\nA:", " me and you"),
        ("Quito", " lies in Ecuador."),
    ]
    scores = model.logprob(*zip(*pairs, strict=True))
    for (prompt, continuation), logprob, count in zip(pairs, *scores, strict=True):
        ids = plain_ids(tokenizer, prompt + continuation)
        start = len(plain_ids(tokenizer, prompt))
        assert ids[:start] == plain_ids(tokenizer, prompt)
        assert count == len(ids) - start
        assert logprob == pytest.approx(direct(lm, ids, start), abs=DOUBLE)


def test_instruction_form_scores_the_tokens_that_training_counts_but_not_the_end(lm, tokenizer):
    model = LocalModel(lm, tokenizer, form="instruction", batch_size=1)
    scores = model.logprob(["capital of Peru?"], [" Lima"])
    row = encode_instruction(tokenizer, "capital of Peru?", "", "Lima")
    start = int(row.loss_mask.argmax())
    assert scores.tokens == [int(row.loss_mask.sum()) - 1]
    assert scores.logprobs[0] == pytest.approx(direct(lm, row.ids[:-1].tolist(), start), abs=DOUBLE)


def test_nothing_before_a_continuation_is_the_end_of_another_text(lm, tokenizer, model):
    scores = model.logprob([""], [" Lima"])
    ids = [tokenizer.eos_token_id, *plain_ids(tokenizer, " Lima")]
    assert scores.logprobs[0] == pytest.approx(direct(lm, ids, 1), abs=DOUBLE)


def test_a_token_over_the_boundary_belongs_to_the_continuation(tokenizer, model):
    # " Lima" is one token of the text: nothing of it is left to the prompt
    assert len(plain_ids(tokenizer, "in Lima")) == len(plain_ids(tokenizer, "in")) + 1
    assert model.logprob(["in Li"], ["ma"]) == model.logprob(["in"], [" Lima"])


def test_scores_do_not_depend_on_batch_order_or_padding(lm, tokenizer, model):
    pairs = [("Lima is" + " the" * n, " capital of Peru" * (1 + n % 3)) for n in range(11)]
    together = model.logprob(*zip(*pairs, strict=True))
    alone = [LocalModel(lm, tokenizer, batch_size=1).logprob([p], [c]) for p, c in pairs]
    np.testing.assert_allclose(together.logprobs, [s.logprobs[0] for s in alone], atol=DOUBLE)
    assert together.tokens == [s.tokens[0] for s in alone]
    reverse = model.logprob(*zip(*pairs[::-1], strict=True))
    np.testing.assert_allclose(reverse.logprobs[::-1], together.logprobs, atol=DOUBLE)


@pytest.mark.parametrize("form", ["text", "instruction"])
def test_texts_have_the_same_ids_together_and_alone(lm, tokenizer, form):
    model = LocalModel(lm, tokenizer, form=form)
    pairs = [("Lima is", " the capital"), ("", " Lima"), ("Lima is", " the capital"), ("Lima is", " in Peru")]
    together = model.scored_ids(*zip(*pairs, strict=True))
    assert together == [model.scored_ids([p], [c])[0] for p, c in pairs]


@pytest.mark.parametrize("length", [8, 9, 32, 33, 60])
def test_long_continuations_are_scored_whole(lm, tokenizer, model, length):
    [scored] = model.scored_ids(["Lima is"], [" and you" * 40])
    text = tokenizer.decode(scored.ids[scored.start : scored.start + length])
    scores = model.logprob(["Lima is"], [text])
    ids = plain_ids(tokenizer, "Lima is" + text)
    assert scores.tokens == [length]
    assert scores.logprobs[0] == pytest.approx(direct(lm, ids, len(ids) - length), abs=DOUBLE)


def test_eight_devices_score_as_one(lm, tokenizer):
    mesh = params.make_mesh(data=2, fsdp=2, tensor=2)
    built = params.build(lm.config, seed=0, std=0.5)
    _, placement = params.shardings(built, mesh, "none")
    parts = params.split(built, "none")
    placed = parts._replace(frozen=jax.device_put(parts.frozen, placement))
    sharded = LocalModel(in_double(LanguageModel(lm.config, placed, mesh)), tokenizer, batch_size=8)
    pairs = [("Lima is" + " the" * n, " capital of Peru") for n in range(5)]
    expected = LocalModel(lm, tokenizer, batch_size=8).logprob(*zip(*pairs, strict=True))
    found = sharded.logprob(*zip(*pairs, strict=True))
    np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=DOUBLE)
    with pytest.raises(ValueError, match="multiple of data x fsdp x expert = 4; got 6"):
        LocalModel(sharded.lm, tokenizer, batch_size=6)


def test_a_thousand_questions_compile_few_shapes(lm, tokenizer):
    model = LocalModel(lm, tokenizer, batch_size=32)
    compiled: Any = local_model._sums
    before = compiled._cache_size()
    prompts = ["who" + " and you" * (n % 30) for n in range(1000)]
    model.logprob(prompts, [" me"] * 1000)
    lengths = {len(plain_ids(tokenizer, p + " me")) for p in prompts}
    assert len(lengths) >= 30
    # 16, 24, 32, 48, 64, 96
    assert compiled._cache_size() - before <= 6


class Scripted:
    """An lm whose generation is a script: row by row, by the row's last prompt token."""

    def __init__(self, lm: LanguageModel, new: dict[int, list[int]]):
        self.config, self.mesh, self.weights, self.dtype = lm.config, lm.mesh, lm.weights, lm.dtype
        self.stop_tokens = lm.stop_tokens
        self.new, self.shapes, self.keys = new, [], []

    def generate(self, tokens, mask, *, max_new_tokens, key, samples_per_prompt, stop_tokens, **sampling):
        self.shapes.append(tokens.shape)
        self.keys.append(key)
        self.stopping = stop_tokens
        assert (np.diff(mask, axis=1) >= 0).all(), "padding stands on the left"
        tokens = np.repeat(tokens, samples_per_prompt, axis=0)
        rows = [(self.new[int(row[-1])] + [0] * max_new_tokens)[:max_new_tokens] for row in tokens]
        return SimpleNamespace(tokens=np.concatenate([tokens, rows], axis=1), logprobs=None)


def scripted(lm, tokenizer, answers, **settings) -> tuple[Scripted, LocalModel]:
    new = {plain_ids(tokenizer, p)[-1]: ids for p, ids in answers.items()}
    fake = Scripted(lm, new)
    stand_in: Any = fake
    return fake, LocalModel(stand_in, tokenizer, **settings)


def test_responses_return_to_their_prompts_and_end_at_stop_or_end_token(lm, tokenizer):
    peru = plain_ids(tokenizer, " Peru")
    answers = {
        "capital of": [*peru, tokenizer.eos_token_id, *peru],
        "A:": plain_ids(tokenizer, " me\nQ: who"),
        "Quito": peru * 9,
    }
    fake, model = scripted(lm, tokenizer, answers, batch_size=2)
    prompts = ["Lima is the capital of", "A:", "Quito"]
    assert model.generate(prompts, 4, ["\n"]) == [" Peru", " me", " Peru Peru Peru Peru"]
    # three prompts in batches of two: the last is filled up, both have the same shape
    assert fake.shapes == [(2, 16), (2, 16)]
    assert fake.keys == [None, None]
    assert fake.stopping[0] == tokenizer.eos_token_id
    assert fake.stopping[1:]
    assert all("\n" in tokenizer.decode([token]) for token in fake.stopping[1:])
    model.generate(prompts, 4, temperature=1.0, seed=3)
    first, second = (jax.random.key_data(key) for key in fake.keys[2:])
    assert not np.array_equal(first, second)


def test_generation_equals_asking_the_model_for_the_next_token_again_and_again(lm, tokenizer, model):
    prompts = ["Lima is the capital of", "Q: who?\nA:", "x"]
    responses = model.generate(prompts, 6)
    for prompt, response in zip(prompts, responses, strict=True):
        ids = plain_ids(tokenizer, prompt)
        start = len(ids)
        while len(ids) < start + 6 and ids[-1] != tokenizer.eos_token_id:
            # one padded shape for all lengths
            padded = np.zeros((1, 24), np.int32)
            padded[0, : len(ids)] = ids
            logits = lm(padded, np.arange(24)[None] < len(ids)).logits[0, len(ids) - 1]
            ids.append(int(np.asarray(logits).argmax()))
        whole, before = (tokenizer.decode(i, skip_special_tokens=True) for i in (ids, ids[:start]))
        assert response == whole[len(before) :]


def test_samples_of_a_prompt_stand_together_and_differ(lm, tokenizer):
    model = LocalModel(lm, tokenizer, batch_size=4)
    prompts = ["Lima is", "Quito lies in"]
    # six samples in batches of four rows: two calls a prompt, of which two samples are left out
    texts = model.generate(prompts, 8, temperature=1.0, samples=6, seed=1)
    assert len(texts) == 12
    assert len(set(texts[:6])) > 3
    assert texts == model.generate(prompts, 8, temperature=1.0, samples=6, seed=1)
    assert texts != model.generate(prompts, 8, temperature=1.0, samples=6, seed=2)
    greedy = model.generate(prompts, 8, samples=3)
    assert greedy == [text for text in model.generate(prompts, 8) for _ in range(3)]


def test_indentation_survives_decoding(lm, tokenizer):
    code = "    return x + 1"
    _, model = scripted(lm, tokenizer, {"A:": plain_ids(tokenizer, code)}, batch_size=1)
    [text] = model.generate(["A:"], 32)
    assert text.startswith(tokenizer.decode(plain_ids(tokenizer, code)))


def test_long_prompts_lose_their_beginning_with_a_warning(lm, tokenizer, model):
    prompt = "who" + " and you" * 60
    fake, scripted_model = scripted(lm, tokenizer, {prompt: [7]}, batch_size=1)
    with pytest.warns(UserWarning, match="1 prompts are longer than 86 tokens"):
        scripted_model.generate([prompt], 10)
    assert fake.shapes == [(1, 86)]
    ids = plain_ids(tokenizer, prompt + " me")
    with pytest.warns(UserWarning, match="lose their beginning"):
        scores = model.logprob([prompt], [" me"])
    assert scores.logprobs[0] == pytest.approx(direct(lm, ids[-96:], 96 - scores.tokens[0]), abs=DOUBLE)


def test_what_cannot_be_scored_is_refused(lm, tokenizer, model):
    with pytest.raises(ValueError, match="needs 1 to 95 tokens; got 0: ''"):
        model.logprob(["who"], [""])
    with pytest.raises(ValueError, match="leaves no room for a prompt in 96 tokens"):
        model.generate(["who"], 96)
    with pytest.raises(ValueError, match="form must be one of auto, text, instruction, chat; got 'plain'"):
        LocalModel(lm, tokenizer, form="plain")  # type: ignore[arg-type]


def test_form_auto_is_that_of_the_chat_template_or_loramoes(lm, tokenizer):
    assert LocalModel(lm, tokenizer, form="auto").form == "chat"
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    assert LocalModel(lm, plain, form="auto").form == "instruction"
    with pytest.raises(ValueError, match="form chat needs a chat template"):
        LocalModel(lm, plain, form="chat")


@pytest.mark.parametrize("form", ["text", "instruction", "chat"])
def test_lone_surrogates_are_scored_as_the_replacement_character(lm, tokenizer, form):
    model = LocalModel(lm, tokenizer, form=form)
    odd = model.scored_ids(["who \ud83d", ""], [" \udc00 me", " \udc00"])
    assert odd == model.scored_ids(["who \ufffd", ""], [" \ufffd me", " \ufffd"])


def test_turns_stand_before_every_prompt_of_a_chat(lm, tokenizer):
    before = [
        {"role": "system", "content": "me"},
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": "you"},
    ]
    chat = LocalModel(lm, tokenizer, "chat", before=before)
    asked = [*before, {"role": "user", "content": "Peru"}]
    (scored,) = chat.scored_ids(["Peru"], [" Lima"])
    assert scored.ids[: scored.start] == encode_chat_prompt(tokenizer, asked)
    (alone,) = LocalModel(lm, tokenizer, "chat").scored_ids(["Peru"], [" Lima"])
    assert scored.ids[-len(alone.ids) + 1 :] == alone.ids[1:]
    with pytest.raises(ValueError, match="turns before a prompt need the form chat; got form text"):
        LocalModel(lm, tokenizer, "text", before=before)


def test_the_base_is_told_with_its_revision(lm):
    def told(source):
        return base_and_revision(dataclasses.replace(lm, source=source))

    cached = Path("hub") / "models--owner--small-model" / "snapshots" / "abc123"
    assert told(cached) == "owner/small-model at commit abc123"
    assert told(Path("exported")) == "exported, no revision"
    assert told(None) == "in memory"
