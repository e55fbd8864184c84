"""Decoding compared with llama.cpp, both from the same GGUF file, with 1 and 8 texts at a time.

    python -m benchmarks.beside_llama [--base smollm2-135m-instruct] [--python PYTHON] [--turns 3]

llama.cpp multiplies with the file's own 4-bit kernels; jaxmoe reads them into floats, and `base_dtype=int8`
quantizes those again. A turn reads the prompts (20 tokens each) and takes the likeliest token a fixed number
of times. The rows take turns, each in its own process; compilation and a first turn are not timed. With one
thread, what counts is the processor time of a turn, which other programs hardly affect: with several,
llama.cpp's threads spin while they wait for each other, and on busy cores they wait most of the time.
PYTHON has llama-cpp-python installed, which is not a dependency of this project. One JSON line per row: new
tokens per second of wall-clock time (median turn) and of processor time (all turns), the ratio to
llama.cpp's, and peak memory.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping

from benchmarks import turns

PROMPT = 20
TEXTS = (1, 8)
# how jaxmoe stores the weights: dtype, base_dtype
HELD = {"float32": ("float32", None), "bfloat16": ("bfloat16", None), "int8": ("float32", "int8")}


def prompts(texts: int) -> list[list[int]]:
    """Token ids that any vocabulary has, different for each text."""
    return [[100 + (7 * text + 13 * place) % 900 for place in range(PROMPT)] for text in range(texts)]


def jaxmoe_step(base: str, held: str, texts: int, new: int) -> Callable[[], None]:
    """All texts in one batch of `LanguageModel.generate`."""
    import numpy as np

    import jaxmoe

    dtype, base_dtype = HELD[held]
    lm, rows = jaxmoe.load(base, dtype=dtype, base_dtype=base_dtype), np.asarray(prompts(texts))

    def step() -> None:
        lm.generate(rows, max_new_tokens=new, stop_tokens=())

    step()
    return step


def llama_step(path: str, texts: int, new: int, threads: int) -> Callable[[], None]:
    """All texts as sequences of one llama.cpp context."""
    import llama_cpp as api  # pyright: ignore[reportMissingImports]
    import numpy as np

    api.llama_backend_init()
    model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
    settings = api.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_seq_max = texts * (PROMPT + new), texts * PROMPT, texts
    settings.n_threads = settings.n_threads_batch = threads
    context = api.llama_init_from_model(model, settings)
    size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    batch = api.llama_batch_init(texts * PROMPT, 0, 1)

    def decode(tokens: list[list[int]], start: int) -> list[int]:
        """Reads some tokens of every text; returns the likeliest next ones."""
        place, last = 0, []
        for text, own in enumerate(tokens):
            for offset, token in enumerate(own):
                batch.token[place], batch.pos[place] = token, start + offset
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, text
                batch.logits[place] = offset == len(own) - 1
                place += 1
            last.append(place - 1)
        batch.n_tokens = place
        if api.llama_decode(context, batch):
            raise SystemExit("llama.cpp refuses the batch")
        rows = (api.llama_get_logits_ith(context, place) for place in last)
        return [int(np.ctypeslib.as_array(row, (size,)).argmax()) for row in rows]

    def step() -> None:
        api.llama_memory_clear(api.llama_get_memory(context), True)
        found = decode(prompts(texts), 0)
        for place in range(new - 1):
            found = decode([[token] for token in found], PROMPT + place)

    step()
    return step


def counted(step: Callable[[], None]) -> Callable[[], Mapping[str, float]]:
    """The step, which also returns the processor time of all turns so far."""
    begun = time.process_time()

    def run() -> Mapping[str, float]:
        step()
        return {"cpu_s": time.process_time() - begun}

    return run


def main() -> None:
    """Runs all kinds in turns, first with one text, then with eight."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="smollm2-135m-instruct", help="GGUF file, or the name of one")
    parser.add_argument("--python", default=sys.executable, help="that has llama-cpp-python")
    parser.add_argument("--turns", type=int, default=3, help="turns of each kind")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--new", type=int, default=24, help="new tokens of a text")
    parser.add_argument("--kinds", default=",".join(HELD), help="how jaxmoe holds the weights")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # XLA starts one thread for each core that it may run on
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    if options.worker:
        kind, texts = options.worker[0], int(options.worker[1])
        if kind == "llama.cpp":
            turns.serve(counted(llama_step(options.base, texts, options.new, options.threads)))
        else:
            turns.serve(counted(jaxmoe_step(options.base, kind, texts, options.new)))
        return
    from benchmarks.real_model import processor
    from jaxmoe.named_models import NAMED_MODELS, named_model

    path = str(named_model(options.base)) if options.base in NAMED_MODELS else options.base
    print(json.dumps({"processor": processor(), "prompt": PROMPT, "new": options.new}), flush=True)
    for texts in TEXTS:
        kinds = {kind: sys.executable for kind in options.kinds.split(",")} | {"llama.cpp": options.python}
        words = ["-m", "benchmarks.beside_llama", "--new", str(options.new), "--base", path]
        words += ["--threads", str(options.threads)]
        timed = turns.take_turns(
            {kind: [python, *words, "--worker", kind, str(texts)] for kind, python in kinds.items()},
            options.turns,
        )
        theirs = timed["llama.cpp"]
        for kind, own in ((kind, timed[kind]) for kind in kinds):
            made = texts * options.new
            clock = statistics.median(b / a for a, b in zip(own.seconds, theirs.seconds, strict=True))
            row: dict[str, object] = {"texts": texts, "kind": kind}
            row["tokens_per_s"] = round(made / statistics.median(own.seconds), 1)
            row["tokens_per_cpu_s"] = round(options.turns * made / own.said["cpu_s"], 1)
            row["of_llama_cpp"] = {
                "clock": round(clock, 2),
                "processor": round(theirs.said["cpu_s"] / own.said["cpu_s"], 2),
            }
            print(json.dumps(row | {"peak_gb": round(own.peak_bytes / 1e9, 2)}), flush=True)


if __name__ == "__main__":
    main()
