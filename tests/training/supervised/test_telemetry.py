"""Routing telemetry: sums on the device, shares and spreads from them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmoe.model.config import ExpertConfig
from jaxmoe.model.router import statistics
from tests.tolerances import DOUBLE, double_precision
from training.supervised import telemetry

COUNTS = {"up_proj": (2, 4)}
REPORTED = 0.5e-5  # the report has five decimals


def collected(seed: int = 0):
    """Statistics of 3 rows with 2 samples of 3 tokens each, two layers; and what they were made from."""
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(size=(2, 3, 6, 4)), jnp.float32)
    logits = logits.at[0, ..., 2:].set(-1e30)  # layer 0 has two experts
    samples = jnp.asarray(np.repeat(np.eye(2), 3, axis=0)[None].repeat(3, 0), jnp.float32)
    weight = jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True)
    layers = [statistics(logits[i], weight[i], samples, ExpertConfig(num_experts=4)) for i in range(2)]
    stacked = type(layers[0])(*(jnp.stack(parts) for parts in zip(*layers, strict=True)))
    return {"up_proj": stacked}, np.asarray(weight)


TYPES = np.array([[0, 1], [1, -1], [0, 0]], np.int32)
TOKENS = np.full((3, 2), 3.0, np.float32)


@double_precision()
def test_report_is_that_of_the_tokens_of_each_type():
    stats, weight = collected()
    sums = telemetry.add(telemetry.zeros(COUNTS), stats, jnp.asarray(TYPES), jnp.asarray(TOKENS))
    rows = telemetry.report(sums, COUNTS)
    assert len(rows) == 2 * 3
    by_sample = weight.reshape(2, 3, 2, 3, 4)  # layer, row, sample, token, expert
    for row in rows:
        kind = {"other": 0, "knowledge": 1, "untyped": -1}[row["task"]]
        count = COUNTS["up_proj"][row["layer"]]
        tokens = by_sample[row["layer"]][kind == TYPES].reshape(-1, 4)[:, :count]
        assert row["tokens"] == len(tokens)
        share = tokens.mean(0)
        np.testing.assert_allclose(row["share"], share, atol=REPORTED)
        assert row["cv"] == pytest.approx(share.std(ddof=1) / share.mean(), abs=REPORTED)
        entropy = -(tokens * np.log(tokens)).sum(1).mean() / np.log(count)
        assert row["entropy"] == pytest.approx(entropy, abs=REPORTED)
        best = np.bincount(tokens.argmax(1), minlength=count) / len(tokens)
        np.testing.assert_allclose(row["chosen"], best, atol=REPORTED)


@double_precision()
def test_sums_add_up():
    first, second = collected(0)[0], collected(1)[0]
    args = (jnp.asarray(TYPES), jnp.asarray(TOKENS))
    both = telemetry.add(telemetry.add(telemetry.zeros(COUNTS), first, *args), second, *args)
    assert np.asarray(both["up_proj"].tokens_K).tolist() == [18.0, 12.0, 6.0]
    np.testing.assert_allclose(np.asarray(both["up_proj"].weight_LKE).sum(), 2 * 36, rtol=DOUBLE)


def test_even_routing_has_no_spread_and_a_starved_expert_is_dead():
    even = telemetry.RoutingSums(
        np.full((1, 3, 4), 2.0), np.ones((1, 3, 4)), np.full((1, 3), 8 * np.log(4)), np.array([8.0, 0, 0])
    )
    (row,) = telemetry.report({"up_proj": even}, {"up_proj": (4,)})
    assert (row["cv"], row["entropy"], row["dead"]) == (0.0, 1.0, 0)
    starved = even._replace(weight_LKE=np.array([[[4.0, 3.9, 0.1, 0.0]] * 3]))
    (row,) = telemetry.report({"up_proj": starved}, {"up_proj": (4,)})
    assert row["dead"] == 2  # below a tenth of 1/4
    assert telemetry.summary([row])["routing_dead"] == 2.0


def test_one_expert_has_neither_spread_nor_entropy():
    sums = telemetry.RoutingSums(
        np.full((1, 3, 1), 2.0), np.ones((1, 3, 1)), np.zeros((1, 3)), np.array([0, 2.0, 0])
    )
    (row,) = telemetry.report({"up_proj": sums}, {"up_proj": (1,)})
    assert (row["task"], row["share"], row["cv"], row["entropy"]) == ("knowledge", [1.0], 0.0, 0.0)


def test_nothing_counted_is_no_row():
    assert telemetry.report(telemetry.zeros(COUNTS), COUNTS) == []
    assert telemetry.summary([]) == {}
