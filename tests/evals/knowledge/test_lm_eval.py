"""Published data sets as lm-evaluation-harness puts and scores them (tests/goldens/lm_eval/make.py)."""

import json

import numpy as np
import pytest

import jaxmoe
from evals.knowledge import final_answers
from evals.knowledge.multiple_choice import choice_records
from evals.knowledge.prompts import draw_shots, template
from evals.knowledge.questions import load_questions
from evals.knowledge.reasoned import reasoned_records
from evals.models.local_model import LocalModel
from jaxmoe.tokenizer import load_tokenizer
from tests.tiny_checkpoints import float32_logits
from tests.tolerances import rounding_bound

FILES = {
    "arc": ("arc_test", "arc_train"),
    "mmlu": ("mmlu_test", "mmlu_dev"),
    "hellaswag": ("hellaswag_val", "hellaswag_train"),
    "gsm8k": ("gsm8k_test", "gsm8k_train"),
}


@pytest.fixture(scope="module")
def folder(goldens):
    return goldens / "lm_eval"


@pytest.fixture(scope="module")
def values(folder):
    return json.loads((folder / "values.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(folder):
    return LocalModel(jaxmoe.load(folder / "model"), load_tokenizer(folder / "model"), "text", batch_size=8)


def asked(folder, name, shots):
    """The rows of a data set as questions, its template, and the first examples of its training part."""
    test, train = (load_questions(folder / "rows" / f"{file}.jsonl").all for file in FILES[name])
    return test, template("lm_eval", test[0].suite), draw_shots(train, shots, against=test, order="first")


def bound(model, length: int, tokens: int, total: float) -> float:
    """How far two float32 sums of log-probabilities may lie apart: each by a logit and a normalizer."""
    # no logit of this model is beyond 8
    each = 2 * float32_logits(model.lm.config, length, 8.0)
    return tokens * each + rounding_bound(tokens + 1, abs(total))


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("name", ["arc", "mmlu", "hellaswag"])
def test_log_probabilities_and_accuracies_are_those_of_the_harness(folder, values, model, name, shots):
    questions, form, examples = asked(folder, name, shots)
    records = choice_records(model, questions, form, shots=examples)
    expected = values[name][str(shots)]
    assert len(records) == len(expected)
    for record, item in zip(records, expected, strict=True):
        # the harness, too, counts blanks before the continuation to it
        assert [record.prompt.rstrip(), *(form.continuation(choice) for choice in record.choices)] == [
            item["prompt"].rstrip(),
            *item["choices"],
        ]
        assert record.correct["acc"] == item["acc"]
        assert record.correct["acc_norm"] == item.get("acc_norm", item["acc"])
        for ours, theirs, tokens in zip(record.logprobs, item["logprobs"], record.tokens, strict=True):
            assert abs(ours - theirs) <= bound(model, len(record.prompt), tokens, theirs)


@pytest.mark.parametrize("shots", [0, 2])
def test_gsm8k_is_put_and_answered_as_in_the_harness(folder, values, model, shots):
    questions, form, examples = asked(folder, "gsm8k", shots)
    records = reasoned_records(model, questions, form, shots=examples, max_new_tokens=24)
    expected = values["gsm8k"][str(shots)]
    assert [(r.prompt, r.response) for r in records] == [(i["prompt"], i["response"]) for i in expected]
    for record, item in zip(records, expected, strict=True):
        assert record.scores == {
            "strict_match": item["strict-match"],
            "flexible_extract": item["flexible-extract"],
        }


def test_numbers_are_found_and_compared_as_in_the_harness(values):
    for item in values["filters"]:
        gold = item["answer"].split("####")[-1].strip()
        for find, key in (
            (final_answers.strict_number, "strict-match"),
            (final_answers.flexible_number, "flexible-extract"),
        ):
            number, score = item[key]
            found = find(item["response"])
            assert (found or "[invalid]") == number, item
            assert final_answers.same_number(found, gold) == bool(score), item


def test_the_harness_finds_right_and_wrong_in_the_goldens(values):
    """Else the comparison above could not fail."""
    for name in ("arc", "mmlu", "hellaswag"):
        items = [item for shots in ("0", "2") for item in values[name][shots]]
        accuracies = [item[key] for item in items for key in ("acc", "acc_norm") if key in item]
        assert 0 < np.mean(accuracies) < 1, name
    scores = np.asarray(
        [[item[k][1] for k in ("strict-match", "flexible-extract")] for item in values["filters"]]
    )
    assert ((scores.mean(axis=0) > 0) & (scores.mean(axis=0) < 1)).all()
