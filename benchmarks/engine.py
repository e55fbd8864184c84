"""New tokens per second with 32 texts of different lengths in flight: the engine, batches, transformers.

    python -m benchmarks.engine [--base smollm2-135m-instruct] [--texts 64] [--turns 2]

Prompts of 20 random tokens; answer lengths are log-normal (median 60, at most 512), T 0.8, no stop token. The
engine replaces a text that ends; `lm.generate` and transformers' `generate` run a batch of 32 until its
longest row ends, ours with a limit for each row. Only requested tokens count. float32; the rows take turns,
each in its own process; compilation and a first pass are not timed. One JSON line per row; for the engine,
with the share of decoding that ran on empty slots, while texts were waiting and overall.
SmolLM2-135M on two cores takes about ten minutes.

Targets on 2 CPU threads: at least twice the tokens/s of batches and of transformers, and under 10 % empty
slots.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks import turns
from benchmarks.real_model import export, processor

SLOTS, PROMPT, MEDIAN, MOST, SPREAD, TEMPERATURE = 32, 20, 60, 512, 0.9, 0.8
Step = Callable[[], Mapping[str, float] | None]


def texts(count: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts [count, PROMPT], and how many tokens each requests."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(MEDIAN), SPREAD, count), 1, MOST).astype(np.int32)
    return rng.integers(10, vocabulary, (count, PROMPT)).astype(np.int32), lengths


def engine_step(base: str, count: int) -> Step:
    """All texts through an engine of 32 slots."""
    import jaxmoe
    from jaxmoe.generation.engine import Engine, EngineConfig
    from jaxmoe.generation.requests import Request
    from jaxmoe.generation.sampling import Sampling

    lm = jaxmoe.load(base)
    prompts, lengths = texts(count, lm.config.vocab_size)

    def run(prompts: np.ndarray, lengths: np.ndarray) -> Mapping[str, float]:
        engine = Engine(lm, EngineConfig(slots=SLOTS, max_length=PROMPT + MOST, chunk=128))
        for seed, (prompt, new) in enumerate(zip(prompts, lengths, strict=True)):
            engine.submit(Request(prompt.tolist(), int(new), Sampling(TEMPERATURE), seed=seed))
        statistics = engine.statistics
        while engine._waiting:
            engine.step()
        waiting = statistics.wasted / max(statistics.wasted + statistics.decoded, 1)
        engine.run()
        return {
            "empty_while_waiting": round(waiting, 3),
            "empty": round(statistics.wasted / (statistics.wasted + statistics.decoded), 3),
        }

    # one program is compiled for each cache length
    run(prompts[:SLOTS], np.minimum(lengths[:SLOTS], 4))
    run(prompts[:2], np.asarray([300, 2]))
    return lambda: run(prompts, lengths)


def batches_step(base: str, count: int) -> Step:
    """All texts in batches of 32."""
    import jax

    import jaxmoe

    lm = jaxmoe.load(base)
    prompts, lengths = texts(count, lm.config.vocab_size)

    def step() -> None:
        for first in range(0, count, SLOTS):
            rows = slice(first, first + SLOTS)
            options = {"temperature": TEMPERATURE, "key": jax.random.key(first), "stop_tokens": ()}
            lm.generate(prompts[rows], max_new_tokens=lengths[rows], **options)

    step()  # one program for each length of the longest row
    return step


def transformers_step(folder: str, count: int) -> Step:
    """All texts in batches of 32, each until its longest row ends."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    prompts, lengths = texts(count, model.config.vocab_size)
    torch.manual_seed(0)

    def step() -> None:
        for first in range(0, count, SLOTS):
            ids = torch.tensor(prompts[first : first + SLOTS], dtype=torch.int64)
            new = int(lengths[first : first + SLOTS].max())
            options = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "pad_token_id": 0}
            mask = torch.ones_like(ids)
            model.generate(ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, **options)

    model.generate(torch.tensor(prompts[:2], dtype=torch.int64), max_new_tokens=2)
    return step


STEPS = {"engine": engine_step, "batches": batches_step, "transformers": transformers_step}


def main() -> None:
    """Runs all kinds in turns; prints medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="smollm2-135m-instruct", help="checkpoint: folder, file or name")
    parser.add_argument("--texts", type=int, default=64, help="texts of a turn")
    parser.add_argument("--turns", type=int, default=2, help="turns of each kind")
    parser.add_argument("--kinds", help="comma-separated; all that can run here if not given")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        turns.serve(STEPS[options.worker](options.base, options.texts))
        return
    here = [kind for kind in STEPS if kind != "transformers" or find_spec("torch")]
    kinds = options.kinds.split(",") if options.kinds else here
    if unknown := [kind for kind in kinds if kind not in here]:
        raise SystemExit(f"--kinds must be of {', '.join(here)}; got {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "hf")
        if "transformers" in kinds:
            export(options.base, folder)
        program = [sys.executable, "-m", "benchmarks.engine", "--texts", str(options.texts)]
        bases = {kind: str(folder) if kind == "transformers" else options.base for kind in kinds}
        timed = turns.take_turns(
            {kind: [*program, "--worker", kind, "--base", bases[kind]] for kind in kinds}, options.turns
        )
    _, lengths = texts(options.texts, 100)
    print(json.dumps({"processor": processor(), "texts": options.texts, "tokens": int(lengths.sum())}))
    rates = {}
    for kind in kinds:
        rates[kind] = int(lengths.sum()) / statistics.median(timed[kind].seconds)
        row = {"kind": kind, "tokens_per_s": round(rates[kind]), **timed[kind].said}
        print(json.dumps(row | {"peak_gb": round(timed[kind].peak_bytes / 1e9, 2)}))
    for kind in kinds[1:]:
        print(json.dumps({f"{kinds[0]}_over_{kind}": round(rates[kinds[0]] / rates[kind], 2)}))


if __name__ == "__main__":
    main()
