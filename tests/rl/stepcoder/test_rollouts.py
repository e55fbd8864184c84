"""Rollouts: settings and the order of problems."""

import pytest

from jaxmoe.tokenizer import train_bpe
from rl.stepcoder.rollouts import RolloutConfig, problems_of_round, resolved


def test_problems_come_in_shuffled_passes_that_depend_on_the_round_alone():
    rounds = [problems_of_round(i, 10, 4, seed=3) for i in range(5)]
    stream = [number for chosen in rounds for number in chosen]
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]
    assert problems_of_round(3, 10, 4, seed=3) == rounds[3]
    assert sorted(problems_of_round(0, 3, 6, seed=0)) == [0, 0, 1, 1, 2, 2]


def test_auto_is_chat_where_there_is_a_template():
    tokenizer = train_bpe(["to be or not to be"], 300)
    assert resolved(RolloutConfig(), tokenizer).prompt_form == "chat"
    tokenizer.chat_template = None
    assert resolved(RolloutConfig(), tokenizer).prompt_form == "completion"
    assert resolved(RolloutConfig(form="instruction"), tokenizer).prompt_form == "instruction"
    with pytest.raises(ValueError, match="resolve it for a tokenizer first"):
        _ = RolloutConfig().prompt_form
    with pytest.raises(ValueError, match="needs a chat template"):
        resolved(RolloutConfig(form="chat"), tokenizer)


def test_by_default_the_sampler_draws_from_the_policy():
    assert (RolloutConfig().temperature, RolloutConfig().top_p) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "value"), [("prompts", 0), ("room", 0.5), ("temperature", 0.0), ("top_p", 0.0)]
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=rf"rollout\.{name} must"):
        RolloutConfig(**{name: value})
