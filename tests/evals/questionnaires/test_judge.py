"""A judge reads what rules leave unread, and nothing else."""

import pytest

from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design, battery
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.judge import JudgedRespondent
from evals.questionnaires.reading import parse

GAD = battery(load_instrument("gad_7"))
TEXTS = ["B", "about half of them", "", "As an AI, I have no feelings.", "Every single day!", "A or B", "D"]


class Writing:
    name, repeats_itself = "writing", True

    def answer(self, questions):
        for number, question in enumerate(questions):
            yield number, parse(question, TEXTS[number])


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
