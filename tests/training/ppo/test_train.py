"""What a run says before its first round, and configs that cannot work."""

import pytest

from rl.feedback.problems import Problem
from rl.policy.config import RLConfig
from rl.stepcoder.curriculum import Curriculum
from rl.stepcoder.rollouts import RolloutConfig
from training.ppo.config import PPORunConfig
from training.ppo.policy import learner_temperature
from training.ppo.problems import ProblemSet, TimeLimits
from training.ppo.train import what_to_expect
from training.runtime import config as configs

SOLUTION = "".join(f"if x == {i}:\n    y = {i}\n" for i in range(9))  # three stages


def problem_set(*, staged: bool) -> ProblemSet:
    train = [Problem("p", "", canonical_solution=SOLUTION)]
    return ProblemSet(train, [], Curriculum(train) if staged else None, "", TimeLimits("", {}))


def test_by_default_sampler_and_learner_are_one_and_nothing_is_said_of_it():
    rollout = RolloutConfig(form="completion", temperature=0.8)
    assert learner_temperature(RLConfig(), rollout) == 0.8
    told = what_to_expect(problem_set(staged=False), RLConfig(), rollout, 10)
    assert told == ["prompts: completion; temperature 0.8, top-p 1"]


@pytest.mark.parametrize(
    ("rl", "rollout", "said"),
    [
        (
            RLConfig(),
            {"top_p": 0.9},
            "temperature 1, whole vocabulary): importance weights up to 2 correct it",
        ),
        (RLConfig(temperature=1.0), {"temperature": 0.8}, "importance weights up to 2 correct it"),
        (RLConfig(importance_cap=None), {"top_p": 0.9}, "nothing corrects it"),
        (
            RLConfig(importance="sequence_mask"),
            {"top_p": 0.9},
            "importance weights of whole responses up to 2 correct it (beyond, a loss counts 0)",
        ),
    ],
)
def test_a_sampler_that_is_not_the_policy_is_said(rl: RLConfig, rollout: dict, said: str):
    told = what_to_expect(problem_set(staged=False), rl, RolloutConfig(form="completion", **rollout), 10)
    assert told[1].startswith("the sampler is not the policy that is trained")
    assert said in told[1]


def test_several_turns_are_said():
    rollout = RolloutConfig(form="chat", turns=3)
    told = what_to_expect(problem_set(staged=False), RLConfig(), rollout, 10)
    assert told[1].startswith("up to 3 turns: a program that fails comes back")
    assert "not its right answer; learned from: the reward of the last program" in told[1]


def test_the_expected_stages_are_shown_before_a_run():
    rollout = RolloutConfig(form="completion", prompts=1, samples=4)
    told = what_to_expect(problem_set(staged=True), RLConfig(), rollout, 8)
    assert told[-1].startswith("curriculum: 1 of 1 problems have 2 to 3 stages, 8.0 rounds a problem")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"algorithm": "grpoo"}, "did you mean grpo"),
        ({"algorithm": "grpo", "ppo": {"truncated": "bootstrap"}}, "truncated=bootstrap needs a critic"),
        ({"ppo": {"kl": {"place": "loss", "estimator": "k1"}}}, "must be k2 or k3 with"),
        ({"rollout": {"temperature": 0.0}}, "rollout.temperature must be positive"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict, said: str):
    with pytest.raises(ValueError, match=said):
        configs.parse(PPORunConfig, {"output": "o", "base": "b", "rounds": 1, **values})


def test_what_is_chosen_by_default_is_in_the_saved_config():
    values = {"output": "o", "base": "b", "rounds": 1, "ppo": {"kl": {"place": "loss"}}}
    config = configs.parse(PPORunConfig, values)
    assert configs.to_dict(config)["ppo"]["kl"]["estimator"] == "k2"
    assert configs.parse(PPORunConfig, configs.to_dict(config)) == config
