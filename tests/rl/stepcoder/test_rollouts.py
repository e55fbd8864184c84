"""Rollouts: prompts and programs fit together, offsets, grading once and by process, order of problems."""

from concurrent.futures import Future

import jax
import numpy as np
import pytest

from jaxmoe.datasets.programs import pretraining_texts, problems
from jaxmoe.generation.sampling import Sampling
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import train_bpe
from rl.feedback.language import CompilerFeedback, Executed
from rl.feedback.problems import Problem
from rl.feedback.prompts import extract
from rl.policy.trajectory import Rollout
from rl.stepcoder.prompts import ResponseDecoder, make_prompt
from rl.stepcoder.rollouts import Grading, RolloutConfig, Sampled, Sampler, Task, problems_of_round

ROWS = problems(12)
TOKENIZER = train_bpe([text for text, _ in zip(pretraining_texts(200), range(200), strict=True)], 512)


def a_problem(number=0):
    row = ROWS[number]
    return Problem(
        **{k: row[k] for k in ("id", "prompt", "starter_code", "canonical_solution", "fn_name")},
        inputs=row["inputs"],
        outputs=row["outputs"],
    )


def test_prompt_and_completion_make_the_canonical_program():
    """The prompt's tokens and the completion's are those of the whole text, as it stands in pretraining."""
    for number in range(len(ROWS)):
        problem = a_problem(number)
        prompt = make_prompt(TOKENIZER, problem)
        text = f'"""\n{problem.prompt}\n"""\n{problem.canonical_solution}'
        whole = TOKENIZER(text)["input_ids"]
        assert whole[: len(prompt.ids)] == prompt.ids
        response = ResponseDecoder(TOKENIZER)(prompt.ids, whole[len(prompt.ids) :])
        extracted = extract(problem, response.text, "completion", given=prompt.given)
        assert extracted.program == problem.canonical_solution


def test_a_curriculum_prefix_is_what_the_program_begins_with():
    from rl.stepcoder.curriculum import prefixes

    problem = a_problem(2)
    for prefix in prefixes(problem.canonical_solution)[1:]:
        prompt = make_prompt(TOKENIZER, problem, prefix)
        assert prompt.given == prefix.rstrip()
        whole = TOKENIZER(f'"""\n{problem.prompt}\n"""\n{problem.canonical_solution}')["input_ids"]
        assert whole[: len(prompt.ids)] == prompt.ids


def test_chat_prompts_open_a_code_block_for_the_beginning_of_a_solution_alone():
    whole = make_prompt(TOKENIZER, a_problem(), form="chat")
    assert whole.given == ""
    assert "Answer with the whole program in one code block." in TOKENIZER.decode(whole.ids)
    begun = make_prompt(TOKENIZER, a_problem(), "def f(n):\n    ", form="chat")
    assert begun.ids[: len(whole.ids)] == whole.ids
    assert TOKENIZER.decode(begun.ids).endswith("```python\ndef f(n):")
    assert begun.given == "def f(n):"


def test_a_statement_that_the_code_holds_is_not_told_twice():
    problem = Problem(
        id="h", prompt='def f():\n    """Say it."""\n', starter_code='def f():\n    """Say it."""\n'
    )
    assert TOKENIZER.decode(make_prompt(TOKENIZER, problem).ids).count("Say it.") == 1


def test_offsets_are_the_characters_of_each_token():
    ids = TOKENIZER("\n    if n < 5:\n        n = n + 3\n é€", add_special_tokens=False)["input_ids"]
    response = ResponseDecoder(TOKENIZER)([5], [*ids, TOKENIZER.eos_token_id])
    assert response.offsets[0][0] == 0
    assert response.offsets[-1] == (len(response.text), len(response.text))  # the end of sequence has none
    for (_, end), (start, _) in zip(response.offsets, response.offsets[1:], strict=False):
        assert end == start
    pieces = [TOKENIZER.decode([i]) for i in ids[:6]]
    assert [response.text[a:b] for a, b in response.offsets[:6]] == pieces


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
    task = Task(problem, prompt, 50)
    rows = []
    for row in ids:
        response = decode(prompt.ids, [*row, TOKENIZER.eos_token_id])
        rows.append((task, response, extract(problem, response.text, "completion", given=prompt.given)))
    prompts = np.asarray([prompt.ids], np.int32)
    return Sampled(Rollout(prompts, np.ones_like(prompts), tokens, mask), np.zeros(len(ids), bool), rows, 1.0)


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


def test_problems_come_in_shuffled_passes_that_depend_on_the_round_alone():
    rounds = [problems_of_round(i, 10, 4, seed=3) for i in range(5)]
    stream = [number for chosen in rounds for number in chosen]
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]
    assert problems_of_round(3, 10, 4, seed=3) == rounds[3]
    assert sorted(problems_of_round(0, 3, 6, seed=0)) == [0, 0, 1, 1, 2, 2]


def test_sampling_respects_limits_stop_tokens_and_keys():
    config = ModelConfig(
        vocab_size=512,
        hidden_size=16,
        intermediate_size=24,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
    )
    parts = params.split(params.build(config, std=0.3), "all")
    eos = TOKENIZER.eos_token_id
    sampler = Sampler(parts.definition, params.single_device_mesh(), TOKENIZER, (eos,), 0, "float32")
    tasks = [
        Task(a_problem(i), make_prompt(TOKENIZER, a_problem(i)), limit) for i, limit in ((0, 5), (1, 30))
    ]
    rollout = RolloutConfig(smallest_bucket=32)

    def sample(seed):
        return sampler.sample(
            parts.trainable,
            parts.frozen,
            tasks,
            rollout,
            samples=3,
            sampling=Sampling(1.0),
            key=jax.random.key(seed),
        )

    first, again, other = sample(0), sample(0), sample(1)
    np.testing.assert_array_equal(first.rollout.responses_BW, again.rollout.responses_BW)
    assert (first.rollout.responses_BW != other.rollout.responses_BW).any()
    lengths = first.rollout.response_mask_BW.sum(1)
    assert (lengths[:3] <= 5).all()
    assert (lengths[3:] <= 30).all()
    ends = first.rollout.responses_BW[np.arange(6), lengths.astype(int) - 1] == eos
    np.testing.assert_array_equal(first.truncated_B, ~ends)
    assert first.rollout.samples == 3
    for row, (task, response, extracted) in enumerate(first.rows):
        assert task is tasks[row // 3]
        assert extracted.program.startswith(task.prompt.given)
        assert len(response.offsets) == lengths[row]


@pytest.mark.parametrize(("name", "value"), [("prompts", 0), ("room", 0.5), ("temperature", -1.0)])
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        RolloutConfig(**{name: value})
