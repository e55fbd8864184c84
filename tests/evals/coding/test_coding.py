"""pass@k by enumeration, and a whole evaluation with a scripted model."""

import itertools
import json
import math
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.coding.measure import SampleRecord, evaluate, summarize
from evals.coding.pass_at_k import pass_at_k
from rl.feedback.problems import Problem
from rl.feedback.prompts import code_prompt

EXACT = 1e-12


@given(st.integers(1, 60), st.data())
def test_pass_at_k_equals_the_binomials(n, data):
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    exact = 1 - math.comb(n - c, k) / math.comb(n, k)
    assert pass_at_k(n, c, k)[0] == pytest.approx(exact, rel=EXACT, abs=EXACT)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample():
    right = [True, True, False, False, False]
    subsets = list(itertools.combinations(right, 3))
    assert pass_at_k(5, 2, 3)[0] == pytest.approx(sum(map(any, subsets)) / len(subsets), rel=EXACT)


def test_pass_at_k_reductions():
    n = np.arange(1, 9)
    np.testing.assert_allclose(pass_at_k(n, n // 2, 1), (n // 2) / n, rtol=EXACT)
    np.testing.assert_array_equal(pass_at_k(n, n, 1), 1.0)
    np.testing.assert_array_equal(pass_at_k(8, 0, 3), 0.0)
    # with one wrong sample, two always hold a right one
    np.testing.assert_array_equal(pass_at_k(n[1:], n[1:] - 1, 2), 1.0)


def test_pass_at_k_is_nan_where_there_are_too_few_samples():
    np.testing.assert_array_equal(np.isnan(pass_at_k([1, 4, 9], [1, 4, 9], 5)), [True, True, False])


def test_pass_at_k_survives_large_and_small_numbers():
    # c = 1: exactly k / n, a difference of 1e-9 that 1 − (1 − c/n) would blur
    assert pass_at_k(1e9, 1, 1)[0] == pytest.approx(1e-9, rel=EXACT)
    assert pass_at_k(10_000, 1, 3_000)[0] == pytest.approx(0.3, rel=1e-9)


def test_pass_at_k_is_unbiased():
    """The mean over draws of n = 6 at p = 0.3 is 1 − 0.7³, to four of its standard errors."""
    c = np.random.default_rng(0).binomial(6, 0.3, size=40_000)
    estimates = pass_at_k(6, c, 3)
    error = estimates.std() / math.sqrt(len(c))
    assert abs(estimates.mean() - (1 - 0.7**3)) < 4 * error
    plugged_in = 1 - (1 - c / 6) ** 3
    assert abs(plugged_in.mean() - (1 - 0.7**3)) > 10 * error


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (2.5, 1, 1)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="pass@k"):
        pass_at_k(n, c, k)


class ScriptedModel:
    """Writes a right program for the first `right[id]` samples of a problem, then wrong ones."""

    def __init__(self, right):
        self.right, self.seeds = right, []

    def generate(self, prompts, max_new_tokens, stop=(), *, temperature=0.0, top_p=1.0, samples=1, seed=0):
        self.seeds.append(seed)
        texts = []
        for prompt in prompts:
            good = next(count for name, count in self.right.items() if f"p{name}(" in prompt)
            texts += ["\n    return 1"] * good + ["\n    return 0"] * (samples - good)
        return texts

    def logprob(self, prompts, continuations):
        raise AssertionError("coding does not score continuations")


@dataclass
class FakeFeedback:
    verdict: str


class FakePool:
    def grade_many(self, pairs, /):
        return [FakeFeedback("pass" if "return 1" in text else "fail") for _, text in pairs]


PROBLEMS = [
    Problem(f"t/{n}", f"p{n}", f"def p{n}():", fn_name=f"p{n}", inputs=[[]], outputs=[1], difficulty=level)
    for n, level in enumerate(["easy", "easy", "hard"])
]


def test_an_evaluation_by_hand():
    model = ScriptedModel({0: 4, 1: 2, 2: 0})
    result = evaluate(model, PROBLEMS, FakePool(), samples=4, ks=(1, 2), chunk=2)
    assert result.scores["pass@1"].value == pytest.approx((1 + 0.5 + 0) / 3)
    # of the 6 pairs of t/1's samples, 1 holds no right one
    assert result.scores["pass@2"].value == pytest.approx((1 + 5 / 6 + 0) / 3)
    assert result.by_difficulty["easy"]["pass@1"].value == pytest.approx(0.75)
    assert result.by_difficulty["hard"]["pass@2"].value == 0.0
    assert result.verdicts == {"pass": 6, "fail": 6}
    assert result.scores["pass@1"].standard_error == pytest.approx(0.5 / math.sqrt(3))
    assert Counter(r.task_id for r in result.records) == {"t/0": 4, "t/1": 4, "t/2": 4}
    assert [r.sample for r in result.records[:4]] == [0, 1, 2, 3]
    # chunks must not share a seed
    assert len(set(model.seeds)) == len(model.seeds) == 2


def test_too_few_samples_say_so():
    result = evaluate(ScriptedModel({0: 1, 1: 0, 2: 0}), PROBLEMS, FakePool(), samples=2, ks=(1, 5))
    assert math.isnan(result.scores["pass@5"].value)
    assert result.scores["pass@5"].reason == "3 of 3 problems have fewer than 5 samples"
    assert not math.isnan(result.scores["pass@1"].value)


def test_samples_read_back_give_the_same_result():
    result = evaluate(ScriptedModel({0: 2, 1: 1, 2: 0}), PROBLEMS, FakePool(), samples=2, ks=(1, 2))
    lines = [json.dumps(item) for item in result.items()]
    assert {"task_id", "completion", "verdict", "passed"} <= json.loads(lines[0]).keys()
    again = summarize([SampleRecord(**json.loads(line)) for line in lines], (1, 2))
    assert again == result


def test_one_sample_each_has_wilsons_interval():
    result = evaluate(ScriptedModel({0: 1, 1: 1, 2: 0}), PROBLEMS, FakePool())
    assert result.scores["pass@1"].interval == "wilson"


def test_a_pool_that_fails_is_heard_of():
    class Broken:
        def grade_many(self, pairs, /) -> list[FakeFeedback]:
            raise RuntimeError("no sandbox")

    with pytest.raises(RuntimeError, match="no sandbox"):
        evaluate(ScriptedModel({0: 1, 1: 1, 2: 0}), PROBLEMS, Broken())


class Oracle:
    """Answers with the canonical solution, as a completion or in a fence between words."""

    def __init__(self, problems, form):
        self.answers = {code_prompt(p, form).text: p.canonical_solution for p in problems}
        self.form = form

    def generate(self, prompts, max_new_tokens, stop=(), *, temperature=0.0, top_p=1.0, samples=1, seed=0):
        if self.form == "chat":
            return [f"Here:\n```python\n{self.answers[p].strip()}\n```\nDone." for p in prompts]
        return [self.answers[p].removeprefix(p) + "\nprint('and on')\n" for p in prompts]

    logprob = ScriptedModel.logprob


@pytest.mark.parametrize("form", ["completion", "chat"])
def test_published_solutions_pass_as_responses(shared, form):
    """Prompt, cut, extraction and sandbox together lose none of 40 HumanEval and 40 MBPP solutions."""
    from rl.feedback.pool import Limits, Pool
    from rl.feedback.readers import load_problems

    for name in ("HumanEval.jsonl.gz", "mbpp.jsonl"):
        problems = load_problems(shared / "data" / "code" / name, bad="skip")[:40]
        with Pool(workers=2, limits=Limits(time_s=5)) as pool:
            result = evaluate(Oracle(problems, form), problems, pool, form=form)
        assert [r.task_id for r in result.records if not r.passed] == []


def test_bad_settings_are_refused():
    model, pool = ScriptedModel({}), FakePool()
    for arguments, message in [
        (([], {}), "at least one problem"),
        ((PROBLEMS[:1] * 2, {}), "t/0 occurs 2 times"),
        ((PROBLEMS, {"samples": 0}), "samples must be at least 1"),
        ((PROBLEMS, {"ks": (0,)}), "ks must be whole numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate(model, arguments[0], pool, **arguments[1])
    with pytest.raises(ValueError, match="at least one graded sample"):
        summarize([])


class TellingModel(ScriptedModel):
    """Tells its texts from the last to the first."""

    def generate_each(self, prompts, max_new_tokens, stop=(), *, on_text, **how):
        texts = self.generate(prompts, max_new_tokens, stop, **how)
        for place in reversed(range(len(texts))):
            on_text(place, texts[place])
        self.written = True
        return texts


class OneByOne(FakePool):
    """Grades a program when it is handed in, in the order in which they come."""

    def __init__(self, model):
        self.model, self.seen = model, []

    def submit(self, problem, program, /):
        assert not getattr(self.model, "written", False)
        self.seen.append(problem.id)
        future = Future()
        future.set_result(self.grade_many([(problem, program)])[0])
        return future


def test_a_model_that_tells_its_texts_has_each_graded_at_once():
    model = TellingModel({0: 2, 1: 1, 2: 0})
    grader = OneByOne(model)
    result = evaluate(model, PROBLEMS, grader, samples=2, ks=(1, 2))
    assert grader.seen == ["t/2", "t/2", "t/1", "t/1", "t/0", "t/0"]
    assert result == evaluate(ScriptedModel({0: 2, 1: 1, 2: 0}), PROBLEMS, FakePool(), samples=2, ks=(1, 2))
