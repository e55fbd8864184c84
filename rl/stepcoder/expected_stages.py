"""How far a curriculum will get, by simulation: shown before a run starts, when it can still be changed.

Every stage of every problem is passed at one rate. No real policy behaves like that, but the simulation tells
whether problems come up often enough: with thousands of problems and few rounds, no pass rate brings one to
its whole task.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rl.stepcoder.curriculum import Curriculum

# At most this many problems are simulated, with as many fewer rounds: shares do not depend on the number.
MOST = 1000


class StageCurve(NamedTuple):
    """The share of the problems with more than one stage that are at the whole task, along a run.

    Attributes:
      pass_rate: of every sample, at every stage.
      at: fractions of the run's rounds, in (0, 1].
      finished: share at the whole task after each of them.
    """

    pass_rate: float
    at: Sequence[float]
    finished: list[float]


def expected_stages(
    curriculum: Curriculum,
    *,
    rounds: int,
    prompts: int,
    samples: int,
    pass_rate: float,
    seed: int = 0,
    at: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
) -> StageCurve:
    """Simulates a run's rounds; the curriculum itself does not change.

    Args:
      rounds: of the run.
      prompts: problems of a round.
      samples: responses to each.
      pass_rate: in [0, 1].
      at: ascending fractions of the run.
    Returns: the curve; all 1 if no problem has more than one stage.
    """
    names = list(curriculum.stages)
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, min(len(names), MOST)).astype(int)]
    part = curriculum.among(chosen)
    staged = [name for name, count in part.stages.items() if count > 1]
    count = max(1, round(rounds * len(chosen) / len(names)))
    rng, done = np.random.default_rng(seed), 0
    finished: list[float] = []
    for share in at:
        for number in range(done, max(done, round(share * count))):
            for name in part.choose(prompts, round_number=number, seed=seed):
                part.update(name, (rng.random(samples) < pass_rate).tolist())
            done = number + 1
        reached = sum(part.stage(name) == 0 for name in staged)
        finished.append(reached / len(staged) if staged else 1.0)
    return StageCurve(pass_rate, at, finished)


def describe(curriculum: Curriculum, *, rounds: int, prompts: int, samples: int) -> str:
    """One line on what to expect of a run, at three pass rates.

    Args:
      rounds, prompts, samples: as for `expected_stages`.
    Returns: a line without a line break.
    """
    counts = list(curriculum.stages.values())
    staged = sum(count > 1 for count in counts)
    if not staged:
        return f"curriculum: none of {len(counts)} problems has more than one stage"
    curves = [
        expected_stages(curriculum, rounds=rounds, prompts=prompts, samples=samples, pass_rate=rate)
        for rate in (0.3, 0.5, 0.8)
    ]
    visits = rounds * prompts / len(counts)
    told = "; ".join(
        f"{curve.pass_rate:.0%}: {' '.join(f'{share:.0%}' for share in curve.finished)}" for curve in curves
    )
    stages = "2" if max(counts) == 2 else f"2 to {max(counts)}"
    return (
        f"curriculum: {staged} of {len(counts)} problems have {stages} stages, {visits:.1f} rounds "
        f"a problem; of these the share expected at the whole task after each quarter of the run, by the "
        f"pass rate of a stage: {told}"
    )
