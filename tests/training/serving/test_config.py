"""What a server's config refuses."""

from dataclasses import replace

import pytest

from jaxmoe.generation.engine import EngineConfig
from jaxmoe.model.config import ModelConfig, RopeConfig
from training.runtime import config as configs
from training.serving.config import ServeConfig, fitted

TWO = {"smol-base": "a", "other": "b"}


def test_an_adapter_does_not_take_the_name_of_the_base_alone():
    with pytest.raises(ValueError, match=r"adapters\.smol-base has the name of the base alone") as error:
        configs.parse(ServeConfig, {"base": "models/smol", "adapters": TWO})
    assert "\n" not in str(error.value)
    config = configs.parse(ServeConfig, {"base": "models/smol", "adapters": TWO, "name": "model"})
    assert (config.model_name, config.base_name) == ("model", "model-base")


SHORT = ModelConfig(64, 16, 32, 1, 2, 1, 8, max_positions=32)
YARN = RopeConfig("yarn", factor=4, original_max_position_embeddings=32)


def test_a_server_takes_no_text_beyond_the_positions_of_its_model():
    assert fitted(EngineConfig(slots=3), SHORT) == EngineConfig(slots=3, max_length=32)
    assert fitted(EngineConfig(max_length=32), SHORT).max_length == 32
    with pytest.raises(ValueError, match=r"engine\.max_length must be at most 32, .*; got 33"):
        fitted(EngineConfig(max_length=33), SHORT)


@pytest.mark.parametrize(
    ("changes", "longest"),
    [
        ({}, 32),
        ({"max_positions": 0}, None),
        ({"rope": YARN}, 128),
        ({"rope": YARN, "max_positions": 256}, 256),
        ({"rope": RopeConfig("dynamic", factor=2)}, None),
        ({"rope": RopeConfig("linear", factor=4)}, 32),
    ],
)
def test_the_longest_text_counts_the_extension(changes, longest):
    model = replace(SHORT, **changes)
    assert model.longest_text == longest
    assert fitted(EngineConfig(), model).max_length == longest or longest is None
