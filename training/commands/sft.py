"""Fine-tune a model on instructions: adapter=loramoe adds routed LoRA experts to the frozen base,
adapter=lora plain LoRA, adapter=none trains every weight."""

from training.supervised.sft import main

__all__ = ["main"]
