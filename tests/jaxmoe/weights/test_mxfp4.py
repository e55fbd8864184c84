"""Experts in MXFP4 against transformers' own reading, and a checkpoint as GPT-OSS is released."""

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import jaxmoe
from jaxmoe.weights.mxfp4 import NUMBERS, dequantized
from jaxmoe.weights.weight_files import stored_array, write_safetensors
from tests.tiny_checkpoints import padded_batch, write_checkpoint


def test_every_number_and_scale_is_read_as_in_transformers():
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (2, 6, 3, 16), np.uint8)
    scales = rng.integers(30, 220, (2, 6, 3), np.uint8)
    tensors = dequantized({"w_blocks": stored_array(blocks), "w_scales": stored_array(scales)}, "here")
    theirs = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales)).float().numpy()
    whole = tensors["w"]
    assert whole.shape == (2, 96, 6)
    np.testing.assert_array_equal(whole.all().astype(np.float32), theirs)
    part = (slice(1, 2), slice(10, 50), slice(2, 5))
    np.testing.assert_array_equal(whole.read(part).astype(np.float32), theirs[part])


def test_tensors_that_are_no_pair_stay_as_they_are():
    found = {"a_blocks": stored_array(np.zeros((2, 6, 3, 16), np.uint8)), "b": stored_array(np.zeros(3))}
    assert set(dequantized(found, "here")) == {"a_blocks", "b"}
    found["a_scales"] = stored_array(np.zeros((2, 6, 4), np.uint8))
    assert set(dequantized(found, "here")) == {"a_blocks", "a_scales", "b"}


def packed(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest MXFP4 [E, O, I / 32, 16] and [E, O, I / 32] of a matrix [E, I, O]."""
    runs = matrix.swapaxes(1, 2).reshape(matrix.shape[0], matrix.shape[2], -1, 32)
    exponents = np.floor(np.log2(np.abs(runs).max(-1))).astype(int) - 2
    codes = np.abs(runs[..., None] / 2.0 ** exponents[..., None, None] - NUMBERS).argmin(-1).astype(np.uint8)
    return codes[..., ::2] | (codes[..., 1::2] << 4), (exponents + 127).astype(np.uint8)


def test_a_checkpoint_with_packed_experts_is_read(tmp_path, caplog):
    """Both of its forms hold the same numbers, so the logits are the same bits."""
    settings = {"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size": 32, "head_dim": 8}
    settings |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    for name in ("packed", "plain"):
        write_checkpoint(tmp_path / name, model_type="gpt_oss", **settings)
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    small = dict(plain)
    for name in [name for name in plain if name.endswith(("gate_up_proj", "down_proj"))]:
        blocks, scales = packed(small.pop(name))
        small |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        pair = {"w_blocks": stored_array(blocks), "w_scales": stored_array(scales)}
        plain[name] = dequantized(pair, "here")["w"].all().astype(np.float32)
    write_safetensors(tmp_path / "packed" / "model.safetensors", small)
    write_safetensors(tmp_path / "plain" / "model.safetensors", plain)
    ids, mask = padded_batch()
    ours, expected = (np.asarray(jaxmoe.load(tmp_path / n)(ids, mask).logits) for n in ("packed", "plain"))
    np.testing.assert_array_equal(ours, expected)
    (said,) = (line for line in caplog.messages if line.startswith(str(tmp_path)))
    assert said.startswith(f"{tmp_path / 'packed'}: 4 tensors in MXFP4 are dequantized")
