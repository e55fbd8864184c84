"""A model behind a server as a TextModel: what the same model says here."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from evals.models.api_client import ApiError
from evals.models.api_model import ApiModel, token_ends
from evals.models.local_model import LocalModel
from evals.questionnaires.respondents.api_server import ServerConfig
from tests.http_stub import completion, serving
from tests.served import ENGINE, Served, tiny
from tests.tiny_checkpoints import float32_logits, tokenizer_with_blanks
from tests.tolerances import rounding_bound

WORDS = ["the quick", "brown", "the lazy dog jumps", ""]
ANSWERS = [" fox", " dog over", "; naïve 😀", "quick"]


# byte-level texts go through the server in tests/training/suites/test_served_model.py too
@pytest.fixture(scope="module", params=[pytest.param("byte level", marks=pytest.mark.slow), "blanks"])
def served(request) -> Iterator[Served]:
    made = tiny(replace(ENGINE, slots=4))
    if request.param == "blanks":
        made = Served(made.lm, tokenizer_with_blanks(), made.config)
    with made.worker, made.serving() as made.address:
        yield made


def bound(served: Served, tokens: int) -> float:
    """How far two float32 sums of so many log-probabilities may lie apart."""
    config = served.lm.config
    return tokens * (2 * float32_logits(config, 40, 30.0) + rounding_bound(config.vocab_size, 1.0))


def behind(served: Served, form: str = "text", **settings: str) -> ApiModel:
    config = ServerConfig(f"{served.address}/v1", "tiny", concurrency=3, max_new_tokens=1, **settings)
    return config.text_model(config.requests(), form)  # type: ignore[arg-type]


def test_texts_are_the_local_models(served: Served):
    local = LocalModel(served.lm, served.tokenizer, batch_size=4)
    there, stop = behind(served, text_start="</s>"), (" ", "q", "7", "\n", "the")
    for stops in ((), stop):
        found = there.generate(WORDS[:3], 9, stops)
        assert found == local.generate(WORDS[:3], 9, stops)
    assert any(found)


def test_log_probabilities_are_the_local_models(served: Served):
    local = LocalModel(served.lm, served.tokenizer, batch_size=4)
    start = "" if served.tokenizer.bos_token else "</s>"
    pairs = [(word, answer) for word in WORDS for answer in ANSWERS]
    prompts, answers = zip(*pairs, strict=True)
    found = behind(served, text_start=start).logprob(prompts, answers)
    expected = local.logprob(prompts, answers)
    assert found.tokens == expected.tokens
    for ours, theirs, count in zip(found.logprobs, expected.logprobs, found.tokens, strict=True):
        assert abs(ours - theirs) <= bound(served, count)


def test_chats_are_the_local_models(served: Served):
    if not served.tokenizer.chat_template:
        pytest.skip("no chat template")
    turns = [{"role": "system", "content": "the fox"}]
    local = LocalModel(served.lm, served.tokenizer, "chat").with_turns(turns)
    there = behind(served, "auto").with_turns(turns)
    assert there.generate(WORDS[:3], 9) == local.generate(WORDS[:3], 9)
    with pytest.raises(ApiError, match="no log-probabilities of a given answer in a chat"):
        there.logprob(["a"], ["b"])


def test_samples_of_a_prompt_stand_together(served: Served):
    drawn = behind(served).generate(WORDS[:2], 6, temperature=1.0, samples=3, seed=4)
    alone = behind(served).generate(WORDS[1:2], 6, temperature=1.0, samples=3, seed=4)
    assert len(drawn) == 6
    assert drawn[3:] == alone


@pytest.mark.parametrize(
    ("text", "tokens", "ends"),
    [
        ("to be", ["to", " be"], [2, 5]),
        ("to be", ["to", "be"], [2, 5]),
        ("to be", [" to", " be"], [2, 5]),
        ("a 😀 b", ["a", " ", "\ufffd", "\ufffd", "\ufffd", " b"], [1, 2, 3, 3, 3, 5]),
        ("a é", ["a", " ", "\ufffd", "\ufffd"], [1, 2, 3, 3]),
        ("aa a", ["a", "a", "", "a"], [1, 2, 3, 4]),
    ],
)
def test_tokens_end_where_they_stand_in_the_text(text: str, tokens: list[str], ends: list[int]):
    assert token_ends(text, tokens) == ends


@pytest.mark.parametrize("tokens", [["to"], ["to", "bee"], ["2", "be", "or"]])
def test_tokens_of_another_text_are_noticed(tokens: list[str]):
    with pytest.raises(ValueError, match="spell another text"):
        token_ends("to be or not to be", tokens)


def scored(**logprobs: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": "a b", "finish_reason": "length", "logprobs": logprobs or None}]}


@pytest.mark.parametrize(
    ("status", "said", "prompt", "message"),
    [
        (200, scored(), "a", "tells no log-probabilities of a text it is given .*knowledge.reasoning=true"),
        (400, "echo is not supported", "a", "echo is not supported; multiple choice and answer_nats need"),
        (307, "moved", "a", "redirects to .*: give the right address as url$"),
        (200, scored(tokens=["x", "y"], token_logprobs=[None, -1.0]), "a", "spell another text"),
        (200, scored(tokens=["a"], token_logprobs=[None]), "", "server.text_start"),
        (200, scored(tokens=["<", "s>", "a"], token_logprobs=[None, -1.0, -1.0]), "", "must be one token"),
        (200, {"choices": []}, "a", "does not answer as completions do"),
    ],
)
def test_a_server_without_log_probabilities_is_named(status: int, said: object, prompt: str, message: str):
    with serving(lambda number, body: (status, {}, said)) as server:
        config = ServerConfig(server.url, "m", text_start="<s>" if "one token" in message else "")
        model = config.text_model(config.requests(), "text")
        with pytest.raises(ApiError, match=message):
            model.logprob([prompt], [" b" if prompt else "a"])


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (math.nan, "tells nan as the log-probability of a token of ' b c'"),
        (math.inf, "tells inf as"),
        (-math.inf, "tells -inf as"),
        (0.7, "tells 0.7 as"),
        (-(10**400), "tells -inf as"),
        # a mask that no softmax of float32 numbers yields, and of which two make −∞
        (-1.7e308, "tells -1.7e\\+308 as"),
        # a number may be missing of the first token of a text alone
        (None, "tells nothing as"),
        ("-1.0", "tells no log-probabilities of a text it is given .*str"),
        (False, "tells no log-probabilities of a text it is given .*bool"),
        ({}, "tells no log-probabilities of a text it is given .*dict"),
    ],
)
def test_what_is_no_log_probability_enters_no_score(odd: object, message: str):
    told = scored(tokens=["a", " b", " c"], token_logprobs=[None, -1.0, odd])
    with serving(lambda number, body: (200, {}, told)) as server:
        config = ServerConfig(server.url, "m")
        model = config.text_model(config.requests(), "text")
        with pytest.raises(ApiError, match=message) as found:
            model.logprob(["a"], [" b c"])
        assert "\n" not in str(found.value)


def test_what_stands_before_a_continuation_is_not_judged():
    told = scored(tokens=["a", " b", " c"], token_logprobs=[None, math.nan, -1.5])
    with serving(lambda number, body: (200, {}, told)) as server:
        config = ServerConfig(server.url, "m")
        found = config.text_model(config.requests(), "text").logprob(["a b"], [" c"])
    assert (found.logprobs, found.tokens) == ([-1.5], [1])


@pytest.mark.parametrize("logprobs", [[], [None], [None, -1.0, -2.0]])
def test_as_many_log_probabilities_as_tokens_are_told(logprobs: list[float | None]):
    told = scored(tokens=["a", " b"], token_logprobs=logprobs)
    with serving(lambda number, body: (200, {}, told)) as server:
        config = ServerConfig(server.url, "m")
        model = config.text_model(config.requests(), "text")
        with pytest.raises(ApiError, match=f"2 tokens, {len(logprobs)} log-probabilities"):
            model.logprob(["a"], [" b"])


@pytest.mark.parametrize("indexes", [(True, False), (0, 0, 1), (0, 1, 1)])
def test_choices_whose_order_is_not_told_are_refused(indexes: tuple[int, ...]):
    one = {"text": "a b", "logprobs": {"tokens": ["a", " b"], "token_logprobs": [None, -1.0]}}
    told = {"choices": [{"index": index, **one} for index in indexes]}
    with serving(lambda number, body: (200, {}, told)) as server:
        config = ServerConfig(server.url, "m")
        model = config.text_model(config.requests(), "text")
        with pytest.raises(ApiError, match=r"index of (a choice|each choice) must be"):
            model.logprob(["a"] * len(indexes), [" b"] * len(indexes))


def test_a_filtered_prompt_is_answered_with_nothing_and_said(capsys: pytest.CaptureFixture[str]):
    def reply(number: int, body: dict) -> tuple:
        blocked = body["messages"][0]["content"] == "bad"
        return (400, {}, "the content filter says no") if blocked else (200, {}, completion("fine"))

    with serving(reply) as server:
        config = ServerConfig(server.url, "m", max_new_tokens=500)
        model = config.text_model(config.requests(), "chat")
        assert model.generate(["good", "bad"], 8) == ["fine", ""]
        assert "left empty" in capsys.readouterr().err
        assert {body["max_tokens"] for body in server.requests} == {500}
        # no more is asked than is wanted: some servers refuse what they do not know
        assert set(server.requests[0]) == {"model", "messages", "temperature", "max_tokens"}
        with pytest.raises(ValueError, match="form instruction needs a local model"):
            config.text_model(config.requests(), "instruction")


def test_a_refused_prompt_is_answered_with_nothing_and_counted(capsys: pytest.CaptureFixture[str]):
    def reply(number: int, body: dict) -> tuple:
        if body["prompt"] == "long":
            return 400, {}, "maximum context length"
        return 200, {}, completion("fine")

    with serving(reply) as server:
        config = ServerConfig(server.url, "m", concurrency=1)
        model = config.text_model(config.requests(), "text")
        assert model.generate(["long", "a", "long", "b"], 8, samples=1) == ["", "fine", "", "fine"]
        (line,) = capsys.readouterr().err.splitlines()
        assert "answers left empty so far" in line
        assert ": 2; the last time: " in line
        assert "maximum context length" in line
        # a resumed evaluation may have this one left
        assert model.generate(["long"], 8) == [""]
        assert ": 3; the last time: " in capsys.readouterr().err
        with pytest.raises(ApiError, match=r"refused 8 prompts in a row; .* maximum context length"):
            model.generate(["a"] + ["long"] * 99, 8)


@pytest.mark.parametrize("count", [2, 99])
def test_what_refuses_every_prompt_ends_the_evaluation(count: int):
    with serving(lambda number, body: (422, {}, "no such field")) as server:
        config = ServerConfig(server.url, "m", concurrency=1)
        model = config.text_model(config.requests(), "text")
        with pytest.raises(ApiError, match=r"refused \d prompts in a row; .* no such field"):
            model.generate(["a"] * count, 8)
        assert len(server.requests) <= 9


def test_what_fails_for_good_ends_the_evaluation():
    with serving(lambda number, body: (400, {}, "prompt too long")) as server:
        config = ServerConfig(server.url, "m")
        model = config.text_model(config.requests(), "text")
        with pytest.raises(ApiError, match="prompt too long"):
            model.generate(["a"], 8)


def test_forms():
    config = ServerConfig("http://x/v1", "m", "completions")
    assert config.resolved("auto", "completion") == "completion"
    with pytest.raises(ValueError, match="route=chat"):
        config.text_model(config.requests(), "auto")
    assert np.isclose(config.text_model(config.requests(), "text").least_tokens, 16)
