"""Replies in dialogues: those of requests that failed are asked for again, and no others."""

import pandas as pd
import pytest

from evals.questionnaires import dialogues, planned_behavior
from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design, battery
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondents.api_respondent import ApiRespondent
from evals.questionnaires.respondents.simulated import simulated_respondent
from evals.questionnaires.wording import Persona
from tests.http_stub import completion, serving

# more than are written together
PERSONAS = tuple(Persona(f"p{n}", f"You are number {n}.", ()) for n in range(6))
LINE = (200, {}, completion("I would love to come to the party."))
FAILED, FILTERED = (400, {}, "bad prompt"), (400, {}, "blocked by the content filter")
# a text that is cut off before it ends a thought is empty, and stays so
CUT = (200, {}, completion("<think>Well", "length"))


def writer(server):
    return ApiRespondent(server.url, "m", concurrency=1, sleep=lambda s: None, say=lambda line: None)


def prompts_of(server):
    return [body["messages"][0]["content"] for body in server.requests]


def dialogues_kept(server, folder):
    return dialogues.kept(writer(server), PERSONAS, folder)


def planned_kept(server, folder):
    asked = battery(load_instrument(planned_behavior.INSTRUMENT))
    answers = administer(simulated_respondent("midpoint"), asked, Design(personas=PERSONAS))
    return planned_behavior.kept(writer(server), PERSONAS, answers, folder)


@pytest.mark.parametrize("kept", [dialogues_kept, planned_kept])
def test_replies_that_failed_are_asked_for_again(tmp_path, capsys, kept):
    odd = {0: FAILED, 2: FILTERED, 4: CUT}
    with serving(lambda n, body: odd.get(n, LINE)) as server:
        first = kept(server, tmp_path)
        each = len(server.requests) // len(PERSONAS)
    whole = prompts_of(server)
    assert first["text"].isna().tolist() == [True] + [False] * (len(whole) - 1)
    assert (first["text"] == "").sum() == 2
    assert f"1 of {len(whole)} replies are missing, as their requests failed" in capsys.readouterr().err
    # the first fails again, as does one of the last block
    (path,) = tmp_path.glob("*.parquet")
    table = pd.read_parquet(path)
    table.loc[5 * each, "text"] = None
    table.to_parquet(path)
    with serving(lambda n, body: FAILED if n == 0 else LINE) as server:
        kept(server, tmp_path)
    assert prompts_of(server) == [whole[0], whole[5 * each]]
    with serving(lambda n, body: LINE) as server:
        last = kept(server, tmp_path)
    assert prompts_of(server) == [whole[0]]
    keys = list(first.columns[: list(first.columns).index("text")])
    assert last["text"].notna().all()
    assert len(last) == len(first)
    assert set(last[keys].itertuples(index=False, name=None)) == set(
        first[keys].itertuples(index=False, name=None)
    )
    assert last.tail(1)[keys].to_numpy().tolist() == first.head(1)[keys].to_numpy().tolist()
    with serving(lambda n, body: LINE) as server:
        assert kept(server, tmp_path).equals(last)
        assert server.requests == []


def test_a_kill_between_blocks_forgets_no_failure(tmp_path, monkeypatch):
    """The failures of personas whose turn has not come stay marked."""
    with serving(lambda n, body: LINE) as server:
        table = dialogues_kept(server, tmp_path)
        each = len(server.requests) // len(PERSONAS)
    table.loc[[0, 5 * each], "text"] = None
    table.to_parquet(tmp_path / "replies.parquet")
    monkeypatch.setattr(dialogues, "BLOCK", 1)
    refusing = serving(lambda n, body: LINE if n == 0 else (401, {}, "no key"))
    with refusing as server, pytest.raises(ValueError, match="401"):
        dialogues_kept(server, tmp_path)
    left = pd.read_parquet(tmp_path / "replies.parquet")
    assert left["text"].isna().sum() == 1
