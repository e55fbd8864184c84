"""Time, tokens/s and peak memory of one fine-tuning step: LoRAMoE, plain LoRA of rank E·R, and every weight.

    python -m benchmarks.sft_step [--steps 20] [--kinds loramoe,lora,full] [--scan]

D 256, L 4, 4 heads, FFN 688, vocabulary 4096, batch 8, T 256, E 8, R 4, float32. Each kind runs in its own
process, in turns, so that the medians see the same machine; one JSON line per kind, and their ratio.
Targets on 2 CPU threads: LoRAMoE 0.35 s, 0.9 GB, at most 1.1 times plain LoRA.
"""

import argparse
import itertools
import json
import statistics
import sys

from benchmarks import turns

KINDS = ("loramoe", "lora", "full")


def worker(kind: str, scan: bool) -> None:
    """Compiles one kind's step; then, for each line read, runs one step and answers with its seconds."""
    from training.runtime.allocator import keep_memory, one_heap

    one_heap()
    import jax
    import numpy as np

    from jaxmoe.model import params
    from jaxmoe.model.balance import BalanceConfig
    from jaxmoe.model.config import ExpertConfig, ModelConfig
    from training.data.batch import Batch
    from training.runtime import model
    from training.runtime.optimizer import OptimizerConfig
    from training.supervised import train as run
    from training.supervised.step import StepConfig, init_state

    rows, length, vocabulary = 8, 256, 4096
    shape = ModelConfig(vocabulary, 256, 688, 4, 4, 4, 64)
    experts = {
        "loramoe": ExpertConfig(num_experts=8, rank=4),
        "lora": ExpertConfig(num_experts=1, rank=32, routing="none"),
        "full": None,
    }[kind]
    mesh = params.make_mesh(-1)
    made = model.new_model(shape, experts, mesh)
    parts = run.make_machinery(
        made.abstract,
        made.train,
        mesh,
        OptimizerConfig(lr=1e-4),
        StepConfig(scan_layers=scan, loss_chunk=32, remat="none"),
        BalanceConfig(),
        steps=1000,
        seed=0,
    )
    state = init_state(made.lm.weights.trainable, made.abstract, parts.optimizer, parts.shardings)
    rng = np.random.default_rng(0)
    batch = Batch(
        tokens=rng.integers(0, vocabulary, (rows, length)).astype(np.int32),
        loss_mask=np.ones((rows, length), np.float32),
        segment_ids=np.ones((rows, length), np.int32),
        positions=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        task_types=np.asarray([[0], [1]] * (rows // 2), np.int32),
    )
    batch = jax.device_put(batch)
    frozen = made.lm.weights.frozen
    state, metrics = parts.step_fn(state, frozen, batch, 0)
    jax.block_until_ready(metrics)
    keep_memory()
    steps = itertools.count(1)

    def step() -> None:
        nonlocal state, metrics
        state, metrics = parts.step_fn(state, frozen, batch, next(steps))
        jax.block_until_ready(metrics)

    turns.serve(step)


def main() -> None:
    """Steps every kind in turns and prints the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20, help="steps of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which of loramoe, lora, full")
    parser.add_argument("--scan", action="store_true", help="scan the layers instead of unrolling them")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.scan)
        return
    kinds = options.kinds.split(",")
    flags = ["--scan"] if options.scan else []
    commands = {
        kind: [sys.executable, "-m", "benchmarks.sft_step", "--worker", kind, *flags] for kind in kinds
    }
    timed = turns.take_turns(commands, options.steps)
    times = {kind: found.seconds for kind, found in timed.items()}
    medians = {kind: statistics.median(seconds) for kind, seconds in times.items()}
    for kind in kinds:
        row = {"kind": kind, "step_s": round(medians[kind], 4), "min_s": round(min(times[kind]), 4)}
        row |= {
            "tokens_per_s": round(8 * 256 / medians[kind]),
            "peak_gb": round(timed[kind].peak_bytes / 1e9, 3),
        }
        print(json.dumps(row))
    if {"loramoe", "lora"} <= set(kinds):
        pairs = [a / b for a, b in zip(times["loramoe"], times["lora"], strict=True)]
        print(json.dumps({"loramoe_over_lora": round(statistics.median(pairs), 3)}))


if __name__ == "__main__":
    main()
