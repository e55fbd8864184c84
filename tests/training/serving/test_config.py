"""What a server's config refuses."""

import pytest

from training.runtime import config as configs
from training.serving.config import ServeConfig

TWO = {"smol-base": "a", "other": "b"}


def test_an_adapter_does_not_take_the_name_of_the_base_alone():
    with pytest.raises(ValueError, match=r"adapters\.smol-base has the name of the base alone") as error:
        configs.parse(ServeConfig, {"base": "models/smol", "adapters": TWO})
    assert "\n" not in str(error.value)
    config = configs.parse(ServeConfig, {"base": "models/smol", "adapters": TWO, "name": "model"})
    assert (config.model_name, config.base_name) == ("model", "model-base")
