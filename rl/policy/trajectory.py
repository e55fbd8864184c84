"""The contents of a batch of rollouts: prompts, sampled tokens, scores and rewards, and what is learned.

Letters of this file: P prompts, G samples per prompt (B = P·G rows, a prompt's samples adjacent), S slots of
a prompt, W slots of a response. Prompts are padded on the left, responses on the right. A value or
log-probability at slot w of a response belongs to the token there: it is computed from the state before it.
"""

from typing import NamedTuple

import jax
import numpy as np

from jaxmoe.model.shapes import Array, Float, Int


class Rollout(NamedTuple):
    """Tokens that the policy sampled, and which of them count.

    Attributes:
      prompts_PS: prompt tokens; with the curriculum they end with a part of the canonical solution.
      prompt_mask_PS: 1 for real tokens.
      responses_BW: sampled tokens, the stop token included.
      response_mask_BW: 1 for sampled tokens. Values, returns and the KL penalty count these. What the policy
        was told between the answers of an episode is read too, but is 0 here.
      sampler_logprobs_BW: log-probability with which each was drawn, in nats; None if it is not known;
        sampler and learner are then assumed to be one distribution.
    """

    prompts_PS: Int[Array, "P S"]
    prompt_mask_PS: Int[Array, "P S"]
    responses_BW: Int[Array, "B W"]
    response_mask_BW: Float[Array, "B W"]
    sampler_logprobs_BW: Float[Array, "B W"] | None = None

    @property
    def samples(self) -> int:
        """G, responses per prompt."""
        return self.responses_BW.shape[0] // self.prompts_PS.shape[0]


class Outcomes(NamedTuple):
    """The environment's feedback.

    Attributes:
      rewards_B: of the whole program.
      policy_mask_BW: 1 where the policy is to learn from a token: the response, and with executed-token masks
        the executed part of it.
      truncated_B: 1 where the response was cut off by its limit; None if none was.
      limits_B: the most tokens that each response could have; for ppo.overlong_buffer only.
      earlier_BW: rewards of an episode's earlier programs, each at the last token of its answer; None if only
        the last one counts.
    """

    rewards_B: Float[Array, " B"]
    policy_mask_BW: Float[Array, "B W"]
    truncated_B: Float[Array, " B"] | None = None
    limits_B: Float[Array, " B"] | None = None
    earlier_BW: Float[Array, "B W"] | None = None


class PolicyScores(NamedTuple):
    """Scores of each response token by policy, reference and critic.

    Attributes:
      logprobs_BW: under the policy before the update, by the training forward at the learner's temperature,
        over the whole vocabulary, in nats.
      reference_BW: under the reference policy, likewise.
      values_BW: the critic's; zeros where there is none.
      features_BWD: hidden states before each token that a critic with a frozen body reads; they do not change
        while it learns. None for other critics.
    """

    logprobs_BW: Float[Array, "B W"]
    reference_BW: Float[Array, "B W"]
    values_BW: Float[Array, "B W"]
    features_BWD: Float[Array, "B W D"] | None = None


class Experience(NamedTuple):
    """Everything that an update learns from: a rollout, the old scores, and inputs of the losses.

    Attributes:
      rollout: its response mask is 0 in rows that are left out.
      policy_mask_BW: 1 where the policy learns from a token.
      importance_BW: what the policy's loss at a token is multiplied by, see rl.policy.importance.
      advantages_BW: normalized if the settings say so.
      targets_BW: of the value function, in reward units.
    """

    rollout: Rollout
    scores: PolicyScores
    policy_mask_BW: Float[Array, "B W"]
    importance_BW: Float[Array, "B W"]
    advantages_BW: Float[Array, "B W"]
    targets_BW: Float[Array, "B W"]


def finer(rollout: Rollout, samples: int) -> Rollout:
    """The same rows with fewer samples per prompt: each prompt is repeated G / samples times.

    Args:
      samples: number per prompt, in the result.
    Returns: the rollout with P · G / samples prompts; its B rows are unchanged.
    Raises: ValueError if `samples` does not divide G.
    """
    if samples < 1 or rollout.samples % samples:
        raise ValueError(f"samples must divide the {rollout.samples} samples of a prompt; got {samples}")
    copies = rollout.samples // samples
    repeat = jax.numpy.repeat if isinstance(rollout.prompts_PS, jax.Array) else np.repeat
    return rollout._replace(
        prompts_PS=repeat(rollout.prompts_PS, copies, axis=0),
        prompt_mask_PS=repeat(rollout.prompt_mask_PS, copies, axis=0),
    )


def take(experience: Experience, prompts_X: Int[Array, " X"]) -> Experience:
    """The rows of some prompts, each with all its samples, as a minibatch.

    Args:
      prompts_X: their numbers, from 0.
    Returns: an Experience of X prompts.
    """
    prompts = experience.rollout.prompts_PS.shape[0]

    def one(array: Array) -> Array:
        by_prompt = array.reshape(prompts, -1, *array.shape[1:])[prompts_X]
        return by_prompt.reshape(-1, *array.shape[1:])

    return jax.tree.map(one, experience)
