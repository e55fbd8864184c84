"""A judge reads what rules leave unread, and nothing else."""

import json

import pytest

from evals.models.api_client import ApiError
from evals.models.api_spending import CostCeilingError
from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design, battery
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.judge import TEXTS as AT_ONCE
from evals.questionnaires.judge import JudgedRespondent
from evals.questionnaires.reading import parse
from evals.questionnaires.respondents.api_server import ServerConfig
from tests.http_stub import completion, serving

GAD = battery(load_instrument("gad_7"))
TEXTS = ["B", "about half of them", "", "As an AI, I have no feelings.", "Every single day!", "A or B", "D"]


class Writing:
    name, repeats_itself = "writing", True

    def answer(self, questions):
        for number, question in enumerate(questions):
            yield number, parse(question, TEXTS[int(question.item[-1]) - 1])


class Reader:
    name = "reader"

    def __init__(self):
        self.prompts = []

    def write(self, prompts, seed=0):
        self.prompts += prompts
        return ["C" if "half of them" in p else "D." if "single day" in p else "N" for p in prompts]


def test_a_judge_reads_what_rules_leave_unread(tmp_path):
    judge = Reader()
    table = administer(JudgedRespondent(Writing(), judge), [GAD], Design(), tmp_path)
    assert len(judge.prompts) == 3
    assert all("A. Not at all\nB. Several days" in prompt for prompt in judge.prompts)
    assert table["refusal"].tolist() == ["", "", "empty", "refused", "", "unreadable", ""]
    assert table["read_by"].tolist() == ["", "reader", "", "", "reader", "", ""]
    assert table["response"].dropna().tolist() == [1, 2, 3, 3]
    assert table["text"][1] == TEXTS[1]
    # the record says that somebody judged, and an administration without is another one
    assert '"judge": "reader"' in (tmp_path / "design.json").read_text()
    with pytest.raises(ValueError, match="judge is 'reader' there, None here"):
        administer(Writing(), [GAD], Design(), tmp_path)


@pytest.mark.parametrize("status", [401, 400])
def test_a_judge_that_fails_leaves_answers_unread_and_the_run_goes_on(tmp_path, capsys, status):
    with serving(lambda n, body: (status, {}, "no")) as server:
        who = JudgedRespondent(Writing(), ServerConfig(server.url, "reader").judging(None))
        table = administer(who, [GAD], Design(), tmp_path, block=2)
    assert table["refusal"].tolist() == ["", "unreadable", "empty", "refused", "unreadable", "unreadable", ""]
    assert set(table["read_by"][table["refusal"] == "unreadable"]) == {"reader (failed)"}
    assert table["text"][1] == TEXTS[1]
    assert capsys.readouterr().err.count("judge reader failed") == (status == 401)
    assert json.loads((tmp_path / "design.json").read_text())["judge url"] == server.url


class Unclear:
    """Writes what rules cannot read, until somebody stops it."""

    name, repeats_itself = "unclear", True

    def __init__(self, stopped_after=10**9):
        self.stopped_after = stopped_after

    def answer(self, questions):
        for number, question in enumerate(questions):
            if number == self.stopped_after:
                raise KeyboardInterrupt
            yield number, parse(question, "Every single day!")


def kept(folder):
    """Who read the answers that the folder has."""
    lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["read_by"] for line in lines]


@pytest.mark.parametrize("fault", ["key", "ceiling", "down"])
def test_a_judge_that_fails_loses_no_reading_that_it_gave(tmp_path, fault):
    def reply(n, body):
        return (200, {}, completion("C")) if n < 3 or fault == "ceiling" else (status, {}, "no")

    # a reading costs 0.1, and the most that the next may cost goes by its bytes
    ceiling, status = 0.95 if fault == "ceiling" else None, 401 if fault == "key" else 400
    with serving(reply) as server:
        config = ServerConfig(server.url, "reader", concurrency=1, prompt_price=1000.0)
        who = JudgedRespondent(Unclear(), config.judging(ceiling))
        administer(who, [GAD], Design(option_orders=("forward", "reversed")), tmp_path)
        spent = json.loads((tmp_path / "usage.json").read_text())
    paid = spent["requests"]
    assert paid == 3 or (fault == "ceiling" and 3 < paid < 14)
    assert kept(tmp_path) == ["reader"] * paid + ["reader (failed)"] * (14 - paid)


def test_a_judge_that_failed_is_asked_again_by_the_next_questions_only(tmp_path):
    with serving(lambda n, body: (401, {}, "no") if n == 0 else (200, {}, completion("C"))) as server:
        config = ServerConfig(server.url, "reader", concurrency=1)
        who = JudgedRespondent(Unclear(), config.judging(None))
        design = Design(option_orders=("forward", "reversed", "shuffled-1", "shuffled-2", "shuffled-3"))
        administer(who, [GAD], design, tmp_path, block=20)
    # 20 are more than are put to it at once
    assert kept(tmp_path) == ["reader (failed)"] * 20 + ["reader"] * 15


def test_who_stops_a_run_loses_no_reading_that_there_is(tmp_path):
    class Stopped(Reader):
        def write_each(self, prompts, seed=0):
            yield from enumerate(["C"] * 5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        administer(JudgedRespondent(Unclear(), Stopped()), [GAD], Design(), tmp_path)
    assert kept(tmp_path) == ["reader"] * 5
    table = administer(JudgedRespondent(Unclear(), Reader()), [GAD], Design(), tmp_path)
    assert set(table["read_by"]) == {"reader"}


def test_few_answers_wait_for_the_judge(tmp_path):
    design = Design(option_orders=("forward", "reversed", "shuffled-1", "shuffled-2", "shuffled-3"))
    with pytest.raises(KeyboardInterrupt):
        administer(JudgedRespondent(Unclear(stopped_after=34), Reader()), [GAD], design, tmp_path)
    assert kept(tmp_path) == ["reader"] * (2 * AT_ONCE)


def test_a_respondent_that_fails_loses_no_answer_that_waits_for_the_judge(tmp_path):
    class Ending(Writing):
        def answer(self, questions):
            yield from [one for _, one in zip(range(2), super().answer(questions), strict=False)]
            raise ApiError("no such key")

    with pytest.raises(ApiError, match="no such key"):
        administer(JudgedRespondent(Ending(), Reader()), [GAD], Design(), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["read_by"] for row in rows] == ["", "reader"]


def test_respondent_and_judge_are_paid_from_one_account_up_to_one_ceiling(tmp_path):
    def reply(n, body):
        return 200, {}, completion("C" if "Letter:" in body["messages"][0]["content"] else "about half")

    with serving(reply) as server:
        config = ServerConfig(server.url, "m", prompt_price=1000.0)
        judge = ServerConfig(server.url, "j", prompt_price=2000.0)
        # 100 tokens cost 0.1 to answer and 0.2 to judge; what a prompt may cost goes by its bytes
        administer(JudgedRespondent(config.client(), judge.judging(99.0)), [GAD], Design(), tmp_path)
        spent = json.loads((tmp_path / "usage.json").read_text())
        assert (spent["requests"], round(spent["cost"], 9)) == (14, 2.1)
        again = judge.judging(2.11)
        again.account(tmp_path / "usage.json")
        with pytest.raises(CostCeilingError, match=r"ceiling of 2.11 \(spent 2.1 in 14 requests"):
            again.write(["a"])


def test_a_judge_without_prices_is_refused_under_a_ceiling():
    with pytest.raises(ValueError, match=r"judge j needs a prompt_price or completion_price .* ceiling of 2"):
        ServerConfig("http://x/v1", "j").judging(2.0)
    assert ServerConfig("http://x/v1", "j", cost_ceiling=1, prompt_price=1).judging(2.0).cost_ceiling == 1
