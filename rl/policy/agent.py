"""Policy, reference and critic over shared weights, and the scores that each gives to a rollout.

Three models, one backbone: if adapters are trained, the policy is the frozen base with its experts, the
reference the same arrays without them, and the critic the same arrays again, bare or with experts of its own.
If every weight is trained, reference and critic are separate models.

Log-probabilities here are those of the policy that is trained: logits divided by the agent's temperature,
over the whole vocabulary. With the sampler's temperature and no nucleus that is the sampled distribution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from jaxmoe.generation.shared_prompt import response_states
from jaxmoe.model import params
from jaxmoe.model.cross_entropy import TokenScores, token_scores
from jaxmoe.model.lora_experts import ExpertCall
from jaxmoe.model.mesh import batch_axes
from jaxmoe.model.shapes import Array, Float, PyTree
from jaxmoe.model.transformer import Decoder, Remat
from rl.policy.critic import Body, CriticParams, ValueHead
from rl.policy.trajectory import PolicyScores, Rollout, finer


@dataclass(frozen=True)
class ForwardConfig:
    """How forward and backward passes compute.

    Attributes:
      precision: dtype of activations and products.
      remat: what the backward pass recomputes: nothing, all but matrix products, or whole blocks.
      scan_layers: compile one block and scan it; false unrolls the layers.
      loss_chunk: tokens of each row whose logits exist at once.
      share_prompts: compute a prompt once for all its samples; false makes each row a plain sequence, for
        which there are flash attention kernels.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    scan_layers: bool = True
    loss_chunk: int = 128
    share_prompts: bool = True

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"forward.precision must be float32 or bfloat16; got {self.precision!r}")
        if self.loss_chunk < 1:
            raise ValueError(f"forward.loss_chunk must be at least 1; got {self.loss_chunk}")


class Weights(NamedTuple):
    """Weights that training never changes, copies or donates.

    Attributes:
      frozen: the base; empty where every weight is trained.
      reference: trainable part of the reference policy; None is the base without experts.
    """

    frozen: params.Params
    reference: params.Params | None


@dataclass(frozen=True)
class Agent:
    """The structure of policy and critic.

    Attributes:
      definition: of the decoder, with experts if adapters are trained.
      mesh: over which rows and weights are sharded.
      head: of the value head; None without a critic.
      body: where the critic's hidden states come from.
      use_reference: False leaves the reference out; its log-probabilities are then the policy's.
      forward: how passes compute.
      temperature: divides the logits of policy and reference.
    """

    definition: nnx.GraphDef[Decoder]
    mesh: Mesh
    head: nnx.GraphDef[ValueHead] | None = None
    body: Body = "frozen"
    use_reference: bool = True
    forward: ForwardConfig = ForwardConfig()
    temperature: float = 1.0

    @property
    def dtype(self) -> DTypeLike:
        """The dtype of activations."""
        return jnp.float32 if self.forward.precision == "float32" else jnp.bfloat16

    def states(
        self, trainable: params.Params, frozen: params.Params, rollout: Rollout, *, experts: bool = True
    ) -> Float[Array, "B W D"]:
        """Hidden states before each response token.

        Args:
          experts: False leaves them out: only the base.
        Returns: [B, W, D] in the activations' dtype.
        """
        model = params.merge(params.ModelParams(self.definition, trainable, frozen))
        forward = self.forward
        return response_states(
            model,
            rollout.prompts_PS,
            rollout.prompt_mask_PS,
            rollout.responses_BW,
            dtype=self.dtype,
            call=ExpertCall(enabled=experts),
            mesh=self.mesh,
            remat=forward.remat,
            scan_layers=forward.scan_layers,
        )

    def token_scores(
        self, trainable: params.Params, frozen: params.Params, states_BWD: Array, rollout: Rollout
    ) -> TokenScores:
        """log p and entropy of each response token at the agent's temperature.

        Args:
          states_BWD: from `states`, of the same weights.
        Returns: TokenScores of [B, W], in nats.
        """
        model = params.merge(params.ModelParams(self.definition, trainable, frozen))
        head = model.output_head(self.dtype, self.mesh)
        return token_scores(
            states_BWD,
            head,
            rollout.responses_BW,
            chunk=self.forward.loss_chunk,
            temperature=self.temperature,
        )

    def values(
        self, critic: CriticParams, weights: Weights, rollout: Rollout, features_BWD: Array | None
    ) -> Float[Array, "B W"]:
        """The critic's values of the states before each response token.

        Args:
          features_BWD: the reference's states, which a critic with a frozen body reads; otherwise unused.
        Returns: [B, W], in reward units.
        """
        if self.body == "frozen":
            assert features_BWD is not None
            states = jax.lax.stop_gradient(features_BWD)
        else:
            assert critic.body is not None
            states = self.states(critic.body, weights.frozen, rollout)
        assert self.head is not None
        return nnx.merge(self.head, critic.head)(states)

    def score(
        self, policy: params.Params, critic: CriticParams | None, weights: Weights, rollout: Rollout
    ) -> PolicyScores:
        """Everything that must be known about a rollout before learning from it.

        Args:
          critic: None if there is none.
        Returns: PolicyScores of [B, W].
        """
        states = self.states(policy, weights.frozen, rollout)
        logprobs = self.token_scores(policy, weights.frozen, states, rollout).logprob_BT
        reference, features = logprobs, None
        bare_critic = self.head is not None and self.body == "frozen"
        if self.use_reference or bare_critic:
            trainable = policy if weights.reference is None else weights.reference
            features = self.states(trainable, weights.frozen, rollout, experts=weights.reference is not None)
            if self.use_reference:
                reference = self.token_scores(trainable, weights.frozen, features, rollout).logprob_BT
        if self.head is None:
            return PolicyScores(logprobs, reference, jnp.zeros_like(logprobs), None)
        assert critic is not None
        kept = features if bare_critic else None
        return PolicyScores(logprobs, reference, self.values(critic, weights, rollout, kept), kept)


def samples_together(prompts: int, samples: int, pieces: int, ways: int) -> int:
    """The most samples of a prompt that can be computed together if the rows are cut into equal pieces.

    Args:
      prompts: of a round.
      samples: of a prompt.
      pieces: minibatches x micro-batches.
      ways: number of devices over which the rows of a piece are sharded.
    Returns: a divisor of `samples`.
    Raises: ValueError if the rows cannot be cut that way.
    """
    fitting = [
        g
        for g in range(1, samples + 1)
        if samples % g == 0 and (prompts * samples // g) % (pieces * ways) == 0
    ]
    if not fitting:
        raise ValueError(
            "prompts x samples a round must be divisible by minibatches x accumulate x devices that share "
            f"rows; got {prompts} x {samples} and {pieces} x {ways} (rollout.* and ppo.* in the config)"
        )
    return max(fitting)


def split_rows(tree: PyTree, pieces: int, prompts: int, mesh: Mesh) -> PyTree:
    """Cuts rows into equal pieces: piece i has prompts i, i + pieces, ... with their samples.

    Rows keep their device.

    Args:
      tree: of arrays [B, ...].
      pieces: must divide `prompts`.
    Returns: the tree with arrays [pieces, B / pieces, ...].
    """
    spread = NamedSharding(mesh, PartitionSpec(None, batch_axes(mesh)))

    def one(array: Array) -> Array:
        by_prompt = array.reshape(prompts // pieces, pieces, -1, *array.shape[1:]).swapaxes(0, 1)
        parts = by_prompt.reshape(pieces, -1, *array.shape[1:])
        return jax.lax.with_sharding_constraint(parts, spread)

    return jax.tree.map(one, tree)


def join_rows(tree: PyTree, pieces: int, prompts: int) -> PyTree:
    """Undoes `split_rows`.

    Args:
      tree: of arrays [pieces, B / pieces, ...].
    Returns: the tree with arrays [B, ...].
    """

    def one(array: Array) -> Array:
        by_prompt = array.reshape(pieces, prompts // pieces, -1, *array.shape[2:]).swapaxes(0, 1)
        return by_prompt.reshape(-1, *array.shape[2:])

    return jax.tree.map(one, tree)


def make_score(
    agent: Agent, pieces: int, samples: int
) -> Callable[[params.Params, params.Params | None, Weights, Rollout], PolicyScores]:
    """The jitted function (policy, critic, weights, rollout) -> PolicyScores.

    It goes through pieces of the same shape as in learning: the old log-probabilities come from the training
    forward, never from the sampler's.

    Args:
      pieces: number of pieces into which the rows are cut.
      samples: of a prompt computed together, see `samples_together`.
    Returns: the function; rows are returned in the rollout's order.
    """

    def score(policy, critic, weights: Weights, rollout: Rollout) -> PolicyScores:
        rollout = finer(rollout, samples)
        prompts = rollout.prompts_PS.shape[0]
        parts = split_rows(rollout, pieces, prompts, agent.mesh)
        scores = jax.lax.map(lambda part: agent.score(policy, critic, weights, part), parts)
        return join_rows(scores, pieces, prompts)

    return jax.jit(score)
