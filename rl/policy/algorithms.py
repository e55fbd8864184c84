"""The algorithms: each is an advantage function and a policy loss. A new one is a function and a line here.

An advantage function takes the signals of a round (`rl.policy.advantages.RoundSignals`) and the settings; a
policy loss takes log-probabilities, advantages and the settings, token by token. `settled` fills in what a
config leaves to the algorithm, and refuses the settings of other algorithms. docs/concepts/algorithms.md has
the formulas.
"""

import dataclasses
import difflib
from collections.abc import Callable
from typing import NamedTuple

from jaxmoe.json_values import JsonMapping
from rl.policy import advantages, losses
from rl.policy.advantages import RoundAdvantages, RoundSignals
from rl.policy.config import RLConfig
from rl.policy.losses import Surrogate, Tokens

OwnSettings = JsonMapping


class Algorithm(NamedTuple):
    """How a policy learns from a round.

    Attributes:
      advantages: (round, settings) -> advantage and value target of every token, not normalized.
      loss: (log π, log π_old, advantage, mask, settings) -> loss of every token, of one shape.
      own: the settings that this algorithm uses but not all do, each with its value for configs that leave it
        out.
      kl: likewise for ppo.kl.coefficient.
      critic: whether a value function is trained; without one, values are 0.
    """

    advantages: Callable[[RoundSignals, RLConfig], RoundAdvantages]
    loss: Callable[[Tokens, Tokens, Tokens, Tokens, RLConfig], Surrogate]
    own: OwnSettings
    kl: float = 0.02
    critic: bool = False

    @property
    def normalizes(self) -> bool:
        """Whether `normalize_advantages` applies."""
        return "normalize_advantages" in self.own

    @property
    def compares(self) -> bool:
        """Whether the samples of a prompt are compared, so that there must be several of them."""
        return "dynamic_sampling" in self.own


# Settings that all algorithms use, with values that differ.
_ALL: OwnSettings = {"aggregation": "token_mean", "truncated": "grade", "overlong_buffer": 0.0}
_CLIP: OwnSettings = _ALL | {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
_WHITENED: OwnSettings = {"normalize_advantages": True}
_GROUP: OwnSettings = {"dynamic_sampling": 1}
_SCALED: OwnSettings = _GROUP | {"normalize_groups": True}
_CRITIC: OwnSettings = _WHITENED | {"discount": 1.0, "gae_lambda": 0.95, "value_clip": 0.2}
_DAPO: OwnSettings = {"clip_high": 0.28, "truncated": "drop", "overlong_buffer": 0.2, "dynamic_sampling": 10}
_GSPO: OwnSettings = {"aggregation": "sequence_mean", "clip_low": 3e-4, "clip_high": 4e-4}

_gae, _reinforce = advantages.gae_of_round, advantages.reinforce_of_round
_grpo, _rloo, _centered = advantages.grpo_of_round, advantages.rloo_of_round, advantages.centered_of_round
ALGORITHMS = {
    "ppo": Algorithm(_gae, losses.ppo_loss, _CLIP | _CRITIC, critic=True),
    "grpo": Algorithm(_grpo, losses.ppo_loss, _CLIP | _SCALED),
    "rloo": Algorithm(_rloo, losses.ppo_loss, _CLIP | _GROUP),
    "reinforce++": Algorithm(_reinforce, losses.ppo_loss, _CLIP | _WHITENED | {"discount": 1.0}),
    "reinforce++_baseline": Algorithm(_centered, losses.ppo_loss, _CLIP | _WHITENED | _GROUP),
    "dr_grpo": Algorithm(_centered, losses.ppo_loss, _CLIP | _GROUP | {"aggregation": "constant"}, kl=0.0),
    "dapo": Algorithm(_grpo, losses.ppo_loss, _CLIP | _SCALED | _DAPO, kl=0.0),
    "gspo": Algorithm(_grpo, losses.gspo_loss, _ALL | _SCALED | _GSPO, kl=0.0),
    "cispo": Algorithm(
        _grpo, losses.cispo_loss, _ALL | _SCALED | {"clip_low": 1.0, "clip_high": 4.0}, kl=0.0
    ),
}


def algorithm_named(name: str) -> Algorithm:
    """The algorithm with this name.

    Args:
      name: a key of ALGORITHMS.
    Returns: its advantage function, loss and settings.
    Raises: ValueError for a name that is not registered, suggesting the nearest one.

    >>> algorithm_named("grpo").critic
    False
    """
    if name not in ALGORITHMS:
        near = difflib.get_close_matches(name, ALGORITHMS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}; got {name!r}{hint}")
    return ALGORITHMS[name]


_DEFAULTS = {f.name: f.default for f in dataclasses.fields(RLConfig)}


def adapted(name: str, config: RLConfig) -> RLConfig:
    """Settings chosen for another algorithm, without those that this one does not use.

    Args:
      name: of the algorithm.
      config: settings.
    Returns: settings whose unused ones have their defaults, so that `settled` takes them.

    >>> adapted("rloo", RLConfig(gae_lambda=1.0, epochs=2)) == RLConfig(epochs=2)
    True
    """
    return dataclasses.replace(config, **{one: _DEFAULTS[one] for one in _unused(algorithm_named(name))})


def settled(name: str, config: RLConfig) -> RLConfig:
    """The settings as an algorithm uses them: null replaced by its own values.

    Args:
      name: of the algorithm.
      config: what was asked for; settled settings come back as they are.
    Returns: settings in which no null stands for the algorithm's own value.
    Raises: ValueError for a setting that the algorithm does not use, or that its other settings leave unused.

    >>> made = settled("dapo", RLConfig())
    >>> made.clip_low, made.clip_high, made.aggregation, made.truncated
    (0.2, 0.28, 'token_mean', 'drop')
    >>> settled("dapo", RLConfig(gae_lambda=0.9))
    Traceback (most recent call last):
    ValueError: algorithm=dapo does not use ppo.gae_lambda; got 0.9: leave it out, or give 0.95 (used by ppo)
    """
    algorithm = algorithm_named(name)
    for setting in _unused(algorithm):
        value = getattr(config, setting)
        if value != _DEFAULTS[setting]:
            users = ", ".join(key for key, other in ALGORITHMS.items() if setting in other.own)
            usual = "null" if _DEFAULTS[setting] is None else _DEFAULTS[setting]
            raise ValueError(
                f"algorithm={name} does not use ppo.{setting}; got {value}: leave it out, or give {usual} "
                f"(used by {users})"
            )
    mine = {
        setting: value
        for setting, value in algorithm.own.items()
        if _DEFAULTS[setting] is None and getattr(config, setting) is None
    }
    kl = config.kl
    if kl.coefficient is None:
        kl = dataclasses.replace(kl, coefficient=algorithm.kl)
    made = dataclasses.replace(config, **mine, kl=kl)
    _check(algorithm, name, made)
    return made


def _unused(algorithm: Algorithm) -> list[str]:
    """Settings that only other algorithms use."""
    return sorted({setting for other in ALGORITHMS.values() for setting in other.own} - algorithm.own.keys())


def _check(algorithm: Algorithm, name: str, config: RLConfig) -> None:
    """Refuses settings that others leave without effect, or that need a critic."""
    if config.truncated == "bootstrap" and not algorithm.critic:
        raise ValueError(
            f"ppo.truncated=bootstrap needs a critic, which algorithm={name} does not train; "
            "set ppo.truncated=grade or drop, or algorithm=ppo"
        )
    if config.constant is not None and config.aggregation != "constant":
        raise ValueError(
            f"ppo.constant is for ppo.aggregation=constant; got {config.constant:g} with "
            f"{config.aggregation}: leave it out"
        )
    if config.overlong_penalty != 1.0 and not config.overlong_buffer:
        raise ValueError(
            f"ppo.overlong_penalty needs ppo.overlong_buffer above 0; got {config.overlong_penalty:g} "
            "without one"
        )
    if config.kl.sync_every and not config.needs_reference:
        raise ValueError(
            f"ppo.kl.sync_every renews a reference that ppo.kl.coefficient=0 leaves out; got "
            f"{config.kl.sync_every}: leave it out, or set a coefficient"
        )
