"""The critic: how good a state is, read from hidden states by one linear head that starts at zero.

The hidden states come from the policy's frozen backbone as it is (`body="frozen"`), from the same backbone
with the critic's own experts (`body="experts"`), or from a separate model (`body="full"`). In the first two
cases the backbone is the very same arrays as the policy's.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmoe.model.params import Params
from jaxmoe.model.shapes import Array, Float

Body = Literal["frozen", "experts", "full"]


class ValueParam(nnx.Param):
    """A weight of the value head."""


class ValueHead(nnx.Module):
    """v = w · h + b, in float32 whatever the dtype of h; zero before the first step."""

    def __init__(self, width: int):
        self.weight = ValueParam(jnp.zeros((width,), jnp.float32), axes=("embed",))
        self.bias = ValueParam(jnp.zeros((), jnp.float32), axes=())

    def __call__(self, hidden_BWD: Float[Array, "B W D"]) -> Float[Array, "B W"]:
        return jnp.einsum("BWD,D->BW", hidden_BWD.astype(jnp.float32), self.weight[...]) + self.bias[...]


class CriticParams(NamedTuple):
    """What the critic trains: its head, and the weights of its body (None where that is frozen)."""

    head: Params
    body: Params | None


def new_head(width: int) -> tuple[nnx.GraphDef[ValueHead], Params]:
    """A value head that is 0 everywhere.

    Args:
      width: D of the hidden states that it reads.
    Returns: graph definition and weights; merge with `nnx.merge(definition, weights)`.
    """
    definition, state = nnx.split(ValueHead(width))
    return definition, nnx.to_pure_dict(state)


def new_critic(width: int, body: Body, trainable: Params) -> tuple[nnx.GraphDef[ValueHead], CriticParams]:
    """A critic for a policy; the value is 0 everywhere before the first step.

    Args:
      width: D of the hidden states.
      body: where they come from.
      trainable: the policy's trained weights, which the body starts as a copy of: its experts for "experts",
        all its weights for "full".
    Returns: the head's graph definition, and the weights; copies are in buffers of their own.
    """
    definition, head = new_head(width)
    copied = None if body == "frozen" else jax.tree.map(jnp.copy, trainable)
    return definition, CriticParams(head, copied)
