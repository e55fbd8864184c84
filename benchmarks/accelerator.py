"""Measures one accelerator within a time limit: parity, then fine-tuning and decoding compared with torch.

    python -m benchmarks.accelerator [--shape 7b] [--minutes 9] [--output accelerator.json]

An accelerator is often available only for minutes. Each stage is a separate process with its own time limit;
its output is in the output file before the next one begins, so that a fault or the end of the time costs one
stage. A stage that does not fit in the remaining time is reported as left out.

    parity     logits of a small random model in float32, on the accelerator and on the host's CPU
    checkpoint a random checkpoint of the shape in bfloat16, which the other stages read
    sft ...    one fine-tuning step (benchmarks.real_model): LoRAMoE, LoRA, and torch with peft
    decode ... 32 texts in flight (benchmarks.engine): the engine, and transformers' generate

Random weights show neither knowledge nor skill, but cost as much as trained ones. On a CPU, `--shape tiny`
tests the plumbing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from jaxmoe.model.config import ModelConfig

SHAPES = {
    "tiny": ModelConfig(512, 64, 172, 2, 4, 2, 16),
    "1b": ModelConfig(32_000, 2048, 5632, 22, 32, 4, 64),
    "7b": ModelConfig(32_000, 4096, 11_008, 32, 32, 32, 128),
}
# rows and tokens in a fine-tuning step
BATCH = {"tiny": (2, 32), "1b": (8, 1024), "7b": (4, 1024)}


class Stage(NamedTuple):
    """A process and its time limit in seconds."""

    name: str
    arguments: list[str]
    limit_s: float


def stages(shape: str, folder: Path) -> list[Stage]:
    """The stages in order; torch's only if it is installed."""
    rows, length = BATCH[shape]
    sft = ["benchmarks.real_model", "--base", str(folder), "--rows", str(rows), "--length", str(length)]
    decode = ["benchmarks.engine", "--base", str(folder), "--texts", "64", "--turns", "1", "--kinds"]
    own = ["benchmarks.accelerator", "--shape", shape, "--folder", str(folder), "--stage"]
    found = [
        Stage("parity", [*own, "parity"], 90),
        Stage("checkpoint", [*own, "checkpoint"], 150),
        Stage("sft loramoe", [*sft, "--kinds", "loramoe"], 120),
        Stage("decode engine", [*decode, "engine"], 120),
        Stage("sft lora", [*sft, "--kinds", "lora"], 120),
    ]
    if find_spec("torch") and find_spec("peft"):
        found.append(Stage("sft torch lora", [*sft, "--kinds", "torch lora"], 120))
    if find_spec("torch"):
        found.append(Stage("decode transformers", [*decode, "transformers"], 120))
    return found


def parity() -> None:
    """Prints the largest difference between logits, and whether the greedy tokens agree."""
    import jax
    import numpy as np

    from jaxmoe.language_model import LanguageModel
    from jaxmoe.model import params
    from jaxmoe.model.config import ExpertConfig

    config = ModelConfig(512, 256, 688, 4, 8, 4, 32)
    experts = ExpertConfig(num_experts=4, rank=4)
    tokens = np.random.default_rng(0).integers(0, 512, (4, 128)).astype(np.int32)
    logits, texts = {}, {}
    # full float32 products on both: a GPU would by default round them to TF32
    with jax.default_matmul_precision("highest"):
        for place in ("cpu", jax.default_backend()):
            device = jax.devices(place)[0]
            with jax.default_device(device):
                split = params.split(params.build(config, experts))
                mesh = params.make_mesh(devices=[device])
                lm = LanguageModel(config, jax.device_put(split, device), mesh, experts)
                logits[place] = np.asarray(lm(tokens).logits, np.float64)
                texts[place] = np.asarray(lm.generate(tokens[:, :16], max_new_tokens=32).tokens)
    here = jax.default_backend()
    print(
        json.dumps(
            {
                "largest_difference": float(np.abs(logits["cpu"] - logits[here]).max()),
                "largest_logit": float(np.abs(logits["cpu"]).max()),
                "greedy_equal": bool(np.array_equal(texts["cpu"], texts[here])),
            }
        )
    )


def checkpoint(shape: str, folder: Path) -> None:
    """Writes random weights as a checkpoint in Hugging Face's format."""
    import jax
    import jax.numpy as jnp

    import jaxmoe
    from jaxmoe.language_model import LanguageModel
    from jaxmoe.model import params

    config = SHAPES[shape]
    dtype = jnp.float32 if shape == "tiny" else jnp.bfloat16
    weights = jax.tree.map(lambda leaf: leaf.astype(dtype), params.split(params.build(config)))
    jaxmoe.save(LanguageModel(config, weights, params.single_device_mesh()), folder, "hf")
    print(json.dumps({"gb": round(sum(file.stat().st_size for file in folder.iterdir()) / 1e9, 2)}))


def run(stage: Stage, seconds: float) -> dict[str, object]:
    """A stage's JSON lines, or why there are none."""
    environment = os.environ | {
        # stages use one device in turn, and a benchmark's two processes share it
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "HF_HUB_OFFLINE": "1",
    }
    started = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", *stage.arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"stage": stage.name, "failed": f"not done after {seconds:.0f} s"}
    found: dict[str, object] = {"stage": stage.name, "seconds": round(time.monotonic() - started, 1)}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return found | {"failed": lines[-1] if lines else f"status {done.returncode}"}
    return found | {"lines": [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]}


def machine() -> dict[str, object]:
    """The accelerator and the versions; a separate process asks, which leaves the device free."""
    code = "import jax; d = jax.devices(); print(d[0].platform, len(d), d[0].device_kind, sep='|')"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    platform, count, kind = told.strip().splitlines()[-1].split("|")
    packages = [name for name in ("jax", "jaxlib", "torch", "transformers", "peft") if find_spec(name)]
    return {
        "platform": platform,
        "devices": int(count),
        "kind": kind,
        "versions": {name: version(name) for name in packages},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the stages that fit in the time, and writes their output after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=tuple(SHAPES), default="7b", help="of the model")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which no stage is begun")
    parser.add_argument("--output", type=Path, default=Path("accelerator.json"), help="file for all results")
    parser.add_argument("--stage", choices=("parity", "checkpoint"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stage == "parity":
        parity()
        return
    if options.stage == "checkpoint":
        checkpoint(options.shape, options.folder)
        return
    end = time.monotonic() + 60 * options.minutes
    results: dict[str, object] = {"shape": options.shape, **machine()}
    told: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for stage in stages(options.shape, Path(temporary, "checkpoint")):
            left = end - time.monotonic()
            if left < stage.limit_s / 3:
                told.append({"stage": stage.name, "failed": f"left out: {left:.0f} s remained"})
            else:
                told.append(run(stage, min(stage.limit_s, left)))
            print(json.dumps(told[-1]), flush=True)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(
                json.dumps(results | {"stages": told}, indent=1) + "\n", encoding="utf-8"
            )


if __name__ == "__main__":
    main()
