"""Fine-tuning on instructions: routed LoRA experts, plain LoRA or every weight, from one code path."""

from training.runtime.run_folder import Finished
from training.supervised import run
from training.supervised.config import SftConfig


def main(config: SftConfig) -> Finished:
    """Runs one fine-tuning config to its end, or until it is stopped."""
    return run.main(config, "sft", f"sft, adapter {config.adapter}")
