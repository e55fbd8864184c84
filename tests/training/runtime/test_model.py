"""A run's model fits its tokenizer: a larger one is refused, or gets rows where the config says so."""

import numpy as np
import pytest

from jaxmoe.model import params
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig
from tests.jaxmoe.text.templates import tokenizer_for
from tests.tiny_checkpoints import logits_of, write_checkpoint
from tests.tolerances import rounding_bound
from training.runtime.model import LoraConfig, ModelSource, make_model, say_idle


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    write_checkpoint(folder, model_type="llama", vocab_size=97)
    return str(folder)


def test_a_tokenizer_that_is_larger_than_the_base_is_refused(base):
    tokenizer = tokenizer_for("qwen3")
    source = ModelSource(base, None, "lora")
    with pytest.raises(ValueError, match=r"and the model an embedding of 97: .* resize_vocab=true") as error:
        make_model(source, tokenizer, params.single_device_mesh())
    assert "\n" not in str(error.value)


def test_resized_rows_begin_as_the_mean(base):
    tokenizer = tokenizer_for("qwen3")
    mesh = params.single_device_mesh()
    lm = make_model(ModelSource(base, None, "lora", resize_vocab=True), tokenizer, mesh).lm
    assert lm.config.vocab_size == len(tokenizer)
    ids = np.asarray([[5, 96, len(tokenizer) - 1]])
    logits = logits_of(lm, ids)
    assert logits.shape[-1] == len(tokenizer)
    assert np.isfinite(logits).all()
    # the mean of all old rows of the head, taken in float32, gives the mean of their logits
    mean, bound = logits[..., :97].mean(-1, keepdims=True), rounding_bound(98, np.abs(logits).max())
    np.testing.assert_allclose(logits[..., 97:], mean + 0 * logits[..., 97:], rtol=0, atol=bound)


def test_sections_of_another_adapter_are_said_where_they_are_set(capsys):
    experts, lora, balance = ExpertConfig(rank=2), LoraConfig(), BalanceConfig(weight=0.5)
    say_idle("loramoe", experts=experts, lora=lora, balance=balance)
    say_idle("none", experts=ExpertConfig(), lora=lora, balance=BalanceConfig())
    assert capsys.readouterr().err == ""
    say_idle("lora", experts=experts, lora=lora, balance=balance)
    assert "adapter=lora does not use what the config sets for experts and balance" in capsys.readouterr().err
    say_idle("loramoe", experts=experts, lora=LoraConfig(rank=3), balance=balance)
    assert "adapter=loramoe does not use what the config sets for lora\n" in capsys.readouterr().err
