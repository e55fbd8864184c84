"""PiSSA and MiLoRA: nothing is said differently, the pair is the part of the weights that it should be."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxmoe
from jaxmoe.model.config import ExpertConfig
from tests.tiny_checkpoints import float32_logits, in_double
from tests.tolerances import DOUBLE, assert_same, double_precision, rounding_bound
from training.ppo.config import PPORunConfig
from training.runtime.model import LoraConfig, load_model
from training.runtime.principal import start_in_base
from training.studies.loramoe.config import TuningRow

SHAPE = jaxmoe.ModelConfig(64, 16, 32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8)
IDS = [[3, 4, 5, 6]]
PLAIN = ExpertConfig(num_experts=1, rank=3, alpha=6.0, routing="none")


def up(lm, part: str) -> dict:
    return getattr(lm.weights, part)["blocks"]["mlp"]["up_proj"]


@pytest.mark.parametrize("start", ["pissa", "milora"])
def test_the_pair_is_the_strongest_or_weakest_part_of_the_weights(start):
    drawn = jaxmoe.LanguageModel.random(SHAPE, PLAIN)  # in float32, which is what is taken apart
    with double_precision():
        lm = in_double(drawn)
        found = start_in_base(lm, start)
        assert_same(found(IDS).logits, lm(IDS).logits)
        kernel, rest = (np.asarray(up(one, "frozen")["kernel"][1], np.float64) for one in (lm, found))
        pair = up(found, "trainable")["experts"]
        update = 2.0 * np.asarray(pair["a"][1, :, 0]) @ np.asarray(pair["b"][1, 0])  # alpha / rank = 2
        np.testing.assert_allclose(rest + update, kernel, rtol=0, atol=DOUBLE)
        strengths = np.linalg.svd(kernel, compute_uv=False)
        part = strengths[:3] if start == "pissa" else strengths[-3:]
        np.testing.assert_allclose(np.linalg.svd(update, compute_uv=False)[:3], part, rtol=DOUBLE)
        left = strengths[3:] if start == "pissa" else strengths[:-3]
        np.testing.assert_allclose(np.linalg.svd(rest, compute_uv=False)[: len(left)], left, rtol=DOUBLE)
        # A and B share the strength, as in the papers
        np.testing.assert_allclose(
            np.linalg.norm(pair["a"][1, :, 0], axis=0), np.linalg.norm(pair["b"][1, 0], axis=1), rtol=DOUBLE
        )


def test_a_saved_adapter_takes_what_is_left_of_the_base_along(tmp_path):
    """So that it says the same beside the base that it was trained on; and so does the model merged."""
    base = jaxmoe.LanguageModel.random(replace(SHAPE, eos_token_id=1, pad_token_id=0))
    jaxmoe.save(base, tmp_path / "base", "hf")
    source = str(tmp_path / "base")
    lora = LoraConfig(rank=3, alpha=6.0, init="pissa")
    started = load_model(source, "lora", ExpertConfig(), lora, base.mesh).lm
    moved = jax.tree.map(lambda w: w * 1.5, started.weights.trainable)
    tuned = replace(started, weights=started.weights._replace(trainable=moved))
    assert np.abs(tuned(IDS).logits - base(IDS).logits).max() > 1e-3
    jaxmoe.save(tuned, tmp_path / "adapter", "peft")
    again = jaxmoe.load(tmp_path / "base", tmp_path / "adapter")
    with double_precision():
        assert_same(in_double(again)(IDS).logits, in_double(tuned)(IDS).logits)
    jaxmoe.save(tuned, tmp_path / "merged", "hf", merge=True)
    merged, largest = jaxmoe.load(tmp_path / "merged"), float(np.abs(tuned(IDS).logits).max())
    # beside the model's own roundings, in each layer: into up and down, A's and B's sums and both added
    pairs = SHAPE.hidden_size + SHAPE.intermediate_size + 2 * (PLAIN.rank + 1)
    bound = float32_logits(SHAPE, 4, largest) + rounding_bound(SHAPE.num_layers * pairs, largest)
    np.testing.assert_allclose(merged(IDS).logits, tuned(IDS).logits, rtol=0, atol=bound)


def test_layers_without_a_pair_keep_their_weights():
    drawn = jaxmoe.LanguageModel.random(SHAPE, replace(PLAIN, num_experts=(0, 1)))
    with double_precision():
        lm = in_double(drawn)
        found = start_in_base(lm, "pissa")
        np.testing.assert_array_equal(up(found, "frozen")["kernel"][0], up(lm, "frozen")["kernel"][0])
        assert np.abs(up(found, "frozen")["kernel"][1] - up(lm, "frozen")["kernel"][1]).max() > 1e-3
        assert_same(found(IDS).logits, lm(IDS).logits)


def test_routed_experts_have_no_such_start():
    routed = jaxmoe.LanguageModel.random(SHAPE, ExpertConfig(num_experts=2, rank=2))
    with pytest.raises(ValueError, match="plain LoRA"):
        start_in_base(routed, "pissa")
    assert start_in_base(routed, "kaiming") is routed


def test_what_needs_the_whole_base_refuses_it():
    lora = LoraConfig(init="milora")
    with pytest.raises(ValueError, match=r"lora\.init=milora takes apart"):
        PPORunConfig(base="b", output="o", rounds=1, lora=lora)
    with pytest.raises(ValueError, match=r"average needs lora\.init=kaiming"):
        TuningRow("a", "lora", rates=(1.0,), lora=lora, average=(0.5,))
