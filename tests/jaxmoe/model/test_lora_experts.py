"""The routed projection against the original code's values, closed forms, reductions and invariances."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmoe.model import balance as balancing
from jaxmoe.model.config import ExpertConfig
from jaxmoe.model.layers import Linear, project
from jaxmoe.model.lora_experts import ExpertCall, LoraExperts
from tests.tolerances import double_precision, rounding_bound

GOLDEN_TOLERANCE = 1e-5  # the rounding of the original's float32; ours is computed in double precision
BF16_CONSTRAINT_TOLERANCE = 1e-4  # both round to bfloat16 at the same places; what is between is float32
BF16_UNIT = 2.0**-8  # relative spacing of bfloat16


def routed_linear(
    in_features: int, out_features: int, config: ExpertConfig, *, bias: bool = False, seed: int = 0
) -> Linear:
    """A projection of one layer with experts; call `layer_slice` before use."""
    linear = Linear((in_features, out_features), ("embed", "mlp"), 1, bias, 0.5, rngs=nnx.Rngs(seed))
    linear.experts = LoraExperts(linear.shape, linear.axes, config, (True,), rngs=nnx.Rngs(seed + 1))
    return linear


def layer_slice(linear: Linear) -> Linear:
    definition, state = nnx.split(linear)
    return nnx.merge(definition, jax.tree.map(lambda leaf: leaf[0], state))


def run(linear: Linear, x, call: ExpertCall = ExpertCall()):  # noqa: B008 - an immutable tuple
    (out,), statistics = project(x, {"p": layer_slice(linear)}, call)
    return out, statistics.get("p")


def fill(linear: Linear, **arrays) -> None:
    for name, value in arrays.items():
        variable = getattr(linear.experts, name)
        variable.set_value(jnp.asarray(value, variable.dtype).reshape(variable.shape))


def from_golden(golden) -> tuple[Linear, dict]:
    hparams = json.loads(str(golden["hparams"]))
    count, rank = hparams["lora_nums"], hparams["r"]
    out_features, in_features = golden["param.weight"].shape
    config = ExpertConfig(num_experts=count, rank=rank, alpha=hparams["lora_alpha"])
    linear = routed_linear(in_features, out_features, config, bias="param.bias" in golden)

    def stack(name):
        return np.stack([golden[f"param.lora_{name}{i}.weight"] for i in range(count)])

    fill(
        linear,
        a=stack("A").transpose(2, 0, 1),
        b=stack("B").transpose(0, 2, 1),
        router=golden["param.lora_route.weight"].T,
    )
    linear.kernel.set_value(jnp.asarray(golden["param.weight"].T)[None])
    if linear.bias is not None:
        linear.bias.set_value(jnp.asarray(golden["param.bias"])[None])
    return linear, hparams


@pytest.mark.parametrize("number", range(4))
def test_float32_is_double_precision_rounded(goldens, number):
    """|x| |W| bounds a layer's sums; its experts' go through A and B, weighed by a softmax."""
    golden = np.load(goldens / "loramoe" / f"layer_{number}.npz")
    single = run(from_golden(golden)[0], jnp.asarray(golden["x"]))[0]
    assert single.dtype == jnp.float32
    with double_precision():
        linear, hparams = from_golden(golden)
        double = np.asarray(run(linear, jnp.asarray(golden["x"], jnp.float32))[0])
    x = np.abs(golden["x"])
    weights = [np.abs(golden["param.weight"]).T]
    for i in range(hparams["lora_nums"]):
        a, b = (np.abs(golden[f"param.lora_{name}{i}.weight"]) for name in "AB")
        weights.append(hparams["lora_alpha"] / hparams["r"] * a.T @ b.T)
    # the router's logits sum as many products; an error of theirs moves a weight by at most as much
    logits = (x @ np.abs(golden["param.lora_route.weight"]).T).max()
    terms = int(x.shape[-1] * (1 + logits) + hparams["r"] * hparams["lora_nums"] + 10)
    np.testing.assert_allclose(single, double, atol=rounding_bound(terms, (x @ sum(weights)).max()))


@pytest.mark.parametrize("number", range(4))
@double_precision()
def test_layer_equals_the_original_code(goldens, number):
    golden = np.load(goldens / "loramoe" / f"layer_{number}.npz")
    linear, hparams = from_golden(golden)
    x = jnp.asarray(golden["x"], jnp.float32)
    task_types = np.asarray(golden["task_types"], np.int32)
    balance = balancing.BalanceConfig(weight=hparams["blc_weight"], delta=hparams["blc_alpha"])
    definition, state = nnx.split(linear)

    def both(state, x):
        model = nnx.merge(definition, state)
        call = ExpertCall(samples_BTZ=jnp.ones((*x.shape[:2], 1)))
        out, statistics = run(model, x, call)
        assert statistics is not None
        stacked = jax.tree.map(lambda leaf: leaf[None], statistics)
        constraint = jnp.zeros(())
        if task_types.size == x.shape[0] and (task_types >= 0).all():
            tokens = jnp.full((x.shape[0], 1), float(x.shape[1]))
            counts = {"p": (hparams["lora_nums"],)}
            constraint = balancing.balance_loss(
                {"p": stacked}, jnp.asarray(task_types)[:, None], tokens, counts, balance
            ).total
        main = (out * golden["cotangent"]).sum()
        return main + constraint, (out, constraint, main)

    (loss, (out, constraint, main)), (grads, grad_x) = jax.value_and_grad(both, (0, 1), has_aux=True)(
        state, x
    )
    np.testing.assert_allclose(out, golden["out"], atol=GOLDEN_TOLERANCE)
    np.testing.assert_allclose(constraint, golden["blc"], atol=GOLDEN_TOLERANCE)
    np.testing.assert_allclose(main, golden["loss_main"], rtol=GOLDEN_TOLERANCE, atol=GOLDEN_TOLERANCE)
    np.testing.assert_allclose(loss, golden["loss"], rtol=GOLDEN_TOLERANCE, atol=GOLDEN_TOLERANCE)

    def close(ours, theirs):
        np.testing.assert_allclose(ours, theirs, atol=GOLDEN_TOLERANCE * max(1.0, np.abs(theirs).max()))

    experts = nnx.to_pure_dict(grads)["experts"]
    close(grad_x, golden["grad.x"])
    close(experts["router"][0].T, golden["grad.lora_route.weight"])
    for i in range(hparams["lora_nums"]):
        close(experts["a"][0][:, i].T, golden[f"grad.lora_A{i}.weight"])
        close(experts["b"][0][i].T, golden[f"grad.lora_B{i}.weight"])


def test_bfloat16_layer_follows_the_original_rounding(goldens):
    golden = np.load(goldens / "loramoe" / "bf16_layer.npz")
    linear, hparams = from_golden(golden)
    x = jnp.asarray(golden["x"], jnp.bfloat16)
    call = ExpertCall(samples_BTZ=jnp.ones((*x.shape[:2], 1)))
    out, statistics = run(linear, x, call)
    assert out.dtype == jnp.bfloat16
    stacked = {"p": jax.tree.map(lambda leaf: leaf[None], statistics)}
    balance = balancing.BalanceConfig(weight=hparams["blc_weight"], delta=hparams["blc_alpha"])
    constraint = balancing.balance_loss(
        stacked,
        jnp.asarray(golden["task_types"], jnp.int32)[:, None],
        jnp.full((2, 1), 300.0),
        {"p": (8,)},
        balance,
    ).total
    # without the rounding of the weights' sums the constraint comes out 0.6 % larger
    np.testing.assert_allclose(constraint, golden["blc"], rtol=BF16_CONSTRAINT_TOLERANCE)
    # the original adds the experts one by one and rounds each time; ours must be no further from exact
    exact, _ = run(linear, x.astype(jnp.float32))
    ours, theirs = (np.sqrt(np.mean((np.asarray(y, np.float32) - exact) ** 2)) for y in (out, golden["out"]))
    assert ours <= theirs
    assert theirs < BF16_UNIT * np.abs(exact).max()  # and the golden values are of this very layer
