"""Responses through the engine: limits, stop tokens, keys, log-probabilities of draws, where it stops."""

from typing import Any

import jax
import numpy as np

from jaxmoe.generation import engine_programs
from jaxmoe.generation.engine import EngineStatistics
from jaxmoe.generation.requests import Completion, NewToken, Request
from jaxmoe.generation.sampling import Sampling
from rl.stepcoder import engine_sampler as sampling_room
from rl.stepcoder.engine_sampler import EngineSampler
from rl.stepcoder.program_end import answer_tokens
from rl.stepcoder.prompts import make_prompt
from rl.stepcoder.rollouts import RolloutConfig, RolloutTask
from tests.rl.stepcoder.small_policy import TOKENIZER, a_problem, a_sampler


def test_a_response_depends_on_its_own_seed_alone():
    """Alone, beside others, in fewer slots; each is handed on as it ends, the short ones first."""
    sampler, parts = a_sampler(EngineSampler)
    problem = a_problem(0)
    tasks = [
        RolloutTask(problem, make_prompt(TOKENIZER, problem), 40),
        RolloutTask(a_problem(1), make_prompt(TOKENIZER, a_problem(1)), 3),
    ]
    handed: list[int] = []

    def sample(tasks, slots):
        handed.clear()
        return sampler.sample(
            parts.trainable,
            parts.frozen,
            tasks,
            RolloutConfig(smallest_bucket=32, form="completion", slots=slots),
            samples=2,
            sampling=Sampling(1.0, top_p=0.9),
            key=jax.random.key(3),
            on_row=lambda number, row: handed.append(number),
        )

    both = sample(tasks, 4)
    assert sorted(handed) == [0, 1, 2, 3]
    assert set(handed[:2]) == {2, 3}
    before = engine_programs.decode_step._cache_size()
    again, alone = sample(tasks, 4), sample(tasks[:1], 4)
    assert engine_programs.decode_step._cache_size() == before
    fewer = sample(tasks, 1)
    for other in (again, alone, fewer):
        count = len(other.rows)
        assert [r.response.text for r in other.rows] == [r.response.text for r in both.rows[:count]]
    assert fewer.wasted == 0 < both.wasted
    assert alone.rows[0].response != alone.rows[1].response
    np.testing.assert_array_equal(again.rollout.sampler_logprobs_BW, both.rollout.sampler_logprobs_BW)


def test_other_weights_compile_nothing_and_forget_what_was_read():
    """As a sampler that has never seen other weights: a run that is resumed samples the same."""
    sampler, parts = a_sampler(EngineSampler)
    task = RolloutTask(a_problem(0), make_prompt(TOKENIZER, a_problem(0)), 24)
    config = RolloutConfig(smallest_bucket=32, form="completion", slots=2)
    how: dict[str, Any] = {"samples": 3, "key": jax.random.key(0), "sampling": Sampling(1.0)}
    other = jax.tree.map(lambda x: -x, parts.trainable)
    first = sampler.sample(parts.trainable, parts.frozen, [task], config, **how)
    programs = (engine_programs.decode_step, engine_programs.read_chunk, engine_programs.copy_slot)
    before = [program._cache_size() for program in programs]
    changed = sampler.sample(other, parts.frozen, [task], config, **how)
    assert [program._cache_size() for program in programs] == before
    new, _ = a_sampler(EngineSampler)
    expected = new.sample(other, parts.frozen, [task], config, **how)
    jax.tree.map(np.testing.assert_array_equal, changed.rollout, expected.rollout)
    assert [r.response for r in changed.rows] != [r.response for r in first.rows]


class Script:
    """Stands in for the engine: response b writes its text token by token, a token a step."""

    def __init__(self, texts: list[str]):
        self.ids = [
            [*TOKENIZER(text, add_special_tokens=False)["input_ids"], TOKENIZER.eos_token_id]
            for text in texts
        ]
        self.written = [0] * len(texts)
        self.requests: dict[int, Request] = {}
        self.live: dict[int, list[NewToken]] = {}
        self.statistics = EngineStatistics()

    def submit(self, request: Request) -> int:
        self.live[number := len(self.requests)] = []
        self.requests[number] = request
        return number

    @property
    def idle(self) -> bool:
        return not self.live

    def step(self) -> dict[int, Completion]:
        done: dict[int, Completion] = {}
        for number, new in list(self.live.items()):
            request, token = (
                self.requests[number],
                NewToken(self.ids[number][len(new)], -1.0, drawn_logprob=-1.0),
            )
            new.append(token)
            self.written[number] += 1
            self.statistics.decoded += 1
            stopped = token.token in request.stop_tokens
            if request.on_token is not None:
                stopped = bool(request.on_token(token)) or stopped
            if stopped or len(new) == request.max_new_tokens:
                del self.live[number]
                done[number] = Completion(new, "stop" if stopped else "length")
        return done


def written(texts, monkeypatch, limit=400, form="completion", prefix=""):
    sampler, parts = a_sampler(EngineSampler)
    script = Script(texts)
    monkeypatch.setattr(sampling_room, "Engine", lambda policy, shape: script)
    problem = a_problem(0)
    task = RolloutTask(problem, make_prompt(TOKENIZER, problem, prefix, form), limit)
    out = sampler.sample(
        parts.trainable,
        parts.frozen,
        [task],
        RolloutConfig(form=form),
        samples=len(texts),
        sampling=Sampling(1.0),
        key=jax.random.key(0),
    )
    return script, out


BODY = "\n    return n\n"
PROSE = "That is all there is to say of it, and so on and on.\n" * 60


def test_sampling_stops_behind_the_program(monkeypatch):
    """The first row goes on with prose and is ended with its first line; the second ends by itself."""
    script, out = written([BODY + PROSE, BODY], monkeypatch)
    lengths = out.rollout.response_mask_BW.sum(1)
    row = out.rows[0]
    assert lengths[0] == answer_tokens(row.response, row.extracted.end)
    line = len(TOKENIZER(PROSE[: PROSE.index("\n") + 1], add_special_tokens=False)["input_ids"])
    assert script.written[0] <= lengths[0] + line + 1 < len(script.ids[0]) / 10
    assert row.extracted.program.endswith(BODY)
    assert lengths[1] == len(script.ids[1])  # its end token counts
    assert out.tail_tokens == script.written[0] - lengths[0]
    np.testing.assert_array_equal(out.truncated_B, [False, False])
    # nothing of the tail is left in the rollout
    assert not (out.rollout.responses_BW * (1 - out.rollout.response_mask_BW)).any()


def test_a_program_that_goes_on_is_not_ended(monkeypatch):
    """A helper behind the function may be used; a response that its limit cuts off is truncated."""
    long = "\n    n = n + 1" * 60
    script, out = written(
        [long, BODY + "\ndef g(n):\n    return 1\n" + "\n    n = 1" * 60], monkeypatch, limit=150
    )
    assert script.written == [150, 150]
    np.testing.assert_array_equal(out.truncated_B, [True, False])


def test_an_answer_in_words_is_sampled_to_its_end(monkeypatch):
    """A better block may come; the loss ends behind the one that is taken."""
    text = "Here it is:\n```python\n" + a_problem(0).starter_code.rstrip() + BODY + "```\n" + PROSE
    script, out = written([text], monkeypatch, form="chat")
    assert script.written[0] == min(len(script.ids[0]), 400)
    assert 0 < out.rollout.response_mask_BW.sum() < 60
    assert not out.truncated_B[0]
    opened, ended = written(
        [BODY + "```\n" + PROSE], monkeypatch, form="chat", prefix=a_problem(0).starter_code
    )
    assert opened.written[0] < len(opened.ids[0]) / 10
    assert ended.rows[0].extracted.program.endswith(BODY)


def test_responses_of_very_unequal_lengths_waste_few_rows():
    """Log-normal limits: less than 15 % of the rows of decoding steps, where all together waste 68 %."""
    sampler, parts = a_sampler(EngineSampler)
    limits = np.clip(np.random.default_rng(0).lognormal(np.log(6), 0.9, 30), 1, 50).astype(int)
    prompt = make_prompt(TOKENIZER, a_problem(0), form="instruction")
    out = sampler.sample(
        parts.trainable,
        parts.frozen,
        [RolloutTask(a_problem(0), prompt, int(limit)) for limit in limits],
        RolloutConfig(smallest_bucket=64, form="instruction", slots=16, response_tokens=50),
        samples=4,
        sampling=Sampling(1.0),
        key=jax.random.key(0),
        for_learning=False,
    )
    assert 1 - 4 * limits.sum() / (120 * limits.max()) > 0.6
    assert out.wasted < 0.15
