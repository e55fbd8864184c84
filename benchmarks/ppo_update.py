"""Time of one PPO update: 16 responses of 64 tokens, sampled, scored, and learned from in 4 epochs.

    python -m benchmarks.ppo_update [--updates 5] [--kinds experts,full] [--threads 2] [--peer trl]

D 256, L 4, 4 heads, FFN 688, vocabulary 4096, prompts of 64 tokens, a trivial reward, float32. `experts`
trains 8 LoRA experts of rank 4 on a backbone that policy, reference and critic share; `full` trains every
weight, with a separate critic and reference. There are 16 different prompts, or one with 16 samples, which is
then computed once. Each row runs in its own process and prints one JSON line: medians of the whole update and
of its parts. Targets on 2 CPU threads, 16 prompts: experts 1.0 s, full 2.0 s. With --peer trl, only the rows
with 16 prompts run, in turns with TRL's (benchmarks.ppo_trl), and the ratio of the fastest is reported.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

ROWS = [  # kind, critic's body, prompts, samples
    ("experts", "frozen", 16, 1),
    ("experts", "frozen", 1, 16),
    ("experts", "experts", 16, 1),
    ("experts", "experts", 1, 16),
    ("full", "full", 16, 1),
    ("full", "full", 1, 16),
]
LENGTH, PROMPT, EPOCHS = 64, 64, 4


def build(kind: str, body: str, prompts: int, samples: int):
    """The jitted parts of an update and its state, as `training.ppo.policy` makes them."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from jaxmoe.model import params
    from jaxmoe.model.config import ExpertConfig, ModelConfig
    from rl.policy.agent import Agent, ForwardConfig, Weights, make_score
    from rl.policy.config import RLConfig
    from rl.policy.critic import new_critic
    from rl.policy.ppo import AgentState, Learner

    mesh = params.single_device_mesh()
    experts = ExpertConfig(num_experts=8, rank=4) if kind == "experts" else None
    model = params.build(ModelConfig(4096, 256, 688, 4, 4, 4, 64), experts)
    parts = params.split(model, "experts" if experts else "all")
    head, critic = new_critic(256, body, parts.trainable)
    reference = None if experts else jax.tree.map(jnp.copy, parts.trainable)
    agent = Agent(parts.definition, mesh, head, body, True, ForwardConfig(scan_layers=False))
    config = RLConfig(epochs=EPOCHS)
    optimizers = (optax.adam(1e-5), optax.adam(1e-5))
    state = AgentState(
        parts.trainable,
        optimizers[0].init(parts.trainable),
        critic,
        optimizers[1].init(critic),
        jnp.zeros((), jnp.int32),
    )
    shardings = jax.tree.map(lambda _: params.replicated(mesh), state)
    state = jax.device_put(jax.tree.map(np.asarray, state), shardings)
    learner = Learner(agent, "ppo", config, optimizers, samples, shardings)
    return agent, Weights(parts.frozen, reference), state, learner, make_score(agent, 1, samples)


def worker(kind: str, body: str, prompts: int, samples: int, updates: int) -> None:
    """Runs updates and prints the medians."""
    import jax
    import numpy as np

    from jaxmoe.generation.decode import DecodeConfig, PromptBatch, run
    from jaxmoe.generation.sampling import Sampling
    from jaxmoe.model import params
    from rl.policy.trajectory import Outcomes, Rollout

    agent, weights, state, learner, score = build(kind, body, prompts, samples)
    rng = np.random.default_rng(0)
    given = rng.integers(1, 4096, (prompts, PROMPT)).astype(np.int32)
    mask = np.ones_like(given)
    rows = prompts * samples
    decode = DecodeConfig(slots=LENGTH, sampling=Sampling(1.0), samples=samples, score_sampler=True)
    limits = np.full(rows, LENGTH, np.int32)
    seconds: list[dict[str, float]] = []
    for update in range(updates + 2):
        times = [time.perf_counter()]
        drawn = run(
            params.ModelParams(agent.definition, state.policy, weights.frozen),
            PromptBatch(given, mask, limits),
            jax.random.key(update),
            config=decode,
            mesh=agent.mesh,
        )
        tokens = np.asarray(drawn.tokens_BW)
        times.append(time.perf_counter())
        ones = np.ones((rows, LENGTH), np.float32)
        rollout = Rollout(given, mask, tokens, ones, np.asarray(drawn.sampler_logprobs_BW))
        scores = jax.block_until_ready(score(state.policy, state.critic, weights, rollout))
        times.append(time.perf_counter())
        outcomes = Outcomes((tokens % 2 == 0).mean(1).astype(np.float32), ones)  # the share of even tokens
        order = np.random.default_rng(update)
        state, metrics = learner.learn(state, weights, rollout, outcomes, scores, beta=0.02, rng=order)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter())
        parts = np.diff(times)
        seconds.append(
            {"sample_s": parts[0], "score_s": parts[1], "learn_s": parts[2], "update_s": sum(parts)}
        )
    assert float(metrics["first_ratio_error"]) == 0.0
    medians = {k: round(statistics.median(s[k] for s in seconds[2:]), 4) for k in seconds[0]}
    fastest = round(min(s["update_s"] for s in seconds[2:]), 4)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    row = {
        "kind": kind,
        "critic": body,
        "prompts": prompts,
        "samples": samples,
        **medians,
        "fastest_s": fastest,
    }
    print(json.dumps(row | {"peak_mib": peak, "threads": len(os.sched_getaffinity(0))}), flush=True)


def beside_trl(kind: str, updates: int, threads: int) -> None:
    """Runs ours, TRL's, ours, TRL's; prints the fastest update of each, and their ratio."""
    number = next(i for i, row in enumerate(ROWS) if row[0] == kind and row[2] == 16)
    ours = ["--row", str(number), "--updates", str(updates), "--threads", str(threads)]
    commands = {"ours": ["benchmarks.ppo_update", *ours], "trl": ["benchmarks.ppo_trl", kind, str(updates)]}
    silence = os.environ | {"TRL_EXPERIMENTAL_SILENCE": "1"}
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    fastest: dict[str, list[float]] = {"ours": [], "trl": []}
    for _ in range(2):
        for name, command in commands.items():
            line = ["taskset", "-c", cores, sys.executable, "-m", *command]
            said = subprocess.run(
                line, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=silence
            )
            told = said.stdout.decode().splitlines()[-1]
            print(told, flush=True)
            fastest[name].append(json.loads(told)["fastest_s"])
    mine, theirs = min(fastest["ours"]), min(fastest["trl"])
    print(f"{kind}: ours {mine:.2f} s, TRL {theirs:.2f} s, {theirs / mine:.1f} times as long")


def main() -> None:
    """Starts one process per row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--kinds", default="experts,full")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", choices=["trl"], help="run it in turns with ours, where it is installed")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row is not None:
        cores = sorted(os.sched_getaffinity(0))[: options.threads]
        os.sched_setaffinity(0, cores)
        worker(*ROWS[options.row], options.updates)
        return
    if options.peer:
        for kind in options.kinds.split(","):
            beside_trl(kind, options.updates, options.threads)
        return
    for number, row in enumerate(ROWS):
        if row[0] in options.kinds.split(","):
            arguments = ["--row", str(number), "--updates", str(options.updates)]
            arguments += ["--threads", str(options.threads)]
            subprocess.run([sys.executable, __file__, *arguments], check=True)


if __name__ == "__main__":
    main()
