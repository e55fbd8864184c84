"""Sampling speed compared with torch transformers: `python -m benchmarks.generate`, one JSON line per row.

Batch 16, prompt 64, 128 new tokens, T 0.8, top-p 0.9, float32, two threads; D 256, L 4, heads 4, FFN 688,
vocabulary 4096; LoRAMoE with 8 experts of rank 4 on the feed-forward projections, and no experts. The weights
are random, which gives the widest nuclei. The rows take turns, so that a busy machine slows all of them
alike; a row's figure is its fastest round, excluding compilation.
"""

import json
import os
import time
from collections.abc import Callable

THREADS = 2
os.environ["OMP_NUM_THREADS"] = str(THREADS)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if hasattr(os, "sched_setaffinity"):  # XLA starts one thread for each core that it may run on
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])

import jax  # noqa: E402
import numpy as np  # noqa: E402

from jaxmoe.families import config_to_hf  # noqa: E402
from jaxmoe.language_model import LanguageModel  # noqa: E402
from jaxmoe.model import params  # noqa: E402
from jaxmoe.model.config import ExpertConfig, ModelConfig  # noqa: E402

BATCH, PROMPT, NEW = 16, 64, 128
TEMPERATURE, TOP_P = 0.8, 0.9
ROUNDS = 6
MODEL = ModelConfig(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=688,
    num_layers=4,
    num_heads=4,
    num_kv_heads=4,
    head_dim=64,
)


def jaxmoe_sampler(experts: ExpertConfig | None) -> Callable[[np.ndarray], np.ndarray]:
    """Our own sampler on a random model."""
    model = params.build(MODEL, experts)
    lm = LanguageModel(MODEL, params.split(model), params.single_device_mesh(), experts)

    def run(prompts: np.ndarray) -> np.ndarray:
        options = {"temperature": TEMPERATURE, "top_p": TOP_P, "key": jax.random.key(0)}
        return lm.generate(prompts, max_new_tokens=NEW, **options).tokens

    return run


def transformers_sampler() -> Callable[[np.ndarray], np.ndarray]:
    """transformers' `generate` on a random model of the same shape, without experts."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    config = LlamaConfig(
        **{k: v for k, v in config_to_hf(MODEL).items() if k not in ("architectures", "model_type")}
        | {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    )
    model = LlamaForCausalLM(config).eval()

    def run(prompts: np.ndarray) -> np.ndarray:
        tokens = torch.tensor(prompts)
        with torch.no_grad():
            return model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=NEW,
                do_sample=True,
                temperature=TEMPERATURE,
                top_p=TOP_P,
                top_k=0,
            ).numpy()

    return run


def main() -> None:
    """Prints new tokens per second for each sampler."""
    samplers = {
        "jaxmoe LoRAMoE E8 R4": jaxmoe_sampler(ExpertConfig(num_experts=8, rank=4)),
        "jaxmoe base": jaxmoe_sampler(None),
    }
    try:
        samplers["transformers base"] = transformers_sampler()
    except ImportError:
        print(json.dumps({"skipped": "transformers base", "reason": "torch is not installed"}))
    prompts = np.random.default_rng(0).integers(1, MODEL.vocab_size, (BATCH, PROMPT))
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    for turn in range(ROUNDS + 1):
        for name, run in samplers.items():
            start = time.perf_counter()
            tokens = run(prompts)
            assert tokens.shape == (BATCH, PROMPT + NEW), tokens.shape
            if turn:  # the first round compiles
                seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        row = {
            "name": name,
            "new_tokens_per_s": round(BATCH * NEW / min(times)),
            "median_new_tokens_per_s": round(BATCH * NEW / float(np.median(times))),
            "ms_per_step": round(1e3 * min(times) / NEW, 2),
            "rounds": ROUNDS,
            "threads": THREADS,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
