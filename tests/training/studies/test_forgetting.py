"""What practice costs a base: facts that are known, answers that it drew, models some way from it."""

import json

import numpy as np
import pytest

from evals.knowledge.questions import ClosedBookQuestion
from evals.models.local_model import LocalModel
from jaxmoe.tokenizer import plain_ids
from tests.training.studies.tiny_base import SAME, moved
from training.studies.stepcoder import forgetting
from training.studies.stepcoder.forgetting import Forgetting, ForgettingConfig, of_base

CONFIG = ForgettingConfig(rows=4)


@pytest.fixture
def facts(base, tokenizer, monkeypatch):
    """Five facts, of which the base completes the first three: what it says."""
    stems = ["Lima is", "Quito lies", "the capital"]
    said = LocalModel(base, tokenizer, "text", 4).generate(stems, 3)
    known = [(stem, text.strip()) for stem, text in zip(stems, said, strict=True)]
    assert all(answer for _, answer in known)
    asked = [
        ClosedBookQuestion(stem, stem, (answer,), stem=stem)
        for stem, answer in [*known, ("who", "lamp lamp"), ("me and", "Quito Quito")]
    ]
    monkeypatch.setattr(forgetting, "closed_book_questions", lambda split, relations, limit: asked[:limit])


@pytest.fixture
def prompts(tokenizer):
    return [plain_ids(tokenizer, text) for text in ("who sings?", "the", "Lima is the capital", "me", "red")]


def test_a_base_keeps_what_it_knows_and_is_nowhere_else(facts, prompts, base, tokenizer):
    found = of_base(CONFIG, base, tokenizer, prompts, 6)
    assert (found["asked"], found["known"]) == (5, [0, 1, 2])
    assert [text["ids"][: text["start"]] for text in found["texts"]] == prompts
    assert all(0 < len(text["ids"]) - text["start"] <= 6 for text in found["texts"])
    again = Forgetting(CONFIG, base, tokenizer, json.loads(json.dumps(found))).of(base)
    assert (again["completed"], again["kept"]) == (1.0, "111")
    assert again["kl"]["own"] == pytest.approx({"forward": 0, "backward": 0}, abs=SAME)


def test_the_further_a_model_has_moved_the_further_it_is(facts, prompts, base, tokenizer):
    asked = Forgetting(CONFIG, base, tokenizer, of_base(CONFIG, base, tokenizer, prompts, 6))
    near, far = (asked.of(moved(base, size)) for size in (0.01, 1.0))
    for where in ("own", "prompts"):
        assert 0 < near["kl"][where]["forward"] < far["kl"][where]["forward"]
    assert far["completed"] == np.mean([int(mark) for mark in far["kept"]]) < 1


def test_the_number_of_rows_changes_no_answer(facts, base, tokenizer, prompts):
    """Greedy marks and texts of one batch; draws depend on the batch, so there is one in both."""
    wide, wider = (of_base(ForgettingConfig(rows=rows), base, tokenizer, prompts[:4], 6) for rows in (4, 8))
    assert wide["known"] == wider["known"]


def test_a_base_that_knows_nothing_is_refused(base, tokenizer, prompts, monkeypatch):
    nonsense = [ClosedBookQuestion("a", "who", ("lamp lamp",), stem="who")]
    monkeypatch.setattr(forgetting, "closed_book_questions", lambda *asked: nonsense)
    with pytest.raises(ValueError, match="completes none of the 1 facts"):
        of_base(CONFIG, base, tokenizer, prompts, 6)


def test_fewer_than_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        ForgettingConfig(facts=0)
