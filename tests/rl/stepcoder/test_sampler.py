"""The sampler: limits, stop tokens, keys, the sampler's own log-probabilities, where it stops."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxmoe.generation.decode import Decoded
from jaxmoe.generation.sampling import Sampling
from rl.stepcoder import sampler as sampling_room
from rl.stepcoder.program_end import answer_tokens
from rl.stepcoder.prompts import make_prompt
from rl.stepcoder.rollouts import RolloutConfig, RolloutTask
from rl.stepcoder.sampler import STRETCH, Sampler
from tests.rl.stepcoder.small_policy import TOKENIZER, a_problem, a_sampler


class Script:
    """Stands in for the model: row b writes its text token by token, and is asked for no more than it is."""

    def __init__(self, texts: list[str], monkeypatch: pytest.MonkeyPatch):
        self.ids = [
            [*TOKENIZER(text, add_special_tokens=False)["input_ids"], TOKENIZER.eos_token_id]
            for text in texts
        ]
        self.written = [0] * len(texts)
        monkeypatch.setattr(sampling_room, "run", self.whole)
        monkeypatch.setattr(sampling_room, "run_begin", self.begin)
        monkeypatch.setattr(sampling_room, "run_until", self.until)
        monkeypatch.setattr(sampling_room.jax, "device_put", lambda x, place: x)

    def begin(self, weights, prompts, key, *, config, mesh):
        limits = prompts.limits_B
        zeros = np.zeros((len(limits), config.slots), np.float32)
        decoded = Decoded(zeros.astype(np.int32), zeros, np.zeros(len(limits), np.int32), zeros.copy())
        return State(decoded=decoded, ended_B=np.zeros(len(limits), bool), limits_B=limits, cache=None)

    def whole(self, weights, prompts, key, *, config, mesh):
        state = self.begin(weights, prompts, key, config=config, mesh=mesh)
        return self.until(weights, state, key, config.slots, config=config, mesh=mesh).decoded

    def until(self, weights, state, key, until, *, config, mesh):
        limits = state.limits_B
        for row, ids in enumerate(self.ids):
            if not state.ended_B[row]:
                self.written[row] = count = min(len(ids), int(until), int(limits[row]))
                state.decoded.tokens_BW[row, :count] = ids[:count]
                state.decoded.lengths_B[row] = count
                state.ended_B[row] = count in (len(ids), limits[row])
        return state


class State(SimpleNamespace):
    def _replace(self, **changes):
        return State(**{**vars(self), **changes})


def written(texts, monkeypatch, limit=400, form="completion", prefix=""):
    sampler, _ = a_sampler(Sampler)
    script = Script(texts, monkeypatch)
    problem = a_problem(0)
    task = RolloutTask(problem, make_prompt(TOKENIZER, problem, prefix, form), limit)
    out = sampler.sample(
        {},
        {},
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
    """The first row goes on with prose and is ended at the next look; the second ends by itself."""
    script, out = written([BODY + PROSE, BODY], monkeypatch)
    assert script.written[0] == STRETCH < len(script.ids[0])
    lengths = out.rollout.response_mask_BW.sum(1)
    row = out.rows[0]
    assert lengths[0] == answer_tokens(row.response, row.extracted.end) < STRETCH / 3
    assert row.extracted.program.endswith(BODY)
    assert lengths[1] == len(script.ids[1])  # its end token counts
    assert out.tail_tokens == STRETCH - lengths[0]
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
    assert opened.written[0] == STRETCH
    assert ended.rows[0].extracted.program.endswith(BODY)
