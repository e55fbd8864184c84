"""A tiny base and its tokenizer, for studies on checkpoints."""

import pytest

from jaxmoe.model import params
from jaxmoe.tokenizer import train_bpe
from tests.training.studies.tiny_base import CHAT, SHAPE, TEXTS
from training.data.batch import BatchConfig
from training.data.encode import encode_samples
from training.runtime.model import new_model
from training.runtime.optimizer import OptimizerConfig
from training.studies.loramoe import tuning
from training.supervised.step import StepConfig


@pytest.fixture(scope="module")
def tokenizer():
    found = train_bpe(TEXTS * 4, 320)
    found.chat_template = CHAT
    return found


@pytest.fixture(scope="module")
def base(tokenizer):
    """A tiny model that has read the texts, so that what it says is text."""
    rows = [{"text": text} for text in TEXTS]
    data = tuning.stream(encode_samples(rows, tokenizer, 48), tokenizer, BatchConfig(6, 48), 300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "load_model", lambda *a, seed: new_model(SHAPE, None, a[4], seed=seed))
        tuner = tuning.Tuner(params.single_device_mesh(), StepConfig())
        optimizer = OptimizerConfig(lr=1e-2, schedule="constant")
        runs = tuner.run("", tuning.Recipe("none"), data, optimizer, [300], seed=0, stopped=lambda: False)
        return next(runs).lm
