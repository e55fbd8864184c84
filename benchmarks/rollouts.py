"""Sampling a round with responses of very different lengths: as one batch, and through the engine's slots.

    python -m benchmarks.rollouts [--base smollm2-135m-instruct] [--rows 64] [--slots 32] [--most 512]

Prompts of the embedded problems, limits log-normal (median 60, at most 512), temperature 1, no stop token;
without a base, 4 million random weights with a vocabulary of 4096. Both samplers take turns in one process,
after a first pass of each. One JSON line per turn: wall-clock and processor seconds (all threads), tokens,
and the share of rows in decoding steps in which nothing was decoded.

Targets: under 15 % of rows wasted by the engine.
"""

import argparse
import json
import time

import jax
import numpy as np

import jaxmoe
from jaxmoe.datasets.programs import pretraining_texts, problems
from jaxmoe.generation.sampling import Sampling
from jaxmoe.language_model import LanguageModel
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import load_tokenizer, train_bpe
from rl.feedback.problems import Problem
from rl.stepcoder.engine_sampler import EngineSampler
from rl.stepcoder.prompts import make_prompt
from rl.stepcoder.rollouts import RolloutConfig, RolloutTask
from rl.stepcoder.sampler import Sampler

SAMPLES, MEDIAN, SPREAD = 4, 60, 0.9


def tasks_of(tokenizer, rows: int, most: int) -> list[RolloutTask]:
    """Problems, each with its own limit."""
    rng = np.random.default_rng(0)
    limits = np.clip(rng.lognormal(np.log(MEDIAN), SPREAD, rows // SAMPLES), 1, most).astype(int)
    keys = ("id", "prompt", "starter_code", "canonical_solution", "fn_name", "inputs", "outputs")
    read = [Problem(**{key: row[key] for key in keys}) for row in problems(len(limits))]
    # the instruction form: only its limit ends a response of a model that writes at random
    made = [make_prompt(tokenizer, problem, form="instruction") for problem in read]
    return [RolloutTask(*one, int(limit)) for *one, limit in zip(read, made, limits, strict=True)]


def main() -> None:
    """Prints a JSON line for each turn of each sampler."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", help="checkpoint: folder, file or name")
    parser.add_argument("--rows", type=int, default=64, help="responses of a round")
    parser.add_argument("--slots", type=int, default=32, help="of the engine")
    parser.add_argument("--most", type=int, default=512, help="tokens of the longest response")
    parser.add_argument("--turns", type=int, default=2, help="turns of each")
    options = parser.parse_args()
    if options.base:
        lm, tokenizer = jaxmoe.load(options.base), load_tokenizer(options.base)
    else:
        tokenizer = train_bpe(
            [text for text, _ in zip(pretraining_texts(400), range(400), strict=True)], 4096
        )
        lm = LanguageModel.random(ModelConfig(4096, 256, 704, 4, 4, 4, 64), train="all")
    tasks = tasks_of(tokenizer, options.rows, options.most)
    config = RolloutConfig(
        prompts=len(tasks),
        samples=SAMPLES,
        response_tokens=options.most,
        slots=options.slots,
        form="instruction",
    )
    made = (lm.weights.definition, lm.mesh, tokenizer, (), 0, lm.dtype)
    samplers = {"batches": Sampler(*made), "engine": EngineSampler(*made)}
    for turn in range(options.turns + 1):
        for name, sampler in samplers.items():
            began = time.perf_counter(), time.process_time()
            sampled = sampler.sample(
                lm.weights.trainable,
                lm.weights.frozen,
                tasks,
                config,
                samples=SAMPLES,
                sampling=Sampling(1.0),
                key=jax.random.key(turn),
            )
            wall, processor = time.perf_counter() - began[0], time.process_time() - began[1]
            tokens = int(sampled.rollout.response_mask_BW.sum()) + sampled.tail_tokens
            wasted = sampled.wasted
            if name == "batches":  # every row runs until the longest ends
                wasted = 1 - tokens / (len(tasks) * SAMPLES * max(task.limit for task in tasks))
            told = {
                "sampler": name,
                "turn": turn,
                "seconds": round(wall, 1),
                "processor_s": round(processor, 1),
            }
            if turn:
                print(json.dumps(told | {"tokens": tokens, "wasted": round(wasted, 3)}), flush=True)


if __name__ == "__main__":
    main()
