"""Train a code model by PPO from compiler feedback: curriculum=cccs|none, mask=fgo|response, algorithm=ppo,
grpo, dapo, ... (nine in all)."""

from training.ppo.train import main

__all__ = ["main"]
