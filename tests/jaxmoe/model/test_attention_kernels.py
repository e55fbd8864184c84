"""Splash attention (interpreted) against XLA, the choice of kernel, lowering for chips that are not here."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmoe.model import attention_kernels, params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.attention_kernels import choose
from jaxmoe.model.config import ModelConfig
from tests.tolerances import assert_same, double_precision, doubled, rounding_bound

LENGTH = 150  # no multiple of a block


def inputs(batch: int = 2, heads: int = 4, kv_heads: int = 2, size: int = 16):
    shapes = [(batch, LENGTH, n, size) for n in (heads, kv_heads, kv_heads)]
    return tuple(jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))


def packed_and_padded(batch: int = 2) -> np.ndarray:
    """Row 0: three texts and padding after; row 1: padding before one text; then the same again."""
    rows = np.zeros((2, LENGTH), np.int32)
    rows[0, :140] = np.repeat([1, 2, 3], [60, 10, 70])
    rows[1, 30:] = 1
    return np.tile(rows, (batch // 2, 1))


def run(kernel, arrays, segments, windows=(0,), layer=0, mesh=None, cap=None):
    """Attention of queries, keys and values, and of sinks if there is a fourth array."""
    mask = AttentionMask(segments, segments)
    return attention_kernels.by_layer(kernel, mask, windows, mesh, cap)(layer, *arrays)


def exact(function, *arguments):
    """The same in float64, computed by XLA."""
    with double_precision():
        return jax.tree.map(np.asarray, jax.jit(function)(*doubled(arguments)))


def bounds(arrays, target) -> tuple[float, float]:
    """How far float32's rounding may move the output and the gradients of Σ target · attention.

    A score sums H products, and its rounding is the relative one of its weight; an output sums T weighted
    values. The gradients' largest terms are w (|g|·|v| + Σ w |g|·|v|) |k|, k or q.
    """
    query, key, value, target = (np.abs(np.asarray(x, np.float64)) for x in (*arrays[:3], target))
    key, value = (np.repeat(x, query.shape[2] // x.shape[2], axis=2) for x in (key, value))
    size = query.shape[-1]
    scores = np.einsum("btnh,bsnh->bnts", query, key).max() / size**0.5
    terms = int(LENGTH + 2 * size * scores)
    slope = 2 * np.einsum("btnh,bsnh->bnts", target, value).max() / size**0.5
    return rounding_bound(terms, value.max()), rounding_bound(
        terms + size, slope * max(key.max(), query.max())
    )


SINKS = jnp.asarray([1.0, -2.0, 3.0, 0.0])  # of four heads


@pytest.mark.parametrize(("window", "cap", "sinks"), [(0, None, ()), (40, 2.0, (SINKS,))])
def test_splash_equals_xla_forward_and_backward(window: int, cap: float | None, sinks: tuple[jax.Array, ...]):
    arrays = (*inputs(), *sinks)
    segments = jnp.asarray(packed_and_padded())
    real = (segments > 0)[:, :, None, None]
    target = jax.random.normal(jax.random.key(9), (2, LENGTH, 4, 16))

    def loss(kernel, arrays, target):
        out = jnp.where(real, run(kernel, arrays, segments, (window,), cap=cap), 0.0)
        return jnp.sum(out * target), out

    def value_and_grad(kernel):
        return jax.value_and_grad(partial(loss, kernel), has_aux=True)

    (_, ours), gradients = jax.jit(value_and_grad("splash"))(arrays, target)
    (_, plain), expected = exact(value_and_grad("xla"), arrays, target)
    forward, backward = bounds(arrays, target)
    np.testing.assert_allclose(ours, plain, atol=forward)
    for ours, plain in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, plain, atol=backward)


@double_precision()
def test_attend_against_the_definition():
    """Softmax over what a query sees, one row and head at a time."""
    segments, window = packed_and_padded(), 40
    query, key, value = (np.asarray(x, np.float64) for x in inputs())
    out = run("xla", inputs(), jnp.asarray(segments), (window,))
    sunk = run("xla", (*inputs(), SINKS), jnp.asarray(segments), (window,))
    for row, head, t in [(0, 0, 0), (0, 1, 65), (0, 3, 139), (1, 2, 30), (1, 0, 149)]:
        seen = [s for s in range(max(0, t - window + 1), t + 1) if segments[row, s] == segments[row, t]]
        scores = key[row, seen, head // 2] @ query[row, t, head] / 4
        weights = np.exp(scores - scores.max())
        expected = weights / weights.sum() @ value[row, seen, head // 2]
        assert_same(out[row, t, head], expected)
        # a sink takes its share of the weights and gives nothing for it
        share = np.exp(SINKS[head] - scores.max()) / weights.sum()
        assert_same(sunk[row, t, head], expected / (1 + share))


def test_splash_on_a_mesh_equals_one_device():
    mesh = params.make_mesh(data=2, fsdp=2, tensor=2)
    arrays, segments = (*inputs(batch=4), SINKS), jnp.asarray(packed_and_padded(4))
    sharded = jax.jit(partial(run, "splash", mesh=mesh))(arrays, segments)
    expected = exact(partial(run, "xla"), arrays, segments)
    np.testing.assert_allclose(sharded, expected, atol=bounds(arrays, arrays[0])[0])


def test_a_mesh_that_does_not_divide_the_heads():
    mesh = params.make_mesh(data=1, tensor=8)
    arrays, segments = inputs(), jnp.asarray(packed_and_padded())
    sharded = jax.jit(partial(run, "splash", mesh=mesh))(arrays, segments)
    expected = exact(partial(run, "xla"), arrays, segments)
    np.testing.assert_allclose(sharded, expected, atol=bounds(arrays, arrays[0])[0])


def test_layers_with_different_windows_under_scan():
    arrays, segments = inputs(), jnp.asarray(packed_and_padded())
    windows = (0, 40, 0)
    alone = [exact(partial(run, "xla", windows=(w,)), arrays, segments) for w in windows]
    for kernel in ("xla", "splash"):
        attention = attention_kernels.by_layer(kernel, AttentionMask(segments, segments), windows, None)
        _, together = jax.jit(
            lambda arrays, attention=attention: jax.lax.scan(
                lambda carry, layer: (carry, attention(layer, *arrays)), 0, jnp.arange(3)
            )
        )(arrays)
        np.testing.assert_allclose(together, np.stack(alone), atol=bounds(arrays, arrays[0])[0])


def test_choice_follows_the_platform_of_the_mesh(monkeypatch: pytest.MonkeyPatch):
    mesh = params.single_device_mesh()
    assert choose("auto", mesh, jnp.float32, 64, 2048) == "xla"
    monkeypatch.setattr(attention_kernels, "platform_of", lambda mesh: "tpu")
    assert choose("auto", mesh, jnp.bfloat16, 128, 2048) == "splash"
    assert choose("auto", mesh, jnp.bfloat16, 128, 64) == "xla"
    monkeypatch.setattr(attention_kernels, "platform_of", lambda mesh: "gpu")
    assert choose("auto", mesh, jnp.bfloat16, 128, 2048) == "cudnn"
    assert choose("auto", mesh, jnp.float32, 128, 2048) == "xla"
    assert choose("auto", mesh, jnp.bfloat16, 20, 2048) == "xla"
    assert choose("auto", mesh, jnp.bfloat16, 128, 2048, 50.0) == "xla"
    with pytest.raises(ValueError, match=r"attention=cudnn has no soft cap; got 50\.0"):
        choose("cudnn", mesh, jnp.bfloat16, 128, 2048, 50.0)
    assert choose("auto", mesh, jnp.bfloat16, 128, 2048, sinks=True) == "xla"
    with pytest.raises(ValueError, match="attention=cudnn has no attention sinks"):
        choose("cudnn", mesh, jnp.bfloat16, 128, 2048, sinks=True)
    assert choose("xla", mesh, jnp.bfloat16, 128, 2048) == "xla"


def test_wrong_choices_are_named():
    with pytest.raises(ValueError, match="attention=cudnn needs bfloat16 or float16"):
        choose("cudnn", None, jnp.float32, 64, 128)
    with pytest.raises(ValueError, match="attention must be one of auto, xla, splash, cudnn; got 'flash'"):
        choose("flash", None, jnp.float32, 64, 128)  # type: ignore[arg-type]


def step(config: ModelConfig):
    """Loss and gradient of a small model, of its weights, as a training step would have them."""
    parts = params.split(params.build(config), train="all")

    def loss(trainable, frozen, tokens):
        model = params.merge(params.ModelParams(parts.definition, trainable, frozen))
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        mask = AttentionMask(jnp.ones_like(tokens), jnp.ones_like(tokens))
        hidden = model(tokens, positions, mask, dtype=jnp.bfloat16, remat="full").hidden_BTD
        return jnp.sum(model.logits(hidden) ** 2)

    tokens = jax.ShapeDtypeStruct((2, 256), jnp.int32)
    return jax.jit(jax.value_and_grad(loss)), (parts.trainable, parts.frozen, tokens)


SMALL = ModelConfig(
    vocab_size=64,
    hidden_size=128,
    intermediate_size=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=64,
)


def test_training_step_lowers_for_tpu_with_splash(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention_kernels, "platform_of", lambda mesh: "tpu")
    function, arguments = step(SMALL)
    program = jax.export.export(function, platforms=["tpu"])(*arguments).mlir_module()
    assert program.count("tpu_custom_call") >= 3  # forward, query gradient, key and value gradient


def test_training_step_lowers_for_cuda_with_cudnn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention_kernels, "platform_of", lambda mesh: "gpu")
    # JAX asks the installed cuDNN for its version while it traces; there is none here
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    function, arguments = step(SMALL)
    checks = [jax.export.DisabledSafetyCheck.custom_call("__cudnn$fmhaScaleBiasSoftmax")]
    checks.append(jax.export.DisabledSafetyCheck.custom_call("__cudnn$fmhaScaleBiasSoftmaxBackward"))
    exported = jax.export.export(function, platforms=["cuda"], disabled_checks=checks)(*arguments)
    program = exported.mlir_module()
    assert "__cudnn$fmhaScaleBiasSoftmax(" in program
    assert "__cudnn$fmhaScaleBiasSoftmaxBackward(" in program


def test_training_step_lowers_for_tpu_and_cuda_without_kernels():
    function, arguments = step(SMALL)
    exported = jax.export.export(function, platforms=["tpu", "cuda"])(*arguments)
    assert set(exported.platforms) == {"tpu", "cuda"}
