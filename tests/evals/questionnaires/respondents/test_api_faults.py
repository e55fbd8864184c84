"""What servers send that is no answer costs one answer at most, and never the administration."""

import json
import time
from functools import partial

import pytest

from evals.models.api_client import ApiError, RequestFailedError
from evals.models.api_requests import side_by_side
from evals.models.api_spending import CostCeilingError
from evals.questionnaires.administration import administer, limits_told
from evals.questionnaires.design import Design, battery, questions
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.judge import JudgedRespondent
from evals.questionnaires.respondent import chosen
from evals.questionnaires.respondents.api_respondent import ApiRespondent
from tests.http_stub import completion, serving

GAD = battery(load_instrument("gad_7"))
ASKED = list(questions(GAD, Design(option_orders=("forward", "reversed"))))
FILTER = {"error": {"message": "blocked by the content management policy", "code": "content_filter"}}


class Silent:
    """A judge that finds no answer."""

    name = "silent"

    def write(self, prompts, seed=0):
        return ["N" for _ in prompts]


def client(server, waits=None, said=None, **settings):
    return ApiRespondent(
        server.url,
        "m",
        concurrency=1,
        sleep=(waits if waits is not None else []).append,
        say=(said if said is not None else []).append,
        **settings,
    )


@pytest.mark.parametrize(
    ("odd", "code", "says"),
    [
        ((400, {}, FILTER), "refused", "content management policy"),
        ((400, {}, "bad prompt"), "error", "HTTP 400 bad prompt"),
        ((403, {}, FILTER), "refused", "content management policy"),
        ((451, {}, FILTER), "refused", "content management policy"),
        ((451, {}, "not in your country"), "error", "HTTP 451 not in your country"),
        (
            (307, {"Location": "http://other.example/v1"}, ""),
            "error",
            "redirects to other.example; the key",
        ),
        ((529, {}, "overloaded"), "error", "after 2 attempts; the last: HTTP 529 overloaded"),
        ((200, {}, {"error": {"message": "model overloaded"}}), "error", "model overloaded"),
        ((200, {}, "[" * 100_000), "error", "no JSON"),
        ((200, {}, '{"choices": [{"mess'), "error", "no JSON"),
        ((200, {}, "[]"), "error", "no JSON object"),
        ((200, {}, {"choices": []}), "error", "does not answer as completions do"),
        ((200, {}, {"choices": [None]}), "error", "does not answer as completions do"),
        ((200, {}, completion(None)), "empty", ""),
        ((200, {}, completion("", "length")), "error", "raise max_new_tokens"),
        ((200, {}, completion("<think>A or B? Let me", "length")), "error", "raise max_new_tokens"),
        ((200, {}, completion("", "content_filter")), "refused", "content filter"),
        ((200, {}, completion("<think>A?</think>B")), "", ""),
        ((200, {}, completion([{"type": "text", "text": "B"}])), "", ""),
        ((200, {}, completion("B", usage=None)), "", ""),
        ((200, {}, completion("B", usage=[1, 2])), "", ""),
        ((200, {}, completion("B", usage={"prompt_tokens": 10**400, "completion_tokens": 1})), "", ""),
        ((200, {}, completion("B", usage={"prompt_tokens": None})), "", ""),
        ((200, {}, completion("B\ud800 \u2028 because")), "", ""),
    ],
)
def test_one_odd_reply_costs_one_answer_at_most(tmp_path, odd, code, says):
    with serving(
        lambda n, body: (
            odd if body["messages"][0]["content"] == ASKED[2].prompt else (200, {}, completion("B"))
        )
    ) as server:
        design = Design(option_orders=("forward", "reversed"))
        table = administer(client(server, attempts=2), [GAD], design, tmp_path)
        assert table["refusal"].tolist() == [code if n == 2 else "" for n in range(14)]
        assert says in table["text"][2]
        lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
        assert [json.loads(line)["refusal"] for line in lines] == table["refusal"].tolist()
        # what failed is asked again, and nothing else
        before = len(server.requests)
        administer(client(server, attempts=1), [GAD], design, tmp_path)
        assert len(server.requests) - before == (code == "error")


@pytest.mark.parametrize(("body", "closed"), [("ff\r\nabc", True), ("ff\r\n", False)])
def test_an_error_whose_words_break_off_or_stall_is_tried_again(body, closed):
    def broken(handler):
        handler.send_response(502)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(body.encode())
        if not closed:
            time.sleep(0.3)

    with serving(lambda n, body: (200, {}, completion("B"))) as server:
        server.raw = {0: broken}
        found = dict(client(server, attempts=2, timeout_s=0.1).answer(ASKED[:1]))
    assert found[0].position == 1


def test_whatever_else_a_task_raises_costs_its_answer_alone():
    def task(n):
        return {1: 1}[n] if n else "first"

    found = dict(side_by_side([partial(task, n) for n in range(3)], 1))
    assert (found[0], found[1]) == ("first", 1)
    assert isinstance(found[2], RequestFailedError)
    assert "KeyError" in str(found[2])

    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(side_by_side([stopped], 1))


def test_what_every_question_fails_of_ends_the_administration():
    with serving(lambda n, body: (200, {}, completion("", "length"))) as server:
        with pytest.raises(ApiError, match=r"failed 5 questions in a row; .* raise max_new_tokens"):
            list(client(server).answer(ASKED))
        assert len(server.requests) == 5


def test_a_server_may_not_ask_to_wait_for_a_day():
    waits, said = [], []
    replies = {0: (429, {"Retry-After": "86400"}, "busy"), 1: (429, {"Retry-After": "9999999"}, "busy")}
    with serving(lambda n, body: replies.get(n, (200, {}, completion("A")))) as server:
        found = dict(client(server, waits, said).answer(ASKED[:1]))
    assert found[0].position == 0
    assert waits == [300.0, 300.0]
    assert "asks to wait 86400 s (Retry-After); tried again after 300 s" in said[0]


@pytest.mark.parametrize("odd", [None, True, -1, 2.5, float("nan"), float("inf"), "100", 10**400])
def test_unknown_usage_is_counted_at_the_most_and_said_once(odd):
    said = []
    usage = {"prompt_tokens": 100, "completion_tokens": odd}
    with serving(lambda n, body: (200, {}, completion("A", usage=usage))) as server:
        dear = client(server, said=said, cost_ceiling=100.0, prompt_price=1000.0)
        list(dear.answer(ASKED[:3]))
    assert dear.usage.prompt_tokens == sum(len(q.prompt.encode()) + 16 for q in ASKED[:3])
    assert len(said) == 1
    assert "does not say how many tokens it used" in said[0]


def test_the_ceiling_counts_what_earlier_sessions_spent_in_the_folder(tmp_path):
    with serving(lambda n, body: (200, {}, completion("A"))) as server:
        # 100 tokens are 0.1; seven answers would be 0.7
        def session():
            return client(server, cost_ceiling=0.5, prompt_price=1000.0)

        with pytest.raises(CostCeilingError):
            administer(session(), [GAD], Design(), tmp_path)
        spent = json.loads((tmp_path / "usage.json").read_text())
        assert 0 < spent["cost"] <= 0.5
        before = len(server.requests)
        again = session()
        with pytest.raises(CostCeilingError, match=f"spent {spent['cost']:.4g} in {spent['requests']}"):
            administer(again, [GAD], Design(), tmp_path)
        assert len(server.requests) == before
        # with NaN no sum would be above the ceiling
        for odd in (
            "[]",
            "[" * 100_000,
            '{"cost": NaN}',
            '{"cost": -1}',
            '{"requests": "3"}',
            '{"cost": true}',
        ):
            (tmp_path / "usage.json").write_text(odd)
            with pytest.raises(ValueError, match="no record of what was spent"):
                administer(session(), [GAD], Design(), tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": 0.5}, "temperature is 1.0 there, 0.5 here"),
        ({"model": "other"}, "model is 'm' there, 'other' here"),
        ({"max_new_tokens": 8}, "max_new_tokens is 16 there, 8 here; take at least 16, or choose another"),
        ({"url": "http://127.0.0.1:9/v1"}, "url is "),
    ],
)
def test_a_resumed_administration_is_the_same_one(tmp_path, change, named):
    with serving(lambda n, body: (200, {}, completion("A"))) as server:
        first = client(server)
        administer(first, [GAD], Design(), tmp_path)
        settings = {"url": server.url, "model": "m", **change}
        with pytest.raises(ValueError, match=f"holds another administration: {named}"):
            administer(ApiRespondent(**settings), [GAD], Design(), tmp_path)


@pytest.mark.parametrize("judged", [False, True])
def test_the_limit_may_be_raised_and_asks_again_what_was_cut_off(tmp_path, judged):
    """What was read within the lower limit stays; without this, all of it would be paid for again."""
    replies = {
        ASKED[0].prompt: completion("B", "length"),
        ASKED[1].prompt: completion("Well, that depends on", "length"),
        ASKED[2].prompt: completion("", "length"),
        ASKED[3].prompt: completion("It is hard to say."),
    }

    def session(server, limit):
        who = client(server, max_new_tokens=limit)
        who = JudgedRespondent(who, Silent()) if judged else who
        return administer(who, [GAD], Design(), tmp_path)

    with serving(
        lambda n, body: (200, {}, replies.get(body["messages"][0]["content"], completion("B")))
    ) as server:
        first = session(server, 16)
        assert first["refusal"].tolist()[:4] == ["", "unreadable", "error", "unreadable"]
        replies.clear()
        before = len(server.requests)
        # also where the session that raises it is stopped
        server.raw = {before: lambda handler: handler.send_error(401)}
        with pytest.raises(ApiError, match="401"):
            session(server, 4000)
        again = session(server, 4000)
        assert again["refusal"].tolist() == ["", "", "", "unreadable", "", "", ""]
        asked = server.requests[before + 1 :]
        assert [body["messages"][0]["content"] for body in asked] == [q.prompt for q in ASKED[1:3]]
        assert {body["max_tokens"] for body in asked} == {4000}
        session(server, 4000)
        assert len(server.requests) == before + 3
        session(server, 5000)
        assert len(server.requests) == before + 3
        # within 5000 nothing was answered, so that the record does not claim it
        with pytest.raises(ValueError, match="take at least 4000"):
            session(server, 16)
    design = json.loads((tmp_path / "design.json").read_text())
    assert (design["max_new_tokens"], design["max_new_tokens before"]) == (4000, [16])
    assert limits_told(tmp_path, tmp_path / "absent") == {
        "max_new_tokens": "4000",
        "max_new_tokens before": "16",
    }


def test_a_limit_within_which_nothing_was_answered_locks_no_folder(tmp_path):
    """A server refuses a mistyped limit; the right one is then as good as before."""
    replies = {ASKED[n].prompt: completion("Well, that depends on", "length") for n in range(6)}

    def reply(n, body):
        if body["max_tokens"] > 9999:
            return 400, {}, "max_tokens is too large"
        return 200, {}, replies.get(body["messages"][0]["content"], completion("B"))

    def session(server, limit):
        return administer(client(server, max_new_tokens=limit), [GAD], Design(), tmp_path)

    def recorded():
        return limits_told(tmp_path)

    with serving(reply) as server:
        with pytest.raises(ApiError, match="too large"):
            session(server, 999_999)
        assert recorded() == {}
        first = session(server, 64)
        assert recorded() == {"max_new_tokens": "64"}
        with pytest.raises(ApiError, match="too large"):
            session(server, 999_999)
        assert recorded() == {"max_new_tokens": "64"}
        before = len(server.requests)
        assert session(server, 64).equals(first)
        assert len(server.requests) == before
        replies.clear()
        assert session(server, 256)["refusal"].tolist() == [""] * 7
    assert recorded() == {"max_new_tokens": "256", "max_new_tokens before": "64"}


def test_a_refusal_that_was_cut_off_is_asked_again(tmp_path):
    """ "I cannot say that I" may go on to an answer; a refusal that came to its end stays."""
    replies = {
        ASKED[0].prompt: completion("I cannot say that I", "length"),
        ASKED[1].prompt: completion("I cannot answer that."),
    }
    with serving(
        lambda n, body: (200, {}, replies.get(body["messages"][0]["content"], completion("B")))
    ) as server:
        first = administer(client(server), [GAD], Design(), tmp_path)
        assert first["refusal"].tolist()[:3] == ["refused", "refused", ""]
        replies.clear()
        again = administer(client(server, max_new_tokens=256), [GAD], Design(), tmp_path)
    assert again["refusal"].tolist()[:3] == ["", "refused", ""]


def test_answers_without_a_record_of_cuts_are_asked_again_where_the_limit_is_raised(tmp_path, capsys):
    """Folders from before cuts were recorded: what could not be read may have been cut off."""
    replies = {
        ASKED[0].prompt: completion("Well, that depends on", "length"),
        ASKED[1].prompt: completion("I cannot answer that."),
    }
    journal = tmp_path / "answers.jsonl"

    def session(server, limit):
        return administer(client(server, max_new_tokens=limit), [GAD], Design(), tmp_path)

    with serving(
        lambda n, body: (200, {}, replies.get(body["messages"][0]["content"], completion("B")))
    ) as server:
        session(server, 64)
        rows = [json.loads(line) for line in journal.read_text().splitlines()]
        assert [row.pop("cut_at") for row in rows] == [64, *[0] * 6]
        journal.write_text("".join(json.dumps(row) + "\n" for row in rows))
        before = len(server.requests)
        session(server, 64)
        assert len(server.requests) == before
        assert capsys.readouterr().err == ""
        replies[ASKED[0].prompt] = completion("It is hard to say.")
        again = session(server, 256)
        assert again["refusal"].tolist()[:3] == ["unreadable", "refused", ""]
        assert again["text"][0] == "It is hard to say."
        assert "1 unread answers may have been cut off at 64 tokens" in capsys.readouterr().err
        session(server, 256)
        assert len(server.requests) == before + 1
        assert capsys.readouterr().err == ""


def test_a_limit_at_which_nobody_tells_what_is_cut_off_stays(tmp_path):
    class Local:
        name, repeats_itself = "local", False

        def __init__(self, limit):
            self.settings = {"max_new_tokens": limit}

        def answer(self, questions):
            return ((number, chosen(question, 0)) for number, question in enumerate(questions))

    administer(Local(16), [GAD], Design(), tmp_path)
    with pytest.raises(ValueError, match="max_new_tokens is 16 there, 99 here; choose another folder"):
        administer(Local(99), [GAD], Design(), tmp_path)


def test_texts_that_fail_are_empty_and_said():
    said = []
    with serving(
        lambda n, body: (400, {}, FILTER) if n == 1 else (200, {}, completion("<think>x</think>Hi."))
    ) as server:
        assert client(server, said=said).write(["a", "b", "c"]) == ["Hi.", "", "Hi."]
    assert "content management policy" in said[0]


def test_the_limit_has_the_name_that_the_server_knows():
    with serving(lambda n, body: (200, {}, completion("A"))) as server:
        list(client(server, tokens_name="max_completion_tokens", max_new_tokens=4000).answer(ASKED[:1]))
    assert server.requests[0]["max_completion_tokens"] == 4000
    assert "max_tokens" not in server.requests[0]


def test_schemes_are_case_insensitive():
    with serving(lambda n, body: (200, {}, completion("A"))) as server:
        shouted = ApiRespondent(server.url.replace("http", "HTTP", 1), "m")
        assert [answer.position for _, answer in shouted.answer(ASKED[:1])] == [0]
