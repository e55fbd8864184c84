"""Train all weights of a model on text."""

from training.supervised.pretrain import main

__all__ = ["main"]
