"""AdamW with clipping and a learning-rate schedule."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxmoe.model import params
from jaxmoe.model.shapes import PyTree


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning rate.

    Attributes:
      lr: peak learning rate; null takes 2.5e-5 to fine-tune every weight of a base, else 2.5e-4.
      schedule: after the warm-up, stay at the peak, or fall to `final_ratio` of it along a cosine or a line.
      warmup_steps: steps over which the rate climbs to its peak; it is above zero from the first step.
      warmup_ratio: the same as a share of all steps; give only one of the two.
      final_ratio: rate at the end of a cosine or line, as a share of the peak.
      b1: decay of the mean of gradients.
      b2: decay of the mean of squared gradients.
      eps: added to the root of the mean square.
      weight_decay: decoupled weight decay; each step moves weights towards `decay_to` by lr times this.
      decay_to: zero, or start: the weights that the run started from (L2-SP, arXiv:1802.01483), which the
        optimizer then holds a second time. start draws fine-tuning back to what the base knew. An adapter's
        update begins at zero, so for adapters zero draws back to the base.
      decay: which weights decay: matrices only (no norms, no biases) or all, as in torch by default.
      clip_norm: largest norm of the gradient, over all weights together; null never clips.
    """

    lr: float | None = None
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    warmup_steps: int = 0
    warmup_ratio: float = 0.0
    final_ratio: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_to: Literal["zero", "start"] = "zero"
    decay: Literal["matrices", "all"] = "matrices"
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "warmup_steps"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"optimizer.{name} must not be negative; got {getattr(self, name)}")
        for name in ("warmup_ratio", "final_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optimizer.{name} must lie in [0, 1]; got {getattr(self, name)}")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} must lie in [0, 1); got {getattr(self, name)}")
        if self.eps <= 0:
            raise ValueError(f"optimizer.eps must be positive; got {self.eps}")
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError(
                "give optimizer.warmup_steps or optimizer.warmup_ratio, not both; got "
                f"{self.warmup_steps} and {self.warmup_ratio}"
            )
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"optimizer.clip_norm must be positive; got {self.clip_norm} (null never clips)")


def settled(config: OptimizerConfig, whole_base: bool) -> OptimizerConfig:
    """The optimizer with a learning rate, if none is given.

    On SmolLM2-135M, of two rates that reach the same accuracy the smaller keeps more of what the base knew,
    and these still learn (docs/results/loramoe_smollm2.md).

    Args:
      whole_base: every weight of a base is trained, which moves it further at the same rate.
    Returns: the config with `lr` set.
    """
    return config if config.lr is not None else replace(config, lr=2.5e-5 if whole_base else 2.5e-4)


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate of step t = 0 .. steps - 1, with W warm-up steps.

        t < W:  lr (t + 1) / W        then with p = (t - W) / (steps - W)
        constant: lr      linear: lr (1 - (1 - f) p)      cosine: lr (f + (1 - f) (1 + cos π p) / 2)

    Args:
      config: gives lr, W (warmup_steps, else warmup_ratio of the steps) and f (final_ratio).
      steps: of the whole run.
    Returns: the function t -> learning rate.
    Raises: ValueError if the warm-up is longer than the run, or no rate is given.
    """
    if config.lr is None:
        raise ValueError("optimizer.lr must be a number; got null")
    warmup = config.warmup_steps or round(config.warmup_ratio * steps)
    if warmup > steps:
        raise ValueError(f"optimizer.warmup_steps must be at most the run's {steps} steps; got {warmup}")
    rest = max(steps - warmup, 1)
    match config.schedule:
        case "constant":
            after = optax.constant_schedule(config.lr)
        case "linear":
            after = optax.linear_schedule(config.lr, config.lr * config.final_ratio, rest)
        case "cosine":
            after = optax.cosine_decay_schedule(config.lr, rest, alpha=config.final_ratio)
    if not warmup:
        return after
    climb = optax.linear_schedule(config.lr / warmup, config.lr, warmup - 1)
    return optax.join_schedules([climb, after], [warmup])


def decayed(model: nnx.Module, config: OptimizerConfig, train: params.Train) -> PyTree:
    """The weights that weight decay shrinks: all, or matrices only, as `config.decay` says.

    A matrix has two or more axes besides the layer axis; norms and biases have one.

    Args:
      model: may be abstract.
      train: which part of the weights is trained.
    Returns: True or False for each weight, in the structure of the trainable part of `params.split`.
    """
    state = nnx.state(model)

    def is_matrix(variable: nnx.Variable) -> bool:
        axes = [axis for axis in variable.get_metadata("axes") if axis != "layer"]
        return config.decay == "all" or len(axes) > 1

    marked = jax.tree.map(
        lambda v: v.replace(is_matrix(v)), state, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )
    target = nnx.clone(model)
    nnx.update(target, marked)
    return params.split(target, train).trainable


def make_optimizer(
    config: OptimizerConfig, steps: int, decay_mask: PyTree = True
) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW: for zero state the same updates as torch.optim.AdamW.

    m ← β₁m + (1 − β₁)g,  v ← β₂v + (1 − β₂)g²,  w ← w − lr (m̂ / (√v̂ + ε) + λ(w − w₀))

    with w₀ = 0, or the weights before the first step (config.decay_to).

    Args:
      steps: of the whole run, for the learning rate.
      decay_mask: from `decayed`; True shrinks every weight.
    Returns: the optimizer; without config.clip_norm it does not clip.
    Raises: ValueError if the warm-up is longer than the run.
    Reference: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """
    adamw = optax.chain(
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        decay(config, decay_mask),
        optax.scale_by_learning_rate(schedule(config, steps)),
    )
    if config.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)


class DecayToStartState(NamedTuple):
    """The weights before the first step."""

    start: PyTree


def decay_to_start(weight_decay: float) -> optax.GradientTransformation:
    """Adds λ(w − w₀) to an update, w₀ being the weights before the first step.

    Args:
      weight_decay: λ.
    Returns: the transformation; its update needs the weights.
    Reference: Li, Grandvalet and Davoine 2018, arXiv:1802.01483; decoupled as in AdamW.
    """

    def init(params: optax.Params) -> DecayToStartState:
        # a copy: the weights themselves are donated to the step
        return DecayToStartState(jax.tree.map(jnp.copy, params))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        assert isinstance(state, DecayToStartState)
        moved = jax.tree.map(lambda u, w, start: u + weight_decay * (w - start), updates, params, state.start)
        return moved, state

    return optax.GradientTransformation(init, update)


def decay(config: OptimizerConfig, decay_mask: PyTree = True) -> optax.GradientTransformation:
    """The weight decay of a config; the identity if it has none.

    Args:
      config: gives weight_decay and decay_to.
      decay_mask: from `decayed`; True moves every weight.
    Returns: a transformation of updates before the learning rate multiplies them.
    """
    if not config.weight_decay:
        return optax.identity()
    if config.decay_to == "zero":
        return optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
    return optax.masked(decay_to_start(config.weight_decay), decay_mask)


def optimizer_shardings(
    optimizer: optax.GradientTransformation,
    trainable: PyTree,
    shardings: PyTree,
    replicated: jax.sharding.NamedSharding,
) -> PyTree:
    """Shardings of the optimizer state: those of the weights it belongs to; counters are replicated.

    Args:
      trainable: the trained weights; may be abstract.
      shardings: of these weights, in their structure.
      replicated: sharding that puts an array on every device.
    Returns: shardings in the structure of `optimizer.init(trainable)`.
    """
    state = jax.eval_shape(optimizer.init, trainable)
    return optax.tree.map_params(
        optimizer, lambda _, sharding: sharding, state, shardings, transform_non_params=lambda _: replicated
    )
