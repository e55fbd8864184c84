"""A policy of random weights and easy problems, for the tests of what draws responses."""

from typing import TypeVar

from jaxmoe.datasets.programs import pretraining_texts, problems
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import train_bpe
from rl.feedback.problems import Problem
from rl.stepcoder.engine_sampler import EngineSampler
from rl.stepcoder.sampler import Sampler

Drawer = TypeVar("Drawer", Sampler, EngineSampler)

ROWS = problems(12)
TOKENIZER = train_bpe([text for text, _ in zip(pretraining_texts(200), range(200), strict=True)], 512)


def a_problem(number=0):
    row = ROWS[number]
    return Problem(
        **{k: row[k] for k in ("id", "prompt", "starter_code", "canonical_solution", "fn_name")},
        inputs=row["inputs"],
        outputs=row["outputs"],
    )


def a_sampler(kind: type[Drawer]) -> tuple[Drawer, params.ModelParams]:
    """With a model of random weights."""
    config = ModelConfig(
        vocab_size=512,
        hidden_size=16,
        intermediate_size=24,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
    )
    parts = params.split(params.build(config, std=0.3), "all")
    eos = TOKENIZER.eos_token_id
    sampler = kind(parts.definition, params.single_device_mesh(), TOKENIZER, (eos,), 0, "float32")
    return sampler, parts
