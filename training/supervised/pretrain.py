"""Pretraining: every weight is trained to predict every token."""

from training.runtime.run_folder import Finished
from training.supervised import run
from training.supervised.config import PretrainConfig


def main(config: PretrainConfig) -> Finished:
    """Runs one pretraining config to its end, or until it is stopped."""
    return run.main(config, "pretrain", "pretrain")
