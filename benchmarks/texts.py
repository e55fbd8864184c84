"""Evaluation texts in batches and through the engine's slots: `python -m benchmarks.texts [--turns 3]`.

64 prompts, 16 at a time, at most 128 new tokens, sampled at temperature 1 from a random model with 6 million
weights: answers that end at a stop string (mean about 20 tokens), answers that all reach the limit, and
answers to prompts that share 400 tokens of examples. Both decode the same number of texts, not the same
tokens, so rates are in tokens per second. They take turns in one process; a first turn, with compilation,
does not count. One JSON line per kind of answer, with the median over the turns of the engine's rate relative
to the batches'.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import replace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from evals.models.engine_texts import EngineTexts
from evals.models.local_model import LocalModel
from jaxmoe.language_model import LanguageModel
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import train_bpe

TEXT = "the quick brown fox jumps over the lazy dog and again over the quiet river to an island"
COUNT, SLOTS, NEW = 64, 16, 128


def main() -> None:
    """Runs each kind of answer, with batches and engine in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=3, help="turns of each")
    turns = parser.parse_args().turns
    tokenizer = train_bpe([TEXT] * 4, 300)
    shape = ModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=688,
        num_layers=8,
        num_heads=4,
        num_kv_heads=4,
        head_dim=64,
    )
    lm = LanguageModel.random(shape, train="all")
    batches = LocalModel(lm, tokenizer, batch_size=SLOTS, max_length=1024)
    models = {"batches": batches, "engine": replace(batches, engine=EngineTexts(lm, SLOTS, 1024))}
    words = TEXT.split()
    short = [" ".join(words[n % 9 : n % 9 + 3 + n % 5]) for n in range(COUNT)]
    shared = " ".join(words * 12)
    kinds = {
        "ending at a stop string": (short, ("an", "o")),
        "all of the limit": (short, ()),
        "after shared examples": ([f"{shared} {prompt}" for prompt in short], ("an", "o")),
    }
    for kind, (prompts, stop) in kinds.items():
        rates: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(turns + 1):
            for name, model in models.items():
                start = time.perf_counter()
                texts = model.generate(prompts, NEW, stop, temperature=1.0, seed=turn)
                seconds = time.perf_counter() - start
                made = sum(len(tokenizer.encode(text)) for text in texts) if stop else COUNT * NEW
                rates[name] += [made / seconds] if turn else []
        ratio = statistics.median(b / a for a, b in zip(rates["batches"], rates["engine"], strict=True))
        medians = {name: round(statistics.median(found)) for name, found in rates.items()}
        print(json.dumps({"answers": kind, "tokens_per_s": medians, "engine_over_batches": round(ratio, 2)}))


if __name__ == "__main__":
    main()
