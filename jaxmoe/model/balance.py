"""The losses that keep routers balanced: functions of `RouterStatistics`, sums over tokens for each sample.

Here N counts the samples of a batch (B x Z flattened).
"""

import dataclasses
import math
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmoe.model.layers import Statistics
from jaxmoe.model.router import RouterStatistics
from jaxmoe.model.shapes import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class BalanceConfig:
    """Losses on the routers.

    Attributes:
      weight: β, weight of the localized balancing constraint; 0 leaves it out.
      delta: δ, how far apart the two groups of experts are pushed.
      form: "code" = variance / mean² as the authors' code has it, "paper" = variance / mean.
      matched_gets_more: the constraint as described drives the experts of a sample's own type *down*, to a
        share of (1 − δ)/2, since it evens out I∘Q. True swaps 1 + δ and 1 − δ, so that they get more.
      count_padding: sum the routing weights over padding too, as the authors' code does.
      group_size: number of samples over which one variance is taken; None = the whole batch over the whole
        mesh. The authors' code takes each device's micro-batch.
      z_weight: weight of the router z-loss, mean (log Σ exp logits)² (ST-MoE, arXiv:2202.08906).
      switch_weight: weight of the Switch balance loss, E Σᵢ fᵢ Pᵢ (arXiv:2101.03961, eq. 4).
    """

    weight: float = 0.1
    delta: float = 0.1
    form: Literal["code", "paper"] = "code"
    matched_gets_more: bool = False
    count_padding: bool = True
    group_size: int | None = None
    z_weight: float = 0.0
    switch_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.delta < 1:
            raise ValueError(f"delta must lie in [0, 1); got {self.delta} (balance.delta in the config)")
        for name in ("weight", "z_weight", "switch_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(
                    f"{name} must be a finite number, not negative; got {getattr(self, name)} "
                    f"(balance.{name})"
                )
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size must be at least 1; got {self.group_size} (balance.group_size)")


def importance(
    task_types_N: Int[Array, " N"], experts: int, delta: float, matched_gets_more: bool = False
) -> Float[Array, "N E"]:
    """I[m, n]: 1 + δ where expert n is of sample m's type, else 1 − δ.

    The first ⌊E/2⌋ experts are for world knowledge (type 1), the others for the rest (type 0); a sample of
    any other type has 1 − δ everywhere. `matched_gets_more` swaps the two values.

    Args:
      task_types_N: 1 for world knowledge, 0 for the rest, anything else for neither.
      experts: E.
      delta: δ, in [0, 1).
      matched_gets_more: see `BalanceConfig`.
    Returns: the coefficients I.
    """
    knowledge_E = jnp.arange(experts) < experts // 2
    wanted_N = task_types_N[:, None]
    matched = ((wanted_N == 1) & knowledge_E[None]) | ((wanted_N == 0) & ~knowledge_E[None])
    sign = -delta if matched_gets_more else delta
    return jnp.where(matched, 1.0 + sign, 1.0 - sign)


def localized_balancing(
    share_NE: Float[Array, "N E"],
    task_types_N: Int[Array, " N"],
    present_NE: Float[Array, "N E"],
    config: BalanceConfig,
) -> Float[Array, ""]:
    """The localized balancing constraint of one projection.

        Z = I ∘ Q,   L = σ²(Z) / (μ(Z)² + 1e-10)  (form "code")  or  σ²(Z) / μ(Z)  (form "paper")

    Args:
      share_NE: Q, routing weight summed over a sample's tokens.
      present_NE: 1 for entries that count (real samples, experts that the layer has).
    Returns: the loss without β; σ² is unbiased, and 0 where fewer than two entries count.
    Reference: arXiv:2312.09979, eq. 6 to 8, and the authors' code.
    """
    weighted = importance(task_types_N, share_NE.shape[1], config.delta, config.matched_gets_more) * share_NE
    count = present_NE.sum()
    mean = (weighted * present_NE).sum() / jnp.maximum(count, 1.0)
    variance = (((weighted - mean) ** 2) * present_NE).sum() / jnp.maximum(count - 1.0, 1.0)
    if config.form == "code":
        return variance / (mean**2 + 1e-10)
    return variance / jnp.maximum(mean, 1e-10)


def switch_balance(statistics: RouterStatistics, experts: Float[Array, ""]) -> Float[Array, ""]:
    """E Σᵢ fᵢ Pᵢ: fᵢ the share of choices that went to expert i, Pᵢ its mean probability; 1 when even.

    Args:
      statistics: one projection's sums.
      experts: E of its layer.
    Returns: the loss of that layer, at least 1 in expectation.
    """
    chosen_E = statistics.chosen_BZE.sum((0, 1))
    probability_E = statistics.probability_BZE.sum((0, 1))
    share_E = chosen_E / jnp.maximum(chosen_E.sum(), 1.0)
    mean_E = probability_E / jnp.maximum(probability_E.sum(), 1.0)
    return experts * (share_E * mean_E).sum()


class BalanceLoss(NamedTuple):
    """Each term with its weight applied, summed over layers and projections (z: mean over both)."""

    total: Float[Array, ""]
    localized: Float[Array, ""]
    z: Float[Array, ""]
    switch: Float[Array, ""]


def balance_loss(
    statistics: Statistics,
    task_types_BZ: Int[Array, "B Z"],
    tokens_BZ: Float[Array, "B Z"],
    layer_experts: dict[str, tuple[int, ...]],
    config: BalanceConfig,
) -> BalanceLoss:
    """All router losses of a forward pass.

    Args:
      task_types_BZ: of the samples packed into a row.
      config: which loss, and its weight.
      statistics: by projection, every array with a leading [L].
      tokens_BZ: tokens that each sample counted; samples with none are left out.
      layer_experts: by projection, the number of experts in each layer.
    Returns: the sum, and each term separately.
    """
    localized = z = switch = jnp.zeros(())
    routers = sum(sum(c > 0 for c in layer_experts[name]) for name in statistics)
    for name, collected in statistics.items():
        counts = np.asarray(layer_experts[name])
        size = collected.weight_BZE.shape[-1]
        has_L = jnp.asarray(counts > 0, jnp.float32)
        present_LE = jnp.asarray(np.arange(size) < counts[:, None], jnp.float32)
        if config.weight:
            loss = partial(_grouped, task_types_BZ=task_types_BZ, tokens_BZ=tokens_BZ, config=config)
            localized += config.weight * (jax.vmap(loss)(collected.weight_BZE, present_LE) * has_L).sum()
        if config.z_weight:
            tokens = jnp.maximum(tokens_BZ.sum(), 1.0)
            z += config.z_weight * (collected.z_square_BZ.sum((1, 2)) * has_L).sum() / tokens / routers
        if config.switch_weight:
            losses_L = jax.vmap(switch_balance)(collected, jnp.asarray(counts, jnp.float32))
            switch += config.switch_weight * (losses_L * has_L).sum()
    return BalanceLoss(localized + z + switch, localized, z, switch)


def _grouped(
    share_BZE: Array, present_E: Array, task_types_BZ: Array, tokens_BZ: Array, config: BalanceConfig
) -> Array:
    """The constraint over groups of samples, averaged over the groups that hold any."""
    experts = share_BZE.shape[-1]
    samples = tokens_BZ.size
    size = config.group_size or samples
    if samples % size:
        raise ValueError(
            f"balance.group_size must divide the batch's {samples} samples; got {size}: change one of them"
        )
    share = share_BZE.reshape(-1, size, experts)
    real = (tokens_BZ.reshape(-1, size) > 0).astype(jnp.float32)
    present = real[..., None] * present_E[None, None, :]
    losses = jax.vmap(partial(localized_balancing, config=config))(
        share, task_types_BZ.reshape(-1, size), present
    )
    used = (real.sum(1) > 0).astype(jnp.float32)
    return (losses * used).sum() / jnp.maximum(used.sum(), 1.0)
