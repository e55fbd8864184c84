"""Sampling against sort-based references, and drawn frequencies by chi-square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from jaxmoe.generation import sampling
from jaxmoe.generation.sampling import Sampling
from tests.tolerances import DOUBLE, double_precision, rounding_bound

DRAWS = 40_000
P_VALUE = 1e-4  # a correct sampler fails once in ten thousand; the keys are fixed, so a pass stays a pass


def reference(logits: np.ndarray, temperature: float = 1.0, k: int = 0, p: float = 1.0) -> np.ndarray:
    """The sampled distribution, by sorting in float64: softmax, then the k best, then their nucleus."""
    logits = np.asarray(logits, np.float64) / temperature
    order = np.argsort(-logits, kind="stable")
    if k:
        logits[order[k:]] = -np.inf
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    if p < 1:
        likelier = np.array([probabilities[probabilities > q].sum() for q in probabilities])
        probabilities[likelier >= p] = 0
    return probabilities / probabilities.sum()


def frequencies(logits: np.ndarray, how: Sampling, seed: int = 0) -> np.ndarray:
    """Counts of each token in DRAWS draws; 8 rows a key, and many keys, as in a generation."""
    rows, keys = 8, jax.random.split(jax.random.key(seed), DRAWS // 8)
    batch = jnp.broadcast_to(jnp.asarray(logits, jnp.float32)[None], (rows, len(logits)))
    drawn = jax.jit(lambda keys: jax.lax.map(lambda key: sampling.sample(batch, how, key=key), keys))(keys)
    return np.bincount(np.asarray(drawn).ravel(), minlength=len(logits))


@pytest.mark.parametrize(
    "how",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.5),
        Sampling(temperature=1.3, top_p=0.9),
        Sampling(temperature=1.0, top_p=0.5),
        Sampling(temperature=0.8, top_k=5),
        Sampling(temperature=2.0, top_k=20, top_p=0.7),
    ],
    ids=str,
)
@pytest.mark.parametrize("vocabulary", [37, 128])
def test_frequencies_match_the_sorted_reference(how: Sampling, vocabulary: int):
    logits = np.random.default_rng(vocabulary).normal(size=vocabulary).astype(np.float32) * 2
    expected = reference(logits, how.temperature, how.top_k, how.top_p)
    counts = frequencies(logits, how)
    assert counts.sum() == DRAWS
    assert counts[expected == 0].sum() == 0
    # chi-square wants five expected draws a cell: pool the rare tokens
    common = expected * DRAWS >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum()) * DRAWS
    kept = wanted > 0
    assert chisquare(observed[kept], wanted[kept] * (observed.sum() / wanted.sum())).pvalue > P_VALUE


draw_in_nucleus = jax.jit(sampling.top_p, static_argnums=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.5, 0.9, 0.97]), st.floats(0.1, 6.0))
def test_draws_stay_in_the_nucleus(seed: int, p: float, spread: float):
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(size=(4, 50)) * spread, 1).astype(np.float32)  # rounding makes ties
    drawn = np.asarray(draw_in_nucleus(jnp.asarray(logits), p, key=jax.random.key(seed)))
    # sums differ from float64 in the last bits: a token within 1e-6 of the border may fall on either side
    allowed = [reference(row, p=p + 1e-6)[token] > 0 for row, token in zip(logits, drawn, strict=True)]
    assert all(allowed)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.02, 0.98))
def test_nucleus_of_sorted_probabilities(seed: int, p: float):
    # thirty-seconds are exact in float32, so borders and ties are exact
    parts = np.random.default_rng(seed).multinomial(32, np.full(8, 1 / 8))
    sorted_C = np.sort(parts)[::-1] / 32
    kept = np.asarray(sampling.nucleus(jnp.asarray(sorted_C[None], jnp.float32), p))[0]
    likelier = np.array([sorted_C[sorted_C > q].sum() for q in sorted_C])
    np.testing.assert_array_equal(kept, likelier < np.float32(p))


def test_ties_enter_the_nucleus_together():
    logits = jnp.log(jnp.array([[0.4, 0.2, 0.2, 0.2]]))
    # 0.4 alone is short of 0.5; the three equal ones come in as one
    assert sampling.nucleus(jnp.exp(logits), 0.5).all()
    assert sampling.nucleus(jnp.exp(logits), 0.39).sum() == 1
    counts = frequencies(np.asarray(logits)[0], Sampling(temperature=1.0, top_p=0.5))
    assert chisquare(counts, np.array([0.4, 0.2, 0.2, 0.2]) * DRAWS).pvalue > P_VALUE


def test_a_temperature_near_zero_is_greedy():
    """Logits divided by it leave float32; every softmax of them was NaN."""
    logits = jnp.asarray([[1.0, 30.0, -2.0]])
    for temperature in (1e-7, 1e-38, 1e-40):
        near = Sampling(temperature)
        assert sampling.sample(logits, near, key=jax.random.key(0)).tolist() == [1]
        assert sampling.sampled_log_probability(logits, jnp.asarray([1]), near).tolist() == [0.0]


def test_reductions_to_greedy():
    logits = jax.random.normal(jax.random.key(1), (16, 300))
    best = np.argmax(logits, axis=-1)
    key = jax.random.key(2)
    for how in (Sampling(), Sampling(1.0, top_k=1), Sampling(1.0, top_p=1e-6), Sampling(1e-4)):
        np.testing.assert_array_equal(sampling.sample(logits, how, key=key), best)


def test_a_row_depends_on_the_key_but_not_on_later_rows():
    logits = jax.random.normal(jax.random.key(1), (8, 1000))
    how = Sampling(temperature=1.0, top_p=0.8)
    whole = sampling.sample(logits, how, key=jax.random.key(3))
    np.testing.assert_array_equal(whole, sampling.sample(logits, how, key=jax.random.key(3)))
    np.testing.assert_array_equal(whole[:5], sampling.sample(logits[:5], how, key=jax.random.key(3)))
    assert (np.asarray(whole) != np.asarray(sampling.sample(logits, how, key=jax.random.key(4)))).any()


def test_a_row_without_numbers_does_not_hang():
    logits = jnp.full((2, 10), jnp.nan)
    assert sampling.sample(logits, Sampling(1.0, top_p=0.5), key=jax.random.key(0)).shape == (2,)


def test_no_sort_of_the_vocabulary():
    def run(logits, key):
        return sampling.sample(logits, Sampling(temperature=0.8, top_p=0.9), key=key)

    program = jax.jit(run).lower(jnp.zeros((2, 4096)), jax.random.key(0)).as_text()
    assert "stablehlo.while" in program
    assert "stablehlo.sort" not in program
    assert "top_k" not in program


@double_precision()
def test_log_probability():
    logits = jax.random.normal(jax.random.key(0), (3, 20)) * 5
    tokens = jnp.array([0, 7, 19])
    expected = np.log(np.stack([reference(row) for row in np.asarray(logits)]))[np.arange(3), tokens]
    np.testing.assert_allclose(sampling.log_probability(logits, tokens), expected, atol=DOUBLE)


@pytest.mark.parametrize(
    "how",
    [
        Sampling(1.0),
        Sampling(0.7),
        Sampling(0.8, top_p=0.9),
        Sampling(1.0, top_p=0.3),
        Sampling(1.3, top_k=6),
        Sampling(2.0, top_k=20, top_p=0.7),
    ],
    ids=str,
)
def test_log_probability_of_the_sampler_is_that_of_the_sorted_reference(how: Sampling):
    """Of every token that the sampler can draw, and at a tie at the edge of the nucleus.

    In float32, in whose bits the edge is looked for: a logit is divided and taken from the largest, exp and
    log have a rounding each, and the sum is of 50 terms.
    """
    logits = np.random.default_rng(5).normal(size=(4, 50)).astype(np.float32) * 2
    logits[3] = np.round(logits[3])
    for row in logits:
        expected = reference(row, how.temperature, how.top_k, how.top_p)
        bound = rounding_bound(4, 2 * np.abs(row).max() / how.temperature) + rounding_bound(50, 1.0)
        drawn = np.flatnonzero(expected)
        rows = jnp.broadcast_to(jnp.asarray(row), (len(drawn), 50))
        found = jax.jit(sampling.sampled_log_probability, static_argnums=2)(rows, jnp.asarray(drawn), how)
        np.testing.assert_allclose(found, np.log(expected[drawn]), rtol=0, atol=bound)
        np.testing.assert_allclose(np.exp(np.asarray(found, np.float64)).sum(), 1.0, rtol=bound)


def test_a_greedy_sampler_is_sure_and_none_sorts():
    logits = jax.random.normal(jax.random.key(0), (3, 20))
    assert not sampling.sampled_log_probability(logits, jnp.zeros(3, jnp.int32), Sampling()).any()
    how = Sampling(0.8, top_p=0.9)
    program = jax.jit(lambda z, t: sampling.sampled_log_probability(z, t, how))
    text = program.lower(jnp.zeros((2, 4096)), jnp.zeros(2, jnp.int32)).as_text()
    assert "stablehlo.sort" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be finite"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
        ({"top_k": -2}, "top_k must be at least 0"),
    ],
)
def test_settings_are_checked(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


def test_sampling_needs_a_key():
    with pytest.raises(ValueError, match="needs a key"):
        sampling.sample(jnp.zeros((1, 4)), Sampling(1.0), key=None)


def test_greedy_takes_the_first_of_equals_and_some_token_of_a_nan():
    rows = jnp.asarray([[1.0, 3.0, 3.0], [-jnp.inf, -jnp.inf, -2.0], [jnp.nan, 1.0, 2.0], [0.0, 0.0, 0.0]])
    assert sampling.greedy(rows).tolist()[:2] == [1, 2]
    assert sampling.greedy(rows).tolist()[3] == 0
    assert 0 <= int(sampling.greedy(rows)[2]) < 3
