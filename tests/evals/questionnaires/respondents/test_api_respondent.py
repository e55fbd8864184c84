"""A server on this machine that is slow, busy, broken or dear."""

import contextlib

import pytest

from evals.models.api_client import ApiError, retry_after
from evals.models.api_spending import CostCeilingError
from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design, battery, questions
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondents.api_respondent import ApiRespondent
from tests.http_stub import completion, serving


@pytest.fixture
def serve():
    with contextlib.ExitStack() as running:
        yield lambda reply: running.enter_context(serving(reply))


def client(server, waits=None, **settings):
    return ApiRespondent(
        server.url,
        "m",
        sleep=(waits if waits is not None else []).append,
        **settings,
    )


@pytest.fixture(scope="module")
def asked():
    return list(questions(battery(load_instrument("gad_7")), Design(option_orders=("forward", "reversed"))))


def test_answers_are_read_and_at_most_so_many_run_at_once(serve, asked):
    server = serve(lambda number, body: (200, {}, completion("B")))
    respondent = client(server, concurrency=3)
    found = dict(respondent.answer(asked))
    assert {found[n].position for n in range(14)} == {1}
    assert server.most <= 3
    assert {body["messages"][0]["content"] for body in server.requests} == {q.prompt for q in asked}
    assert respondent.usage.requests == 14
    assert respondent.usage.prompt_tokens == 1400


def test_a_busy_server_is_waited_for_as_long_as_it_asks(serve, asked):
    server = serve(
        lambda n, body: (429, {"Retry-After": "7"}, "busy") if n == 0 else (200, {}, completion("A"))
    )
    waits = []
    assert dict(client(server, waits).answer(asked[:1]))[0].value == 0
    assert waits == [7.0]


def test_pauses_double_up_to_the_longest(serve, asked):
    server = serve(lambda n, body: (503, {}, "down") if n < 5 else (200, {}, completion("A")))
    waits = []
    dict(client(server, waits, wait_s=1.0, longest_wait_s=4.0).answer(asked[:1]))
    for pause, most in zip(waits, [1, 2, 4, 4, 4], strict=True):
        assert most / 2 <= pause <= most


def test_what_fails_for_good_is_an_answer_with_a_code(serve, asked):
    bad = asked[1].prompt
    server = serve(
        lambda n, b: (500, {}, "x") if b["messages"][0]["content"] == bad else (200, {}, completion("A"))
    )
    found = dict(client(server, attempts=2).answer(asked[:4]))
    assert [found[n].refusal for n in range(4)] == ["", "error", "", ""]
    assert "HTTP 500" in found[1].text


def test_a_broken_server_and_a_wrong_key_are_named(serve, asked):
    down = serve(lambda n, body: (500, {}, "boom"))
    with pytest.raises(ApiError, match="failed 5 questions in a row"):
        dict(client(down, attempts=1).answer(asked))
    wrong = serve(lambda n, body: (401, {}, "no such key"))
    with pytest.raises(ApiError, match="refuses the request: HTTP 401 no such key"):
        dict(client(wrong).answer(asked))
    assert len(wrong.requests) <= 8
    odd = serve(lambda n, body: (200, {}, {"text": "A"}))
    with pytest.raises(ApiError, match=r"in a row; .* does not answer as completions do"):
        dict(client(odd).answer(asked))


def test_nobody_there_is_named(asked):
    nobody = ApiRespondent("http://127.0.0.1:9/v1", "m", attempts=1, give_up_after=1, sleep=lambda _: None)
    with pytest.raises(ApiError, match="failed 1 questions in a row"):
        dict(nobody.answer(asked[:1]))


def test_the_cost_ceiling_is_never_passed_and_what_was_answered_is_kept(serve, tmp_path):
    server = serve(lambda n, body: (200, {}, completion("A")))
    gad = battery(load_instrument("gad_7"))
    # 100 tokens cost 0.1; a prompt is promised by its bytes, some 250 of them
    dear = client(server, cost_ceiling=0.5, prompt_price=1000.0)
    with pytest.raises(CostCeilingError, match="raise cost_ceiling to resume"):
        administer(dear, [gad], Design(), tmp_path)
    assert 0 < dear.usage.cost <= 0.5
    before = len(server.requests)
    assert before == dear.usage.requests
    table = administer(client(server), [gad], Design(), tmp_path)
    assert len(server.requests) == len(table) == 7


def test_retry_after_may_be_a_number_or_a_date():
    assert retry_after("2.5") == 2.5
    assert retry_after("-3") == 0
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", now=40.0) == 60.0
    assert retry_after("soon") is retry_after(None) is None
    assert retry_after("Mon, 01 Jan 2001 00:00:00 +99999999999999999999") is None


def test_settings_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="begin with http"):
        ApiRespondent("localhost:8000", "m")
    with pytest.raises(ValueError, match="needs prompt_price"):
        ApiRespondent("http://x", "m", cost_ceiling=1.0)
