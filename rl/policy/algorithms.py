"""The algorithms: each is an advantage function and a policy loss. A new one is a function and a line here.

An advantage function takes what a round is known by (`rl.policy.advantages.RoundSignals`) and the settings;
a policy loss takes log-probabilities, advantages and the settings, token by token.
"""

import difflib
from collections.abc import Callable
from typing import NamedTuple

from rl.policy import advantages, losses
from rl.policy.advantages import RoundAdvantages, RoundSignals
from rl.policy.config import RLConfig
from rl.policy.losses import Surrogate, Tokens


class Algorithm(NamedTuple):
    """How a policy learns from a round.

    Attributes:
      advantages: (round, settings) -> advantage and value target of every token, not normalized.
      loss: (log π, log π_old, advantage, mask, settings) -> loss of every token, of one shape.
      critic: whether a value function is trained; without one, values are 0.
      normalizes: whether `normalize_advantages` applies.
    """

    advantages: Callable[[RoundSignals, RLConfig], RoundAdvantages]
    loss: Callable[[Tokens, Tokens, Tokens, Tokens, RLConfig], Surrogate]
    critic: bool
    normalizes: bool


ALGORITHMS = {
    "ppo": Algorithm(advantages.gae_of_round, losses.ppo_loss, critic=True, normalizes=True),
    "grpo": Algorithm(advantages.grpo_of_round, losses.ppo_loss, critic=False, normalizes=False),
    "rloo": Algorithm(advantages.rloo_of_round, losses.ppo_loss, critic=False, normalizes=False),
}


def algorithm_named(name: str) -> Algorithm:
    """The algorithm of a name.

    Args:
      name: a key of ALGORITHMS.
    Returns: its advantage function and loss.
    Raises: ValueError for a name that is not registered, with the nearest one.

    >>> algorithm_named("grpo").critic
    False
    """
    if name not in ALGORITHMS:
        near = difflib.get_close_matches(name, ALGORITHMS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}; got {name!r}{hint}")
    return ALGORITHMS[name]
