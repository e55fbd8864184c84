"""Supervised fine-tuning on the canonical solutions of the practice problems, to hold PPO against.

It sees as many samples as a PPO run of the same config draws programs, with the same adapter, problems and
learning rate, and is measured at the same moments. It is told what PPO must find out: a canonical solution
spells out what the unclear words of its statement mean.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxmoe.generation.sampling import Sampling
from jaxmoe.language_model import LanguageModel
from jaxmoe.tokenizer import load_tokenizer
from rl.feedback.problems import Problem
from rl.stepcoder.prompts import make_prompt
from rl.stepcoder.rollouts import Sampled, Sampler, Task
from training.data.batch import NO_TASK, BatchConfig, Sample
from training.ppo.config import PpoConfig
from training.ppo.problems import open_problems
from training.ppo.rounds import HELD_OUT, pass_at_1
from training.ppo.train import load_policy
from training.studies.cells import Result, Stopped
from training.studies.loramoe.tuning import Recipe, Tuner, stream_of
from training.supervised.step import StepConfig

# of a batch
ROWS = 16


def fine_tune(config: PpoConfig, stopped: Stopped) -> Result:
    """Held-out pass@1 after as many samples as `config` would have drawn programs; "tokens" are its targets.

    Raises: StoppedError between two batches.
    """
    tokenizer, mesh = load_tokenizer(config.base), config.mesh.make()
    forward, programs = config.forward, config.rollout.prompts * config.rollout.samples
    rounds = sorted({*range(0, config.rounds, config.evaluation.every), config.rounds})
    with config.sandbox.pool(trace=False) as pool:
        problems = open_problems(config.problems, pool, "none", config.cccs, config.rollout, tokenizer)
        held_out = problems.held_out[: config.evaluation.limit]
        samples = [encoded(problem, config, tokenizer) for problem in problems.train]
        length = -(-max(len(sample.tokens) for sample in samples) // 16) * 16
        data = stream_of(
            samples, tokenizer, BatchConfig(ROWS, length, seed=config.seed), config.rounds * programs
        )
        recipe = Recipe(config.adapter, config.experts, config.lora)
        precision: Any = forward.precision
        step = StepConfig(precision, remat=forward.remat, scan_layers=forward.scan_layers)

        measured = partial(_measured, config, tokenizer, pool, held_out)
        points = [measured(load_policy(config, mesh).lm, 0)]  # not kept: training loads its own
        runs = Tuner(mesh, step).run(
            config.base,
            recipe,
            data,
            config.optimizer,
            [number * programs for number in rounds[1:]],
            seed=config.seed,
            stopped=stopped,
        )
        points += [measured(snapshot.lm, number) for number, snapshot in zip(rounds[1:], runs, strict=True)]
    targets = sum(int(batch.loss_mask.sum()) for batch in data.batches)
    return {"held_out": points, "rounds": {}, "stages": [], "tokens": targets}


def measure_base(config: PpoConfig) -> dict[str, float]:
    """Held-out pass@1 of `config.base` by difficulty, and of "all", before any practice."""
    tokenizer = load_tokenizer(config.base)
    lm = load_policy(config, config.mesh.make()).lm
    with config.sandbox.pool(trace=False) as pool:
        problems = open_problems(config.problems, pool, "none", config.cccs, config.rollout, tokenizer)
        return _measured(config, tokenizer, pool, problems.held_out[: config.evaluation.limit], lm, 0)


def _measured(
    config: PpoConfig, tokenizer: Any, pool: Any, held_out: Sequence[Problem], lm: LanguageModel, number: int
) -> dict[str, float]:
    """A point of the curve after so many rounds."""
    told = pass_at_1(held_out, config, tokenizer, pool, partial(_sample, lm, tokenizer, config, number))
    scores = {key.removeprefix("pass_at_1"): v for key, v in told.items() if key.startswith("pass_at_1")}
    return {"round": number} | {key.strip("_") or "all": round(v, 5) for key, v in scores.items()}


def encoded(problem: Problem, config: PpoConfig, tokenizer: Any) -> Sample:
    """Prompt, the rest of the canonical solution, end; what follows the prompt is to be predicted."""
    prompt = make_prompt(tokenizer, problem, "", config.rollout.form)
    rest = problem.canonical_solution[len(prompt.given) :]
    target = [*tokenizer(rest, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    mask = np.zeros(len(prompt.ids) + len(target), np.float32)
    mask[len(prompt.ids) :] = 1
    return Sample(np.asarray([*prompt.ids, *target], np.int32), mask, NO_TASK)


def _sample(
    lm: LanguageModel,
    tokenizer: Any,
    config: PpoConfig,
    number: int,
    tasks: list[Task],
    samples: int,
    sampling: Sampling,
    start: int,
) -> Sampled:
    """Draws with the random numbers of a PPO run of this seed after so many rounds."""
    weights = lm.weights
    ends, pad = (tokenizer.eos_token_id,), tokenizer.pad_token_id
    sampler = Sampler(weights.definition, lm.mesh, tokenizer, ends, pad, lm.dtype)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), number), HELD_OUT + start)
    return sampler.sample(
        weights.trainable, weights.frozen, tasks, config.rollout, samples=samples, sampling=sampling, key=key
    )
