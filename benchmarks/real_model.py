"""Time, tokens/s and peak memory of one fine-tuning step on a real checkpoint, compared with torch.

    python -m benchmarks.real_model [--base smollm2-135m-instruct] [--rows 4] [--length 256] [--steps 5]

LoRAMoE (6 experts of rank 4 on the feed-forward projections), plain LoRA with as many weights, and every
weight; torch transformers with every weight, and with peft's LoRA on the same projections at the same rank,
if those packages are installed. AdamW, dropout 0, every token a target, random tokens. Each row is a separate
process and they take turns (A B A B ..), so that a busy machine slows all alike; compilation and a first step
are not timed. float32 on a CPU; on a GPU, bfloat16 for the frozen weights and all computation, with the share
of the GPU's peak (MFU: 6 FLOPs per weight and token if all are trained, 4 if the base is frozen, plus
attention's own). One JSON line per row, after one that names the processor, as machines differ.

Targets on 2 CPU threads with 4 x 256 tokens of SmolLM2-135M: LoRAMoE 3.0 s and at most 1.05 times our own
LoRA, every weight 4.8 s, memory below torch's.
"""

import argparse
import itertools
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from benchmarks import turns

OURS = ("loramoe", "lora", "full")
TORCH = {"torch full": "torch", "torch lora": "peft"}  # kind, and the package that it needs
EXPERTS, RANK = 6, 4
LEARNING_RATE = 1e-5


def our_step(kind: str, base: str, rows: int, length: int) -> Callable[[], None]:
    """A compiled step of this project that has already run once."""
    from training.runtime.allocator import keep_memory, one_heap

    one_heap()
    import jax
    import numpy as np

    from jaxmoe.model import params
    from jaxmoe.model.balance import BalanceConfig
    from jaxmoe.model.config import ExpertConfig
    from training.data.batch import Batch
    from training.runtime.model import AdapterKind, LoraConfig, load_model
    from training.runtime.optimizer import OptimizerConfig
    from training.supervised.step import StepConfig, init_state
    from training.supervised.train import make_machinery

    adapters: dict[str, AdapterKind] = {"loramoe": "loramoe", "lora": "lora", "full": "none"}
    mesh = params.make_mesh(-1)
    on_cpu = jax.default_backend() == "cpu"
    made = load_model(
        base,
        adapters[kind],
        ExpertConfig(num_experts=EXPERTS, rank=RANK),
        LoraConfig(),
        mesh,
        base_dtype="float32" if on_cpu else "bfloat16",
    )
    parts = make_machinery(
        made.abstract,
        made.train,
        mesh,
        OptimizerConfig(lr=LEARNING_RATE),
        StepConfig() if on_cpu else StepConfig(precision="bfloat16"),
        BalanceConfig(),
        steps=1000,
        seed=0,
    )
    state = init_state(made.lm.weights.trainable, made.abstract, parts.optimizer, parts.shardings)
    frozen = made.lm.weights.frozen
    tokens = np.random.default_rng(0).integers(0, made.lm.config.vocab_size, (rows, length)).astype(np.int32)
    batch = Batch(
        tokens=tokens,
        loss_mask=np.ones((rows, length), np.float32),
        segment_ids=np.ones((rows, length), np.int32),
        positions=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        task_types=np.arange(rows, dtype=np.int32)[:, None] % 2,
    )
    placed = jax.device_put(batch, params.batch_sharding(mesh))
    del made
    numbers = itertools.count()

    def step() -> None:
        nonlocal state
        state, metrics = parts.step_fn(state, frozen, placed, np.int32(next(numbers)))
        jax.block_until_ready(metrics)

    step()
    keep_memory()
    return step


def torch_step(kind: str, folder: str, rank: int, rows: int, length: int) -> Callable[[], None]:
    """A step of torch transformers, with peft's LoRA or every weight, that has already run once."""
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False).to(device)
    if kind == "torch lora":
        from peft import LoraConfig, get_peft_model

        targets = ["gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
    model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    torch.manual_seed(0)
    tokens = torch.randint(0, model.config.vocab_size, (rows, length), device=device)

    def step() -> None:
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    return step


def matched(base: str) -> tuple[int, float, float]:
    """Rank of plain LoRA with as many weights; FLOPs per token of weights, and of attention per position."""
    from jaxmoe.base_folder import local_folder
    from jaxmoe.model import params
    from jaxmoe.model.config import ExpertConfig
    from jaxmoe.pretrained import read_model_config
    from training.runtime.model import matched_rank

    config = read_model_config(local_folder(base))
    weights = params.count(params.split(params.abstract(config), "all").trainable)
    if not config.tie_embeddings:
        weights -= config.vocab_size * config.hidden_size  # looked up, not multiplied
    rank = matched_rank(ExpertConfig(num_experts=EXPERTS, rank=RANK), config)
    # attention's products: 2 of 2 T D FLOPs per layer forward, halved as it is causal; twice that backward
    attention = 6 * config.num_layers * config.num_heads * config.head_dim
    return rank, 6.0 * weights, float(attention)


def export(base: str, folder: Path) -> None:
    """Writes the checkpoint as a folder that transformers reads."""
    import jaxmoe

    jaxmoe.save(jaxmoe.load(base), folder, format="hf")


def peak_flops() -> float | None:
    """Peak FLOP/s of one GPU in bfloat16, if its kind is known."""
    import jax

    kinds = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12}
    device = jax.devices()[0].device_kind
    return next((flops for name, flops in kinds.items() if name in device), None)


def main() -> None:
    """Steps every kind in turns and prints the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="smollm2-135m-instruct", help="checkpoint: folder, file or name")
    parser.add_argument("--rows", type=int, default=4, help="rows of a batch")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each kind")
    parser.add_argument("--kinds", help="comma-separated; all that can run here if not given")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows, length = options.rows, options.length
    if options.worker in OURS:
        turns.serve(our_step(options.worker, options.base, rows, length))
        return
    if options.worker:
        turns.serve(torch_step(options.worker, options.base, options.rank, rows, length))
        return
    here = [*OURS, *(kind for kind, package in TORCH.items() if find_spec(package))]
    kinds = options.kinds.split(",") if options.kinds else here
    if unknown := [kind for kind in kinds if kind not in here]:
        raise SystemExit(f"--kinds must be of {', '.join(here)}; got {', '.join(unknown)}")
    rank, weight_flops, attention_flops = matched(options.base)
    flops = peak_flops()
    with tempfile.TemporaryDirectory() as temporary:
        if set(kinds) & set(TORCH):
            export(options.base, Path(temporary, "hf"))
        sizes = ["--rows", str(rows), "--length", str(length), "--rank", str(rank)]
        commands = {
            kind: [
                *(sys.executable, "-m", "benchmarks.real_model", "--worker", kind, *sizes),
                *("--base", options.base if kind in OURS else str(Path(temporary, "hf"))),
            ]
            for kind in kinds
        }
        timed = turns.take_turns(commands, options.steps)
    print(json.dumps({"processor": processor(), "lora_rank": rank, "tokens": rows * length}))
    for kind in kinds:
        seconds = statistics.median(timed[kind].seconds)
        row = {"kind": kind, "step_s": round(seconds, 2), "min_s": round(min(timed[kind].seconds), 2)}
        row |= {
            "tokens_per_s": round(rows * length / seconds),
            "peak_gb": round(timed[kind].peak_bytes / 1e9, 2),
        }
        if flops is not None:
            share = 1.0 if kind.endswith("full") else 2 / 3
            needed = (share * weight_flops + attention_flops * length) * rows * length
            row["mfu"] = round(needed / seconds / flops, 3)
        print(json.dumps(row))
    if {"loramoe", "lora"} <= set(kinds):
        pairs = zip(timed["loramoe"].seconds, timed["lora"].seconds, strict=True)
        print(json.dumps({"loramoe_over_lora": round(statistics.median(a / b for a, b in pairs), 3)}))


def processor() -> str:
    """The name of the processor that computes."""
    import jax

    if jax.default_backend() != "cpu":
        return jax.devices()[0].device_kind
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), None)
    return named or platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
