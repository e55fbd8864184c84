"""TRL's PPO update at the shape of benchmarks.ppo_update, one JSON line; started by its `--peer trl`.

    python -m benchmarks.ppo_trl full 5

Needs trl 1.12, the last release with PPO, and peft for `experts`, which is LoRA of rank 32 (as many weights
as 8 experts of rank 4) on the policy alone: TRL's critic is a separate model, trained in full.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import warnings

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks.ppo_update import EPOCHS, LENGTH, PROMPT
from jaxmoe.tokenizer import train_bpe

ROWS = 16


class Clock(TrainerCallback):
    """Records when each update ended."""

    def __init__(self):
        self.ended: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        """Records the time."""
        self.ended.append(time.perf_counter())


def main(kind: str, updates: int) -> None:
    """Trains and prints the medians."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        num_labels=1,
    )
    policy, reference = LlamaForCausalLM(config), LlamaForCausalLM(config)
    critic, judge = LlamaForSequenceClassification(config), LlamaForSequenceClassification(config)
    tokenizer = train_bpe(["a b c d e f g"], 300)
    rng = np.random.default_rng(0)
    rows = Dataset.from_dict({"input_ids": rng.integers(3, 4096, (4 * ROWS, PROMPT)).tolist()})
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=ROWS,
            gradient_accumulation_steps=1,
            num_mini_batches=1,
            num_ppo_epochs=EPOCHS,
            total_episodes=ROWS * (updates + 2),
            response_length=LENGTH,
            temperature=1.0,
            local_rollout_forward_batch_size=ROWS,
            num_sample_generations=0,
            learning_rate=1e-4,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
        )
        adapter = LoraConfig(
            r=32, target_modules=["gate_proj", "up_proj", "down_proj"], task_type="CAUSAL_LM"
        )
        trainer = PPOTrainer(
            args=arguments,
            processing_class=tokenizer,
            model=policy,
            ref_model=None if kind == "experts" else reference,
            reward_model=judge,
            value_model=critic,
            train_dataset=rows,
            eval_dataset=rows,
            callbacks=[clock],
            peft_config=adapter if kind == "experts" else None,
        )
        trainer.train()
    seconds = np.diff(clock.ended)[1:].tolist()
    row = {"kind": f"trl, {'LoRA' if kind == 'experts' else 'full'}", "prompts": ROWS, "samples": 1}
    row |= {"update_s": round(statistics.median(seconds), 4), "fastest_s": round(min(seconds), 4)}
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
