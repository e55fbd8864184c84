"""Episodes of several turns: what the policy is told, what it learns from, what its scores belong to."""
# ruff: noqa: E501 (feedback reads best on one line)

from concurrent.futures import Future

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmoe.datasets.programs import pretraining_texts
from jaxmoe.generation.sampling import Sampling
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import chat_template, train_bpe
from rl.feedback.language import CompilerFeedback, TestResult
from rl.feedback.problems import Problem
from rl.feedback.prompts import code_prompt, extract
from rl.policy.agent import Agent, ForwardConfig
from rl.policy.config import RLConfig
from rl.policy.experience import prepare, value_after
from rl.policy.trajectory import Outcomes, PolicyScores, Rollout
from rl.stepcoder.prompts import ResponseDecoder, make_prompt
from rl.stepcoder.rollouts import RolloutConfig, RolloutTask, Sampled, SampledRow, resolved
from rl.stepcoder.sampler import Sampler
from rl.stepcoder.turns import NextTurn, passed_by_turn, play, told_of_failure

TOKENIZER = train_bpe([text for text, _ in zip(pretraining_texts(200), range(200), strict=True)], 512)
PROBLEM = Problem("double", "Double n.", "", fn_name="f", inputs=[[3], [4]], outputs=[6, 8])
CONFIG = RolloutConfig(form="chat", turns=3, smallest_bucket=8, response_tokens=40)


class Graders:
    """Passes programs that hold a word, and wants it of others."""

    def __init__(self, word="right"):
        self.word, self.seen = word, []

    def submit(self, problem, program):
        self.seen.append(program)
        passed = self.word in program
        tests = (TestResult("pass"), TestResult("pass" if passed else "fail", "returned 9, expected 8"))
        feedback = CompilerFeedback("pass" if passed else "fail", 1.0 if passed else -0.3, tests)
        future: Future = Future()
        future.set_result(feedback)
        return future


def scripted(*turns):
    """Draws these answers, turn by turn; what was asked is kept."""
    decode, asked = ResponseDecoder(TOKENIZER), []

    def draw(tasks, samples, turn, on_row):
        asked.append(tasks)
        answers = turns[turn]
        assert len(tasks) * samples == len(answers)
        ids = [
            [*TOKENIZER(a, add_special_tokens=False)["input_ids"], TOKENIZER.eos_token_id] for a in answers
        ]
        width = max(map(len, ids))
        tokens = np.asarray([row + [0] * (width - len(row)) for row in ids], np.int32)
        mask = np.asarray([[float(i < len(row)) for i in range(width)] for row in ids], np.float32)
        rows = []
        for i, row in enumerate(ids):
            task = tasks[i // samples]
            response = decode(task.prompt.ids, row)
            rows.append(SampledRow(task, response, extract(task.problem, response.text, "chat")))
        longest = max(len(task.prompt.ids) for task in tasks)
        prompts = np.asarray([[0] * (longest - len(t.prompt.ids)) + t.prompt.ids for t in tasks], np.int32)
        rollout = Rollout(prompts, np.ones_like(prompts), tokens, mask, -mask * (turn + 1))
        return Sampled(rollout, np.zeros(len(ids), bool), rows, 1, 0.5)

    return draw, asked


def block(code):
    return f"```python\n{code}\n```"


A_TASK = RolloutTask(PROBLEM, make_prompt(TOKENIZER, PROBLEM, form="chat"), 40)


def three_episodes(config=CONFIG):
    draw, asked = scripted(
        [block("right = 1"), block("wrong = 2"), block("wrong = 3")],
        [block("right = 4"), block("wrong = 5")],
        [block("wrong = 6")],
    )
    return play(draw, [A_TASK], 3, Graders(), TOKENIZER, config, "response"), asked


def test_an_episode_is_the_conversation_that_the_chat_template_writes():
    batch, asked = three_episodes()
    assert [len(tasks) for tasks in asked] == [1, 2, 1]
    told = "The program is wrong: f(4) has another answer. Correct it and write the whole program again."
    question = code_prompt(PROBLEM, "chat").text
    answers = [["right = 1"], ["wrong = 2", "right = 4"], ["wrong = 3", "wrong = 5", "wrong = 6"]]
    rollout = batch.sampled.rollout
    for row, programs in enumerate(answers):
        messages = [{"role": "user", "content": question}]
        for number, program in enumerate(programs):
            messages += [{"role": "user", "content": told}] * (number > 0)
            messages.append({"role": "assistant", "content": block(program)})
        whole = chat_template(TOKENIZER).render(messages)
        turns = batch.sampled.turns[row]
        end = turns[-1].start + int(rollout.response_mask_BW[row, turns[-1].start :].sum())
        ids = [*A_TASK.prompt.ids, *rollout.responses_BW[row, :end].tolist()]
        written = TOKENIZER.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        # this tokenizer writes a space before the text behind a special token
        assert written.replace(" ", "") == whole.replace(" ", "")


def test_only_the_policy_s_own_tokens_count():
    batch, _ = three_episodes()
    rollout, outcomes = batch.sampled.rollout, batch.graded.outcomes
    for row, turns in enumerate(batch.sampled.turns):
        own = np.zeros(rollout.response_mask_BW.shape[1])
        for turn in turns:
            own[turn.start : turn.start + len(turn.row.response.offsets)] = 1.0
        np.testing.assert_array_equal(rollout.response_mask_BW[row], own)
        np.testing.assert_array_equal(outcomes.policy_mask_BW[row], own)
        for number, turn in enumerate(turns):
            assert rollout.sampler_logprobs_BW[row, turn.start] == -(number + 1)
    assert ((rollout.sampler_logprobs_BW != 0) == (rollout.response_mask_BW > 0)).all()
    np.testing.assert_allclose(outcomes.rewards_B, [1.0, 1.0, -0.3])
    assert outcomes.earlier_BW is None
    np.testing.assert_array_equal(batch.graded.passed, [True, True, False])
    np.testing.assert_array_equal(
        passed_by_turn(batch.sampled, 3), [[True, False, False], [True, True, False], [True, True, False]]
    )
    assert batch.sampled.tail_tokens == 3
    assert outcomes.limits_B.tolist() == [40.0, 80.0, 120.0]


def prepared(batch, config, algorithm):
    mask = batch.sampled.rollout.response_mask_BW
    zeros = jnp.zeros(mask.shape)
    rollout = Rollout(*(None if x is None else jnp.asarray(x) for x in batch.sampled.rollout))
    outcomes = Outcomes(*(None if x is None else jnp.asarray(x) for x in batch.graded.outcomes))
    return prepare(algorithm, config, rollout, outcomes, PolicyScores(zeros, zeros, zeros, None), 0.0)


def test_rewards_of_each_turn_reach_the_tokens_before_them():
    """γ = λ = 1 and no critic's values: the advantage of a token is what its program and later ones earned."""
    batch, _ = three_episodes(RolloutConfig(**{**vars(CONFIG), "turn_reward": "each"}))
    config = RLConfig(discount=1.0, gae_lambda=1.0, normalize_advantages=False, importance_cap=None)
    experience, told = prepared(batch, config, "ppo")
    expected = [[1.0], [0.7, 1.0], [-0.9, -0.6, -0.3]]
    for row, turns in enumerate(batch.sampled.turns):
        for turn, advantage in zip(turns, expected[row], strict=True):
            end = turn.start + len(turn.row.response.offsets)
            found = experience.advantages_BW[row, turn.start : end]
            np.testing.assert_allclose(found, advantage, rtol=1e-6)  # three float32 rewards added
    off = np.asarray(batch.sampled.rollout.response_mask_BW) == 0
    assert (np.asarray(experience.advantages_BW)[off] == 0).all()
    np.testing.assert_allclose(told["reward"], (1.0 + 0.7 - 0.9) / 3, rtol=1e-6)  # likewise
    group, _ = prepared(batch, RLConfig(normalize_groups=False), "grpo")
    centered = np.asarray([1.0, 0.7, -0.9]) - (1.0 + 0.7 - 0.9) / 3
    np.testing.assert_allclose(group.advantages_BW[:, 0], centered, rtol=1e-5)  # likewise, less their mean


def test_the_value_after_an_episode_stands_behind_its_last_answer():
    mask = jnp.asarray([[1.0, 1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    values = jnp.arange(15.0).reshape(3, 5)
    assert value_after(values, mask).tolist() == [4.0, 6.0, 14.0]


@pytest.mark.parametrize(
    ("problem", "feedback", "hidden", "shown"),
    [
        (
            PROBLEM,
            CompilerFeedback("compile_error", -1.0, message="line 1: invalid syntax"),
            "",
            "line 1: invalid",
        ),
        (
            PROBLEM,
            CompilerFeedback(
                "fail", -0.3, (TestResult("fail", "returned 9, expected 6"), TestResult("fail", "x"))
            ),
            "6",
            "f(3) has another answer",
        ),
        (
            Problem("p", "", inputs=["3\n"], outputs=["secret\n"]),
            CompilerFeedback("fail", -0.3, (TestResult("fail", "printed '1', expected 'secret'"),)),
            "secret",
            r"the input '3\n' has another answer",
        ),
        (
            Problem("p", "", inputs=["3\n"], outputs=["secret\n"]),
            CompilerFeedback("timeout", -0.6, (TestResult("timeout", "ran out of time"),)),
            "secret",
            r"fails with the input '3\n': ran out of time",
        ),
        (
            Problem("p", "", fn_name="f", asserts=("assert f(2) == 'secret'",)),
            CompilerFeedback("fail", -0.3, (TestResult("fail", "not as expected: assert f(2) == 'secret'"),)),
            "secret",
            "a test fails",
        ),
        (PROBLEM, CompilerFeedback("fail", -0.3), "", "The program is wrong."),
    ],
)
def test_what_is_expected_is_told_only_where_it_is_asked_for(problem, feedback, hidden, shown):
    told = told_of_failure(problem, feedback)
    assert shown in told
    if hidden:
        assert hidden not in told
        if feedback.verdict == "fail":
            assert hidden in told_of_failure(problem, feedback, expected=True)


def test_scores_belong_to_the_tokens_that_were_drawn_in_every_turn():
    """The learner's log-probabilities of an episode are those with which its turns were sampled."""
    config = ModelConfig(
        vocab_size=512,
        hidden_size=16,
        intermediate_size=24,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
    )
    parts, mesh = params.split(params.build(config, std=0.3), "all"), params.single_device_mesh()
    sampler = Sampler(parts.definition, mesh, TOKENIZER, (TOKENIZER.eos_token_id,), 0, "float32")
    rollout = RolloutConfig(form="chat", turns=3, smallest_bucket=16, response_tokens=12)

    def draw(tasks, samples, turn, on_row):
        return sampler.sample(
            parts.trainable,
            parts.frozen,
            tasks,
            rollout,
            samples=samples,
            sampling=Sampling(1.0),
            key=jax.random.key(turn),
            any_number=turn > 0,
        )

    batch = play(draw, [A_TASK], 3, Graders("never"), TOKENIZER, rollout, "response", spare_slot=True)
    assert [len(turns) for turns in batch.sampled.turns] == [3, 3, 3]
    drawn = batch.sampled.rollout
    agent = Agent(parts.definition, mesh, use_reference=False, forward=ForwardConfig(precision="float32"))
    episode = Rollout(*map(jnp.asarray, drawn))
    states = agent.states(parts.trainable, parts.frozen, episode)
    scores = agent.token_scores(parts.trainable, parts.frozen, states, episode).logprob_BT
    drawn_BW, scored_BW = drawn.sampler_logprobs_BW, scores * drawn.response_mask_BW
    # logits of up to 20 in float32, in two orders of addition: 20 x 2⁻²³ x a few sums
    np.testing.assert_allclose(scored_BW, drawn_BW, atol=2e-5)
    assert (drawn.response_mask_BW[:, -1] == 0).all()


def test_templates_that_rewrite_what_was_said_are_refused():
    tokenizer = train_bpe(["a b c"], 300)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}(cut){% else %}{{ m.content }}"
        "{% endif %}|{% endfor %}"
    )
    with pytest.raises(ValueError, match="appends a turn to those before"):
        NextTurn(tokenizer)


def test_long_messages_are_cut_in_the_middle():
    writer = NextTurn(TOKENIZER)
    short = writer.ids([TOKENIZER.eos_token_id], "x", 32)
    long = writer.ids([TOKENIZER.eos_token_id], "start " + "0123456789" * 300 + " end.", 200)
    assert len(short) < 32
    assert len(long) <= 200
    text = TOKENIZER.decode(long)
    assert "start" in text
    assert "end." in text
    assert " ... " in text
    with pytest.raises(ValueError, match=r"told_tokens=5 leaves no room"):
        writer.ids([TOKENIZER.eos_token_id], "0123456789" * 300, 5)


def test_turns_take_a_chat_template():
    tokenizer = train_bpe(["a b c"], 300)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"rollout.turns=2 takes a chat template.*rollout.form=chat"):
        resolved(RolloutConfig(turns=2), tokenizer)
    with pytest.raises(ValueError, match=r"rollout.turns must be at least 1"):
        RolloutConfig(turns=0)
