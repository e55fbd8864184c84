"""Log-probabilities over HTTP, from a server that tells known ones."""

import math

import numpy as np
import pytest

from evals.models.api_client import ApiError
from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design, battery, questions
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondents.api_respondent import ApiRespondent
from evals.questionnaires.respondents.api_scoring import ApiScoringRespondent
from tests.http_stub import completion, serving

GAD = battery(load_instrument("gad_7"))
ASKED = list(questions(GAD, Design()))


def client(server):
    return ApiRespondent(server.url, "m", concurrency=2, sleep=lambda _: None, say=lambda _: None)


def first_token(**mass):
    likeliest = [{"token": token, "logprob": math.log(p)} for token, p in mass.items()]
    reply = completion("C")
    reply["choices"][0]["logprobs"] = {"content": [{"top_logprobs": likeliest}]}
    return reply


def test_labels_by_the_likeliest_first_tokens(tmp_path):
    # " C" and "(C" are the label too; "I" is none; D is not among those told
    told = first_token(**{"A": 0.1, " C": 0.3, "(C": 0.1, "I": 0.4, "Both": 0.1})
    with serving(lambda n, body: (200, {}, told)) as server:
        table = administer(ApiScoringRespondent(client(server)), [GAD], Design(), tmp_path)
    assert table["response"].tolist() == [2.0] * 7
    np.testing.assert_allclose(table["probabilities"][0], [0.2, 0, 0.8, 0], atol=1e-12)
    np.testing.assert_allclose(table["expected"], 1.6, atol=1e-12)
    assert {(body["logprobs"], body["top_logprobs"], body["max_tokens"]) for body in server.requests} == {
        (True, 20, 1)
    }


def test_no_label_among_them_is_no_answer():
    with serving(lambda n, body: (200, {}, first_token(I=0.6, As=0.4))) as server:
        found = dict(ApiScoringRespondent(client(server)).answer(ASKED[:2]))
    assert {answer.refusal for answer in found.values()} == {"unreadable"}


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1000.0, -1e300])
@pytest.mark.parametrize("route", ["chat", "completions"])
def test_what_is_no_log_probability_is_not_answered(route, odd):
    def reply(n, body):
        told = first_token(A=0.5, B=0.5)
        told["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1]["logprob"] = odd
        return 200, {}, told if route == "chat" else echoed(body, [(odd, odd)] * 4)

    with serving(reply) as server:
        found = dict(ApiScoringRespondent(client(server), "label", route).answer(ASKED[:1]))
    assert (found[0].refusal, found[0].text) == ("unreadable", f"{odd} is no log-probability")


@pytest.mark.parametrize("odd", [None, "-0.5", "nan", False])
@pytest.mark.parametrize("route", ["chat", "completions"])
def test_what_is_no_number_is_an_error_and_asked_again(route, odd):
    def reply(n, body):
        told = first_token(A=0.5, B=0.5)
        told["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1]["logprob"] = odd
        return 200, {}, told if route == "chat" else echoed(body, [(odd, odd)] * 4)

    with serving(reply) as server:
        found = dict(ApiScoringRespondent(client(server), "label", route).answer(ASKED[:1]))
    assert found[0].refusal == "error"
    assert "gives no log-probabilities" in found[0].text


@pytest.mark.parametrize("index", [None, "0", True])
def test_an_index_that_is_no_number_costs_one_answer(index):
    def reply(n, body):
        told = echoed(body, [(-1.0, -1.0)] * 4)
        told["choices"][0]["index"] = index
        return 200, {}, told

    with serving(reply) as server:
        found = dict(ApiScoringRespondent(client(server), "label", "completions").answer(ASKED[:1]))
    assert found[0].refusal == "error"
    assert "index of a choice must be a number" in found[0].text


def echoed(body, scores):
    """Two tokens of the prompt and two of the continuation, with log-probabilities by option."""
    choices = []
    for index, row in enumerate(body["prompt"]):
        start = row.rindex("Answer:") + len("Answer:")
        # a token that the tokenizer puts before, the prompt, and a token over its end
        tokens = ["<s>", row[: start - 1], row[start - 1 : start + 2], row[start + 2 :]]
        logprobs = {"tokens": tokens, "token_logprobs": [None, -9.0, *scores[index]]}
        choices.append({"index": index, "text": row, "logprobs": logprobs, "finish_reason": "length"})
    return {"choices": choices[::-1], "usage": {"prompt_tokens": 50, "completion_tokens": 0}}


def test_words_by_completions_that_repeat_the_prompt():
    scores = [(-1.0, -3.0), (-0.5, -0.5), (-2.0, -2.0), (-4.0, -4.0)]
    with serving(lambda n, body: (200, {}, echoed(body, scores))) as server:
        found = dict(ApiScoringRespondent(client(server), "words", "completions").answer(ASKED[:2]))
    expected = np.exp([-2.0, -0.5, -2.0, -4.0])
    np.testing.assert_allclose(found[0].probabilities, expected / expected.sum(), atol=1e-12)
    assert found[1].position == 1
    assert set(server.paths) == {"/v1/completions"}
    assert server.requests[0]["prompt"][1] in {f"{q.prompt} Several days" for q in ASKED[:2]}


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_a_server_without_log_probabilities_is_named(route):
    def reply(n, body):
        rows = body.get("prompt", [""])
        return 200, {}, {"choices": [{"text": "A", "logprobs": None} for _ in rows], "usage": None}

    with serving(reply) as server, pytest.raises(ApiError, match="gives no log-probabilities"):
        list(ApiScoringRespondent(client(server), "label", route).answer(ASKED))


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="route completions"):
        ApiScoringRespondent(ApiRespondent("http://x", "m"), "words")
    with pytest.raises(ValueError, match="route must be one of chat, completions; got 'x'"):
        ApiScoringRespondent(ApiRespondent("http://x", "m"), "label", "x")
