"""`import jaxmoe`: what users import, and its examples."""

import doctest
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxmoe
import jaxmoe.families
from tests.tiny_checkpoints import logits_of
from tests.tolerances import DOUBLE, rounding_bound


def test_examples_run():
    for module in (jaxmoe, jaxmoe.families):
        done = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE, raise_on_error=False)
        assert done.failed == 0
        assert done.attempted > 0


def test_every_name_is_there_and_documented():
    for name in jaxmoe.__all__:
        thing = getattr(jaxmoe, name)
        assert thing.__doc__
        assert name in dir(jaxmoe)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        jaxmoe.nothing  # noqa: B018 - the access is the test


def test_importing_it_imports_no_library():
    program = "import sys, jaxmoe; print(sorted({'jax', 'numpy', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def lm():
    config = jaxmoe.ModelConfig(64, 16, 32, 2, 2, 1, 8)
    return jaxmoe.LanguageModel.random(config, jaxmoe.ExpertConfig(num_experts=2, rank=2))


def test_random_models_are_the_same_for_a_seed(lm):
    again = jaxmoe.LanguageModel.random(lm.config, lm.experts)
    other = jaxmoe.LanguageModel.random(lm.config, lm.experts, seed=1)
    for first, second in zip(
        jax.tree.leaves(lm.weights[1:]), jax.tree.leaves(again.weights[1:]), strict=True
    ):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(lm([[1, 2]]).logits, other([[1, 2]]).logits)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[5, 64]], r"between 0 and 63.*got 64 at \[0, 1\]"),
        ([[5, 6], [-1, 6]], r"got -1 at \[1, 0\]"),
        (np.array([[2**32 + 5]]), "got 4294967301"),  # 5 in 32 bits
        ([[1.5, 2.0]], "must be whole numbers; got float64"),
        ([5, 6], "must be"),
        ([[]], "must be"),
    ],
    ids=str,
)
def test_ids_outside_the_vocabulary_are_never_clamped(lm, ids, message):
    for use in (lm, lm.generate):
        with pytest.raises(ValueError, match=message):
            use(ids)


def test_padding_may_hold_anything(lm):
    mask = [[0, 1, 1]]
    for use in (lambda ids: lm(ids, mask).logits[:, 1:], lambda ids: lm.generate(ids, mask).tokens[:, 1:]):
        np.testing.assert_array_equal(use([[0, 5, 6]]), use([[999, 5, 6]]))


def test_a_resized_vocabulary_is_the_mean_of_the_old(lm, tmp_path):
    base = jaxmoe.LanguageModel.random(lm.config)
    jaxmoe.save(base, tmp_path / "base", format="hf")
    plain = jaxmoe.load(tmp_path / "base")
    wide = jaxmoe.load(tmp_path / "base", resize_vocab=70, experts=lm.experts)
    assert wide.config.vocab_size == 70
    assert wide.replaced == ("lm_head.weight", "model.embed_tokens.weight")
    embedding, old = (np.asarray(m.weights.frozen["embedding"]) for m in (wide, plain))
    np.testing.assert_array_equal(embedding[:64], old)
    bound = rounding_bound(65, np.abs(old).mean(0).max())  # a mean of 64
    mean = old.mean(0, dtype=np.float64)
    np.testing.assert_allclose(embedding[64:], np.broadcast_to(mean, (6, 16)), rtol=0, atol=bound)
    narrow = logits_of(plain, np.array([[3]]))
    np.testing.assert_allclose(logits_of(wide, np.array([[3, 69]]))[:, :1, :64], narrow, atol=DOUBLE)
    # an adapter of it takes the new rows along
    jaxmoe.save(wide, tmp_path / "adapter")
    again = jaxmoe.load(tmp_path / "base", tmp_path / "adapter")
    np.testing.assert_array_equal(np.asarray(again([[3, 69]]).logits), np.asarray(wide([[3, 69]]).logits))
    with pytest.raises(ValueError, match=r"resize_vocab must be at least .* \(64\).* got 63"):
        jaxmoe.load(tmp_path / "base", resize_vocab=63)


def test_a_tied_vocabulary_stays_tied(lm, tmp_path):
    import dataclasses

    tied = dataclasses.replace(lm.config, tie_embeddings=True)
    jaxmoe.save(jaxmoe.LanguageModel.random(tied), tmp_path / "base", format="hf")
    wide = jaxmoe.load(tmp_path / "base", resize_vocab=65)
    assert (wide.config.tie_embeddings, wide.config.vocab_size) == (True, 65)
    assert wide([[64]]).logits.shape == (1, 1, 65)


def test_a_revision_is_of_the_hub(tmp_path, lm):
    jaxmoe.save(lm, tmp_path / "x", format="hf")
    with pytest.raises(ValueError, match="a revision is of a repository on the hub"):
        jaxmoe.load(tmp_path / "x", revision="main")
