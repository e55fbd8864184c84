"""Supervised fine-tuning on the canonical solutions of the practice problems, to compare PPO with.

It sees as many samples as a PPO run of the same config samples programs, with the adapter, problems and
learning rate of its row, and is measured at the same moments. It is told what PPO must find out: a canonical
solution spells out what the unclear words of its statement mean.
"""

from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxmoe.generation.sampling import Sampling
from jaxmoe.language_model import LanguageModel
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.text.stop_tokens import stop_tokens
from jaxmoe.tokenizer import load_tokenizer, pad_id
from rl.feedback.problems import Problem
from rl.feedback.prompts import FENCE, PromptForm
from rl.policy.agent import ForwardConfig
from rl.stepcoder.prompts import make_prompt
from rl.stepcoder.rollouts import OnRow, RolloutConfig, RolloutTask, Sampled, resolved
from rl.stepcoder.sampler import Sampler
from training.data.batch import NO_TASK, BatchConfig, Sample
from training.ppo.evaluation import HeldOut
from training.ppo.problems import open_problems
from training.ppo.rounds import HELD_OUT
from training.runtime.model import make_model
from training.runtime.optimizer import OptimizerConfig
from training.studies.cells import Result, Stopped
from training.studies.loramoe.tuning import Recipe, Tuner, stream
from training.studies.stepcoder.forgetting import Forgetting, ForgettingConfig, of_base
from training.studies.stepcoder.setup import PolicySetup
from training.supervised.step import StepConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# rows per batch
ROWS = 16


def fine_tune(
    setup: PolicySetup,
    optimizer: OptimizerConfig,
    forward: ForwardConfig,
    rounds: int,
    stopped: Stopped,
    forgetting: Forgetting | None = None,
) -> Result:
    """Held-out pass@1 after as many samples as a PPO run would have sampled programs.

    Args:
      rounds: number of rounds of that run.
      forgetting: what else is asked at every measurement.
    Returns: measurements as from a PPO run; "tokens" counts the targets.
    Raises: StoppedError between two batches.
    """
    source, seed = setup.source, setup.seed
    tokenizer, mesh = load_tokenizer(setup.base), setup.mesh.make()
    rollout = resolved(setup.rollout, tokenizer)
    programs = rollout.prompts * rollout.samples
    looked_at = moments(rounds, setup.evaluation.every)
    with setup.sandbox.grader(trace=False) as pool:
        problems = open_problems(setup.problems, pool, None, rollout, tokenizer)
        exam = HeldOut(problems.held_out, setup.evaluation, rollout, tokenizer, pool)
        samples = [encoded(problem, rollout.prompt_form, tokenizer) for problem in problems.train]
        length = -(-max(len(sample.tokens) for sample in samples) // 16) * 16
        data = stream(samples, tokenizer, BatchConfig(ROWS, length, seed=seed), rounds * programs)
        # as in reinforcement learning, no loss balances the experts
        recipe = Recipe(source.adapter, source.experts, source.lora, BalanceConfig(weight=0.0))
        step = StepConfig(forward.precision, remat=forward.remat, scan_layers=forward.scan_layers)

        measured = partial(_measured, exam, rollout, tokenizer, seed)
        points = [measured(make_model(source, tokenizer, mesh).lm, 0)]  # not kept: training loads its own
        snapshots = Tuner(mesh, step).run(
            setup.base,
            recipe,
            data,
            optimizer,
            [number * programs for number in looked_at],
            seed=seed,
            stopped=stopped,
        )
        forgotten: list[Result] = []
        for number, made in zip(looked_at, snapshots, strict=True):
            points.append(measured(made.lm, number))
            if forgetting is not None:
                forgotten.append({"round": number, **forgetting.of(made.lm)})
    targets = sum(int(batch.loss_mask.sum()) for batch in data.batches)
    found: Result = {"held_out": points, "rounds": {}, "stages": [], "tokens": targets}
    return found | ({"forgetting": forgotten} if forgotten else {})


def moments(rounds: int, every: int) -> list[int]:
    """When a run is measured.

    Args:
      rounds: number of rounds of the run.
      every: rounds between two measurements.
    Returns: numbers of rounds; the last is the run's end.
    """
    return sorted({*range(every, rounds, every), rounds})


def measure_base(setup: PolicySetup, forgetting: ForgettingConfig | None = None) -> Result:
    """A base before any practice.

    Args:
      forgetting: if given, also find what it knows, so that losses can be measured later.
    Returns: `start`, held-out pass@1 by difficulty and for "all"; `knowledge` from `forgetting.of_base`.
    """
    tokenizer = load_tokenizer(setup.base)
    rollout = resolved(setup.rollout, tokenizer)
    lm = make_model(setup.source, tokenizer, setup.mesh.make()).lm
    with setup.sandbox.grader(trace=False) as pool:
        problems = open_problems(setup.problems, pool, None, rollout, tokenizer)
        exam = HeldOut(problems.held_out, setup.evaluation, rollout, tokenizer, pool)
        start = _measured(exam, rollout, tokenizer, setup.seed, lm, 0)
    if forgetting is None:
        return {"start": start}
    asked = problems.held_out[: setup.evaluation.limit]
    prompts = [make_prompt(tokenizer, problem, "", rollout.prompt_form).ids for problem in asked]
    return {
        "start": start,
        "knowledge": of_base(forgetting, lm, tokenizer, prompts, rollout.response_tokens),
    }


def _measured(
    exam: HeldOut,
    rollout: RolloutConfig,
    tokenizer: "PreTrainedTokenizerBase",
    seed: int,
    lm: LanguageModel,
    number: int,
) -> dict[str, float]:
    """A point of the curve after a number of rounds."""
    told = exam.measure(partial(_sample, lm, rollout, tokenizer, seed, number))
    scores = {key.removeprefix("pass_at_1"): v for key, v in told.items() if key.startswith("pass_at_1")}
    return {"round": number} | {key.strip("_") or "all": round(v, 5) for key, v in scores.items()}


def encoded(problem: Problem, form: PromptForm, tokenizer: "PreTrainedTokenizerBase") -> Sample:
    """Prompt, the rest of the canonical solution, end token; everything after the prompt is a target.

    If the prompt asks for a code block, the solution is in one: otherwise, the first thing learned would be
    to leave the block out, which moves the model far and teaches no code.

    Args:
      problem: a problem with a canonical solution.
      form: form of the prompt.
      tokenizer: the base's tokenizer.
    Returns: tokens, and which of them are targets.
    """
    prompt = make_prompt(tokenizer, problem, "", form)
    rest = problem.canonical_solution[len(prompt.given) :]
    if form != "completion":
        rest = f"{FENCE}{problem.language}\n{rest.rstrip()}\n{FENCE}"
    target = [*tokenizer(rest, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    mask = np.zeros(len(prompt.ids) + len(target), np.float32)
    mask[len(prompt.ids) :] = 1
    return Sample(np.asarray([*prompt.ids, *target], np.int32), mask, NO_TASK)


def _sample(
    lm: LanguageModel,
    rollout: RolloutConfig,
    tokenizer: "PreTrainedTokenizerBase",
    seed: int,
    number: int,
    tasks: list[RolloutTask],
    samples: int,
    sampling: Sampling,
    first: int,
    turn: int = 0,
    on_row: OnRow | None = None,
) -> Sampled:
    """Samples with the random numbers of a PPO run of this seed at this round; studies have one turn."""
    assert turn == 0
    weights, ends = lm.weights, stop_tokens(tokenizer, lm.stop_tokens)
    sampler = Sampler(weights.definition, lm.mesh, tokenizer, ends, pad_id(tokenizer), lm.dtype)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), HELD_OUT + first)
    return sampler.sample(
        weights.trainable,
        weights.frozen,
        tasks,
        rollout,
        samples=samples,
        sampling=sampling,
        key=key,
        for_learning=False,
        on_row=on_row,
    )
