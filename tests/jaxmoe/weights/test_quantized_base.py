"""Models whose base is held in int8 or nf4: what they compute, hold, train, export and refuse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxmoe
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig
from jaxmoe.model.quantized import as_array, is_quantized, quantize
from jaxmoe.weights import convert
from tests.tiny_checkpoints import (
    FLOAT32_LOGITS,
    in_double,
    logits_of,
    padded_batch,
    random_adapter,
    write_checkpoint,
)
from tests.tolerances import assert_same, double_precision, rounding_bound

DTYPES = ("int8", "nf4")
MODELS = {
    "llama": {"model_type": "llama"},
    "biased": {"model_type": "qwen2", "tie_word_embeddings": True},
    "mixture": {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2},
    "fused": {"model_type": "phi3"},
}
IDS, MASK = padded_batch()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    for name, settings in MODELS.items():
        write_checkpoint(folder / name, **settings)
    return folder


def dequantized(lm: LanguageModel) -> LanguageModel:
    """The model with float arrays of what its kernels stand for."""
    flat = {path: as_array(x, jnp.float32) for path, x in frozen(lm).items()}
    return dataclasses.replace(lm, weights=lm.weights._replace(frozen=convert.unflatten(flat)))


def frozen(lm: LanguageModel) -> dict:
    return convert.flatten(lm.weights.frozen)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_values_that_the_kernels_stand_for(checkpoints, name, dtype):
    lm = jaxmoe.load(checkpoints / name, base_dtype=dtype)
    plain = jaxmoe.load(checkpoints / name)
    kernels = {path: kernel for path, kernel in frozen(lm).items() if is_quantized(kernel)}
    ends = ("kernel", "group.gate", "group.up", "group.down")
    assert kernels.keys() == {path for path in frozen(plain) if path.endswith(ends)}
    assert len(kernels) == 7
    for path, value in frozen(plain).items():
        expected = quantize(value, dtype) if path in kernels else value
        jax.tree.map(np.testing.assert_array_equal, frozen(lm)[path], expected)
    with double_precision():
        ours, same, original = (
            m(IDS, MASK).logits for m in (in_double(lm), dequantized(in_double(lm)), plain)
        )
    assert_same(ours, same)
    assert np.abs(ours - original)[MASK > 0].max() > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_generation_is_that_of_the_values_that_the_kernels_stand_for(checkpoints, dtype):
    lm = jaxmoe.load(checkpoints / "llama", base_dtype=dtype)
    ours, same = (m.generate(IDS[2:], max_new_tokens=6, stop_tokens=()) for m in (lm, dequantized(lm)))
    np.testing.assert_array_equal(ours.tokens, same.tokens)


def test_memory_is_what_the_format_promises(checkpoints):
    """D = 32, F = 48, 4 heads and 2 key/value heads of 8; nf4 has blocks of 32 inputs, of 16 in the 48."""
    matrices = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]
    rest = 2 * 96 * 32 + 5 * 32  # embedding, head, norms
    layers, held = 2, {}
    for dtype in DTYPES:
        lm = jaxmoe.load(checkpoints / "llama", dtype="bfloat16", base_dtype=dtype)
        assert {str(x.dtype) for x in frozen(lm).values() if not is_quantized(x)} == {"bfloat16"}
        held[dtype] = params.storage_bytes(lm.weights.frozen)
    assert held["int8"] == 2 * rest + layers * sum(i * o + 4 * o for i, o in matrices)
    blocks = {32: 32, 48: 16}
    assert held["nf4"] == 2 * rest + layers * sum(i * o // 2 + i // blocks[i] * o * 4 for i, o in matrices)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "experts",
    [
        ExpertConfig(num_experts=3, rank=2, targets=("q_proj", "up_proj", "down_proj")),
        ExpertConfig(num_experts=1, rank=2, routing="none", dora=True, targets=("v_proj", "gate_proj")),
    ],
    ids=["experts", "dora"],
)
def test_gradients_of_experts_are_those_with_the_dequantized_kernels(checkpoints, experts, dtype):
    quantized = jaxmoe.load(checkpoints / "llama", experts=experts, base_dtype=dtype)
    drawn = random_adapter(experts, quantized.config) if not experts.dora else None
    if drawn is not None:
        quantized = jaxmoe.load(checkpoints / "llama", drawn, base_dtype=dtype)

    def gradients(lm: LanguageModel):
        def loss(trainable):
            logits = dataclasses.replace(lm, weights=lm.weights._replace(trainable=trainable))(IDS).logits
            return jax.nn.logsumexp(logits, -1).mean()

        return jax.grad(loss)(lm.weights.trainable)

    with double_precision():
        double = in_double(quantized)
        ours, theirs = gradients(double), gradients(dequantized(double))
    assert_same(ours, theirs)
    assert max(float(np.abs(np.asarray(leaf)).max()) for leaf in jax.tree.leaves(ours)) > 0


def test_dora_starts_at_the_lengths_of_the_quantized_columns(checkpoints):
    experts = ExpertConfig(num_experts=1, rank=2, routing="none", dora=True, targets=("up_proj",))
    lm = jaxmoe.load(checkpoints / "llama", experts=experts, base_dtype="nf4")
    kernel = frozen(lm)["blocks.mlp.up_proj.kernel"].dequantize()
    magnitude = convert.flatten(lm.weights.trainable)["blocks.mlp.up_proj.experts.magnitude"]
    lengths = np.linalg.norm(kernel, axis=1)
    np.testing.assert_allclose(magnitude, lengths, rtol=rounding_bound(kernel.shape[1], 1.0))


def test_a_sharded_base_is_the_same(checkpoints):
    one, eight = (
        jaxmoe.load(checkpoints / "llama", base_dtype="nf4", mesh=mesh)
        for mesh in (params.single_device_mesh(), params.make_mesh(2, 2, 2))
    )
    jax.tree.map(np.testing.assert_array_equal, one.weights.frozen, eight.weights.frozen)
    up = frozen(eight)["blocks.mlp.up_proj.kernel"]
    assert up.values.sharding.shard_shape(up.values.shape) == (2, 8, 24)
    assert up.scales.sharding.shard_shape(up.scales.shape) == (2, 1, 24)
    ours, theirs = (logits_of(lm, IDS, MASK)[MASK > 0] for lm in (eight, one))
    assert_same(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_export_holds_the_values_that_the_kernels_stand_for(checkpoints, dtype, tmp_path):
    lm = jaxmoe.load(checkpoints / "llama", base_dtype=dtype)
    jaxmoe.save(lm, tmp_path / "out", format="hf")
    written = load_file(tmp_path / "out" / "model.safetensors")
    kernel = frozen(lm)["blocks.mlp.up_proj.kernel"]
    np.testing.assert_array_equal(
        written["model.layers.1.mlp.up_proj.weight"].T, np.asarray(kernel.dequantize())[1]
    )
    again = jaxmoe.load(tmp_path / "out")
    with double_precision():
        assert_same(
            in_double(again)(IDS, MASK).logits, in_double(lm)(IDS, MASK).logits, tolerance=FLOAT32_LOGITS
        )
    half = jaxmoe.load(checkpoints / "llama", dtype="bfloat16", base_dtype=dtype)
    jaxmoe.save(half, tmp_path / "half", format="hf")
    assert {str(x.dtype) for x in load_file(tmp_path / "half" / "model.safetensors").values()} == {"bfloat16"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_merged_adapter_is_added_to_the_values_that_the_kernels_stand_for(checkpoints, dtype, tmp_path):
    experts = ExpertConfig(num_experts=1, rank=2, routing="none", targets=("q_proj", "up_proj"))
    plain = jaxmoe.load(checkpoints / "llama")
    lm = jaxmoe.load(checkpoints / "llama", random_adapter(experts, plain.config), base_dtype=dtype)
    jaxmoe.save(lm, tmp_path / "merged", format="hf", merge=True)
    jaxmoe.save(dequantized(lm), tmp_path / "same", format="hf", merge=True)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "same"))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


def test_what_cannot_be_is_refused_by_name(checkpoints):
    with pytest.raises(ValueError, match="base_dtype must be None or one of int8, nf4; got 'int4'"):
        jaxmoe.load(checkpoints / "llama", base_dtype="int4")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="base_dtype=nf4 holds weights that are frozen; train='all' trains them"
    ):
        jaxmoe.load(checkpoints / "llama", base_dtype="nf4", train="all")
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16; got 'nf4'"):
        jaxmoe.load(checkpoints / "llama", dtype="nf4")
