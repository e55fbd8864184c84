"""Grading: each program once, rewards and masks of every row."""

from concurrent.futures import Future

import numpy as np

from jaxmoe.datasets.programs import pretraining_texts, problems
from jaxmoe.tokenizer import train_bpe
from rl.feedback.language import CompilerFeedback, Executed
from rl.feedback.problems import Problem
from rl.feedback.prompts import extract
from rl.policy.trajectory import Rollout
from rl.stepcoder.grading import Grading
from rl.stepcoder.program_end import answer_tokens
from rl.stepcoder.prompts import ResponseDecoder, make_prompt
from rl.stepcoder.rollouts import RolloutTask, Sampled, SampledRow

ROWS = problems(12)
TOKENIZER = train_bpe([text for text, _ in zip(pretraining_texts(200), range(200), strict=True)], 512)


def a_problem(number=0):
    row = ROWS[number]
    return Problem(
        **{k: row[k] for k in ("id", "prompt", "starter_code", "canonical_solution", "fn_name")},
        inputs=row["inputs"],
        outputs=row["outputs"],
    )


class Graders:
    """Passes programs that hold a word; counts what it is given."""

    def __init__(self, word):
        self.word, self.seen = word, []

    def submit(self, problem, program):
        self.seen.append(program)
        passed = self.word in program
        executed = Executed(((0, len(program) // 2),), 1, 1)
        feedback = CompilerFeedback("pass" if passed else "fail", 1.0 if passed else -0.3, executed=executed)
        future: Future = Future()
        future.set_result(feedback)
        return future


def sampled(programs):
    problem = a_problem()
    prompt = make_prompt(TOKENIZER, problem)
    decode = ResponseDecoder(TOKENIZER)
    ids = [TOKENIZER(p, add_special_tokens=False)["input_ids"] for p in programs]
    width = max(map(len, ids)) + 1
    mask = np.asarray([[float(i <= len(row)) for i in range(width)] for row in ids], np.float32)
    tokens = np.asarray([[*row, *[TOKENIZER.eos_token_id] * (width - len(row))] for row in ids], np.int32)
    task = RolloutTask(problem, prompt, 50)
    rows = []
    for row in ids:
        response = decode(prompt.ids, [*row, TOKENIZER.eos_token_id])
        found = extract(problem, response.text, "completion", given=prompt.given)
        rows.append(SampledRow(task, response, found))
    prompts = np.asarray([prompt.ids], np.int32)
    return Sampled(
        Rollout(prompts, np.ones_like(prompts), tokens, mask), np.zeros(len(ids), bool), rows, 0, 1.0
    )


def test_equal_programs_are_run_once_and_all_are_rewarded():
    given = sampled(["\n    return n", "\n    return 7", "\n    return n"])
    graders = Graders("return n")
    graded = Grading(graders, given).result("response")
    assert len(graders.seen) == 2
    np.testing.assert_allclose(graded.outcomes.rewards_B, [1.0, -0.3, 1.0])
    np.testing.assert_array_equal(graded.passed, [True, False, True])
    np.testing.assert_array_equal(graded.outcomes.policy_mask_BW, given.rollout.response_mask_BW)


def test_tokens_that_did_not_run_are_left_out_of_the_policy_mask_alone():
    given = sampled(["\n    if n > 3:\n        n = 4\n    return n"])
    graded = Grading(Graders("return"), given).result("fgo")
    mask, whole = graded.outcomes.policy_mask_BW[0], given.rollout.response_mask_BW[0]
    _, response, (program, *_) = given.rows[0]
    shift = len(given.rows[0][0].prompt.given)
    for kept, (start, end) in zip(mask, response.offsets, strict=True):
        assert kept == (start == end or start + shift < len(program) // 2)
    assert mask[-1] == whole[-1] == 1  # the end of sequence is always kept
    assert 0 < mask.sum() < whole.sum()


def test_nothing_is_learned_from_what_follows_the_program():
    """A third of the tokens here are behind it; white space and an end of turn right behind it count."""
    program = "\n    return n\n"
    given = sampled([program + "\nprint(f(3))\n", program])
    graded = Grading(Graders("return"), given).result("response")
    for row, mask in zip(given.rows, graded.outcomes.policy_mask_BW, strict=True):
        kept = int(mask.sum())
        assert (mask[:kept] == 1).all()
        assert kept == answer_tokens(row.response, row.extracted.end)
    first, second = graded.outcomes.policy_mask_BW.sum(1)
    assert all(
        start < given.rows[0].extracted.end for start, _ in given.rows[0].response.offsets[: int(first)]
    )
    assert second == given.rollout.response_mask_BW[1].sum()
    np.testing.assert_array_equal(graded.outcomes.truncated_B, [0.0, 0.0])


def test_programs_are_graded_as_they_come():
    """In the order in which they end; verdicts go to the rows that they belong to, and none is left out."""
    given = sampled(["\n    return n", "\n    return 7", "\n    return n", "\n    return 8"])
    graders = Graders("return n")
    grading = Grading(graders)
    for number in (3, 0):
        grading.add(number, given.rows[number])
    assert graders.seen == [given.rows[number].extracted.program for number in (3, 0)]
    grading.complete(given)
    graded = grading.result("response")
    np.testing.assert_array_equal(graded.passed, [True, False, True, False])
    assert len(graders.seen) == 3
    assert 0 <= graded.waited_s <= graded.seconds
