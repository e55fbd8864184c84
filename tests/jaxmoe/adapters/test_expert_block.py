"""An adapter beside a base's block of experts: which formats hold it, and that it comes back."""

import dataclasses

import numpy as np
import pytest

import jaxmoe
from jaxmoe.adapters.files import read_adapter, write_adapter
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig, MoeConfig
from tests.jaxmoe.model.test_transformer import SMALL
from tests.tiny_checkpoints import random_adapter

CONFIG = dataclasses.replace(SMALL, family="qwen3_moe", qk_norm=True, moe=MoeConfig(4, 2, 8))
EXPERTS = ExpertConfig(2, 3, 6.0, targets=("q_proj", "experts"))


def test_the_loramoe_format_brings_it_back(tmp_path):
    adapter = random_adapter(EXPERTS, CONFIG)
    assert adapter.modules["layers.0.mlp.experts"].a_ERI.shape == (2, 3, 16)
    write_adapter(tmp_path, adapter, CONFIG, "loramoe", "base")
    again = read_adapter(tmp_path, CONFIG)
    assert again.config == adapter.config
    assert again.modules.keys() == adapter.modules.keys()
    for name, module in adapter.modules.items():
        for ours, theirs in zip(again.modules[name], module, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("format", ["peft", "moe-peft"])
def test_formats_of_single_projections_refuse_it(tmp_path, format):
    lora = dataclasses.replace(EXPERTS, num_experts=1, routing="none" if format == "peft" else "dense")
    with pytest.raises(ValueError, match=r"experts|MLP"):
        write_adapter(tmp_path, random_adapter(lora, CONFIG), CONFIG, format, "base")


def test_it_is_not_merged():
    lora = dataclasses.replace(EXPERTS, num_experts=1, routing="none")
    model = params.build(CONFIG, lora)
    lm = LanguageModel(CONFIG, params.split(model), params.single_device_mesh(), lora)
    with pytest.raises(
        ValueError, match="an adapter beside a block of experts is no part of any weight matrix"
    ):
        jaxmoe.save(lm, "unused", format="hf", merge=True)
