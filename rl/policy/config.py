"""Settings of the learner: what is learned from a round of rollouts, and how.

Plain dataclasses, so that a command can read them from a file and a program can construct them.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeVar

Aggregation = Literal["token_mean", "sequence_mean", "constant"]
KLEstimator = Literal["k1", "k2", "k3"]
KLPlace = Literal["reward", "loss"]
Truncated = Literal["grade", "bootstrap", "drop"]
ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class KLConfig:
    """The penalty that keeps the policy near its reference.

    Attributes:
      coefficient: initial β; 0 without a target leaves the reference out; null is the algorithm's own.
      estimator: of KL(π ‖ π_ref) at a token, see rl.policy.losses.kl_estimate; null uses k1 in the reward and
        k2 in the loss. k1 in the loss is refused: the expectation of its gradient is 0.
      place: reward subtracts β KL from each token's reward, loss adds it to the policy's loss.
      target: KL of a response in nats, summed over its tokens, to which β is adapted; null keeps β.
      horizon: number of responses over which β may change by a fifth.
      sync_every: rounds after which the policy becomes the reference; 0 keeps the first one.
    """

    coefficient: float | None = None
    estimator: KLEstimator | None = None
    place: KLPlace = "reward"
    target: float | None = None
    horizon: float = 10_000.0
    sync_every: int = 0

    def __post_init__(self) -> None:
        if self.coefficient is not None and self.coefficient < 0:
            raise ValueError(f"ppo.kl.coefficient must not be negative; got {self.coefficient}")
        if self.sync_every < 0:
            raise ValueError(f"ppo.kl.sync_every must not be negative; got {self.sync_every}")
        if (self.target is not None and self.target <= 0) or self.horizon <= 0:
            raise ValueError(
                f"ppo.kl.target and ppo.kl.horizon must be positive; got {self.target} and {self.horizon}"
            )
        if self.place == "loss" and self.estimator == "k1":
            raise ValueError(
                "ppo.kl.estimator must be k2 or k3 with ppo.kl.place=loss; got k1, whose gradient is 0 on "
                "average (leave it out, or set ppo.kl.place=reward)"
            )
        if self.estimator is None:  # the settings saved with a run say which one was used
            object.__setattr__(self, "estimator", self.chosen)

    @property
    def start(self) -> float:
        """β of the first round."""
        return own(self.coefficient, "kl.coefficient")

    @property
    def chosen(self) -> KLEstimator:
        """The estimator that was asked for, or else the default of the place."""
        return self.estimator or ("k1" if self.place == "reward" else "k2")


@dataclass(frozen=True)
class RLConfig:
    """What is learned from a round of rollouts, and how.

    Where null is the algorithm's own, `rl.policy.algorithms.settled` fills it in. A setting that the
    algorithm does not use is refused by name; settings that not all algorithms use list those that do.

    Attributes:
      epochs: passes over each round.
      minibatches: optimizer steps per epoch.
      accumulate: micro-batches per step.
      discount: γ of the returns, in [0, 1] (ppo, reinforce++).
      gae_lambda: λ of generalized advantage estimation, in [0, 1] (ppo).
      normalize_advantages: bring advantages to mean 0 and variance 1 over the round (ppo, reinforce++ and its
        baseline form).
      normalize_groups: divide by the standard deviation of a prompt's rewards (grpo, dapo, gspo, cispo); null
        is the algorithm's own.
      clip_low, clip_high: the ratio π / π_old stays within 1 − low and 1 + high; null is the algorithm's own.
      dual_clip: if the advantage is negative, the largest ratio that still has a gradient; null for no such
        bound (not gspo, cispo).
      value_clip: how far a value may move from its old one, in reward units; null does not clip (ppo).
      reward_clip: rewards are clipped to ± this; null does not.
      aggregation: how tokens are weighted, see rl.policy.losses.token_weights; null is the algorithm's own.
      constant: number of tokens, for aggregation=constant; null uses the room for a response.
      entropy: weight of the entropy bonus.
      temperature: of the policy that is trained: its logits are divided by it; null uses the sampler's, so
        that sampler and learner are one distribution.
      importance: if they are not one, each token's loss is multiplied by π_learner / π_sampler, of the token
        or of the whole response; out of bounds it is set to the bound (truncate) or to 0 (mask).
      importance_cap: its upper bound; null leaves the loss as it is.
      importance_floor: its lower bound; null for none.
      truncated: a response that reaches its limit is graded as it is (grade), or its return continues with
        the critic's value of what it had written (bootstrap, ppo only), or nothing is learned from it (drop);
        null is the algorithm's own.
      overlong_buffer: the last share of a response's limit, over which the reward falls; 0 is none, null the
        algorithm's own.
      overlong_penalty: reward units that are lost at the limit itself.
      dynamic_sampling: the most batches of prompts that a round may sample until all its groups of samples
        differ in reward; 1 learns from the first as it is, null is the algorithm's own (for those that
        compare samples).
    """

    epochs: int = 1
    minibatches: int = 1
    accumulate: int = 1
    discount: float = 1.0
    gae_lambda: float = 0.95
    normalize_advantages: bool = True
    normalize_groups: bool | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    dual_clip: float | None = None
    value_clip: float | None = 0.2
    reward_clip: float | None = None
    aggregation: Aggregation | None = None
    constant: float | None = None
    entropy: float = 0.0
    temperature: float | None = None
    importance: ImportanceMode = "token_truncate"
    importance_cap: float | None = 2.0
    importance_floor: float | None = None
    truncated: Truncated | None = None
    overlong_buffer: float | None = None
    overlong_penalty: float = 1.0
    dynamic_sampling: int | None = None
    kl: KLConfig = field(default_factory=KLConfig)

    def __post_init__(self) -> None:
        check_unit_interval(discount=self.discount, gae_lambda=self.gae_lambda)
        for name in ("epochs", "minibatches", "accumulate", "dynamic_sampling"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"ppo.{name} must be at least 1; got {value}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"ppo.{name} must be positive; got {value}")
        if self.clip_low is not None and self.clip_low > 1:
            raise ValueError(f"ppo.clip_low must be at most 1; got {self.clip_low}")
        if self.overlong_buffer is not None and not 0 <= self.overlong_buffer <= 1:
            raise ValueError(
                "ppo.overlong_buffer is a share of a response's limit and must lie in [0, 1]; "
                f"got {self.overlong_buffer}"
            )
        high = 0.0 if self.clip_high is None else self.clip_high
        if self.dual_clip is not None and self.dual_clip <= 1 + high:
            raise ValueError(
                f"ppo.dual_clip must lie above 1 + ppo.clip_high = {1 + high:g}; got {self.dual_clip}"
            )
        self._check_importance()

    def _check_importance(self) -> None:
        floor, cap = self.importance_floor, self.importance_cap
        if cap is None and (floor is not None or self.importance != "token_truncate"):
            set_one = "importance_floor" if floor is not None else "importance"
            raise ValueError(
                f"ppo.{set_one} bounds importance weights, which ppo.importance_cap=null switches off: "
                "set a cap, or leave it out"
            )
        if floor is not None and cap is not None and floor >= cap:
            raise ValueError(f"ppo.importance_floor must lie below ppo.importance_cap; got {floor} and {cap}")

    @property
    def needs_reference(self) -> bool:
        """Whether anything is compared with the reference."""
        return self.kl.start > 0 or self.kl.target is not None

    @property
    def pieces(self) -> int:
        """Equal parts into which a round is cut: minibatches x micro-batches."""
        return self.minibatches * self.accumulate


_POSITIVE = (
    "clip_low",
    "clip_high",
    "value_clip",
    "reward_clip",
    "constant",
    "temperature",
    "importance_cap",
    "importance_floor",
    "overlong_penalty",
)


def own(value: Value | None, name: str) -> Value:
    """A setting whose null stands for the algorithm's own value, once it is settled.

    Args:
      name: in the `ppo` section of a config, for the message.
    Returns: the value.
    Raises: ValueError if it is still null.
    """
    if value is None:
        raise ValueError(
            f"ppo.{name} is null: the algorithm's own value is filled in by rl.policy.algorithms.settled"
        )
    return value


def check_unit_interval(**values: float) -> None:
    """Checks factors that must lie in [0, 1].

    Args:
      values: each by its name in the `ppo` section of a config.
    Raises: ValueError for the first that lies outside.
    """
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must lie in [0, 1]; got {value} (ppo.{name} in the config)")
