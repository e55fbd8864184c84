"""Generation against uncached recomputation, transformers and the original code; padding, stops, sharing."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chisquare

import jaxmoe
from jaxmoe.generation import decode as generate
from jaxmoe.language_model import Generation, LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig, ModelConfig, RopeConfig
from tests.tiny_checkpoints import in_double
from tests.tolerances import DOUBLE, torch_double_precision

pytestmark = pytest.mark.usefixtures("in_double_precision")
NEW = 12
PROMPTS = np.random.default_rng(0).integers(3, 61, (3, 9)).astype(np.int32)


def tiny(mesh=None, *, windows=(), experts=True, **options) -> LanguageModel:
    """A random model of spread-out logits, with grouped heads and experts on three projections."""
    config = ModelConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        windows=windows,
        **options,
    )
    adapter = ExpertConfig(num_experts=3, rank=2, targets=("q_proj", "up_proj", "down_proj"))
    shape = params.abstract(config, adapter if experts else None)
    definition = params.split(shape).definition
    mesh = params.single_device_mesh() if mesh is None else mesh
    trainable, frozen = _weights(config, adapter if experts else None)
    place = params.shardings(shape, mesh)
    weights = params.ModelParams(definition, *jax.device_put((trainable, frozen), place))
    return LanguageModel(config, weights, mesh, experts=adapter if experts else None)


@partial(jax.jit, static_argnums=(0, 1))
def _weights(config: ModelConfig, adapter: ExpertConfig | None):
    """Random weights in one program; B is drawn too, so that the experts do something."""
    _, trainable, frozen = params.split(params.build(config, adapter, std=0.3))
    leaves, tree = jax.tree.flatten(trainable)
    keys = jax.random.split(jax.random.key(1), max(len(leaves), 1))
    drawn = [jax.random.normal(k, x.shape) * 0.2 for k, x in zip(keys, leaves, strict=False)]
    return jax.tree.unflatten(tree, drawn), frozen


@pytest.fixture(scope="module")
def lm(in_double_precision) -> LanguageModel:
    return in_double(tiny())


def recomputed(lm: LanguageModel, gen: Generation, width: int, mask: np.ndarray | None = None):
    """Log-probabilities [B, N, V] of the new positions, by running the whole texts without a cache."""
    new = gen.tokens.shape[1] - width
    whole = np.ones_like(gen.tokens) if mask is None else np.pad(mask, ((0, 0), (0, new)), constant_values=1)
    logits = lm(gen.tokens, whole).logits
    return np.asarray(jax.nn.log_softmax(logits, axis=-1))[:, width - 1 : -1]


def check_greedy(lm: LanguageModel, gen: Generation, width: int, mask: np.ndarray | None = None):
    scores = recomputed(lm, gen, width, mask)
    new = gen.tokens[:, width:]
    for row, length in enumerate(gen.lengths):
        np.testing.assert_array_equal(new[row, :length], scores[row, :length].argmax(-1))
        chosen = np.take_along_axis(scores[row], new[row, :, None], axis=-1)[:length, 0]
        np.testing.assert_allclose(gen.logprobs[row, :length], chosen, atol=DOUBLE)


def test_greedy_equals_uncached_recomputation(lm: LanguageModel):
    gen = lm.generate(PROMPTS, max_new_tokens=NEW)
    assert gen.tokens.shape == (3, 9 + NEW)
    np.testing.assert_array_equal(gen.tokens[:, :9], PROMPTS)
    check_greedy(lm, gen, 9)
    assert len(np.unique(gen.tokens[:, 9:])) > 3  # not one token over and over


@pytest.mark.parametrize(("windows", "unrolled"), [((5, 5), True), ((0, 4), False)])
def test_windows_and_scanned_layers(windows: tuple, unrolled: bool, monkeypatch: pytest.MonkeyPatch):
    lm = in_double(tiny(windows=windows))
    monkeypatch.setattr(generate, "unroll_layers", lambda mesh: unrolled)
    check_greedy(lm, lm.generate(PROMPTS, max_new_tokens=NEW), 9)


def test_left_padding_changes_nothing(lm: LanguageModel):
    lengths = [9, 4, 1]
    mask = (np.arange(9) >= 9 - np.array(lengths)[:, None]).astype(np.int32)
    padded = np.where(mask, PROMPTS, 7)
    gen = lm.generate(padded, mask, max_new_tokens=NEW)
    check_greedy(lm, gen, 9, mask)
    for row, length in enumerate(lengths):
        alone = lm.generate(np.repeat(PROMPTS[row : row + 1, 9 - length :], 3, axis=0), max_new_tokens=NEW)
        np.testing.assert_array_equal(alone.tokens[0, length:], gen.tokens[row, 9:])
        np.testing.assert_allclose(alone.logprobs[0], gen.logprobs[row], atol=DOUBLE)
    further = ((0, 0), (11, 0))  # into the next bucket
    more = lm.generate(np.pad(padded, further), np.pad(mask, further), max_new_tokens=NEW)
    np.testing.assert_array_equal(more.tokens[:, 20:], gen.tokens[:, 9:])


def test_samples_of_a_prompt_share_its_cache(lm: LanguageModel):
    """G samples of a prompt are the rows that G copies of the prompt would give."""
    key = jax.random.key(5)
    options = {"max_new_tokens": NEW, "temperature": 1.0, "key": key}
    shared = lm.generate(PROMPTS[:2], samples_per_prompt=4, **options)
    copies = lm.generate(np.repeat(PROMPTS[:2], 4, axis=0), **options)
    np.testing.assert_array_equal(shared.tokens, copies.tokens)
    np.testing.assert_allclose(shared.logprobs, copies.logprobs, atol=DOUBLE)
    assert len({row.tobytes() for row in shared.tokens[:4]}) > 1


def test_logprobs_are_the_models_whatever_the_sampling(lm: LanguageModel):
    gen = lm.generate(
        PROMPTS, max_new_tokens=NEW, temperature=0.7, top_k=20, top_p=0.8, key=jax.random.key(1)
    )
    scores = recomputed(lm, gen, 9)
    chosen = np.take_along_axis(scores, gen.tokens[:, 9:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(gen.logprobs, chosen, atol=DOUBLE)


def test_ended_rows_stay_padded_and_the_loop_ends_early(lm: LanguageModel):
    free = lm.generate(PROMPTS, max_new_tokens=NEW)
    stops = (int(free.tokens[0, 9 + 2]), int(free.tokens[1, 9 + 4]), int(free.tokens[2, 9 + 5]))
    gen = lm.generate(PROMPTS, max_new_tokens=NEW, stop_tokens=stops)
    for row in range(3):
        new, length = gen.tokens[row, 9:], gen.lengths[row]
        assert new[length - 1] in stops
        assert not np.isin(new[: length - 1], stops).any()
        np.testing.assert_array_equal(new[:length], free.tokens[row, 9 : 9 + length])
        assert (new[length:] == 0).all()
        assert (gen.logprobs[row, length:] == 0).all()
    assert gen.lengths.min() < gen.lengths.max() == gen.tokens.shape[1] - 9 < NEW


def test_models_end_token_and_pad_token_are_the_defaults(lm: LanguageModel):
    first = int(lm.generate(PROMPTS, max_new_tokens=NEW).tokens[0, 9])
    ending = in_double(tiny(eos_token_id=(60, first), pad_token_id=2))
    gen = ending.generate(PROMPTS, max_new_tokens=NEW)
    assert gen.lengths[0] == 1
    assert (gen.tokens[0, 10:] == 2).all()


def test_each_prompt_may_have_its_limit(lm: LanguageModel):
    gen = lm.generate(PROMPTS, max_new_tokens=np.array([2, 7, 4]))
    np.testing.assert_array_equal(gen.lengths, [2, 7, 4])
    check_greedy(lm, gen, 9)


def test_same_key_same_text(lm: LanguageModel):
    def run(seed):
        return lm.generate(PROMPTS, max_new_tokens=NEW, temperature=1.0, key=jax.random.key(seed)).tokens

    np.testing.assert_array_equal(run(1), run(1))
    assert (run(1) != run(2)).any()


def test_first_tokens_follow_the_models_distribution(lm: LanguageModel):
    draws = 4096
    gen = lm.generate(
        PROMPTS[:1], max_new_tokens=1, temperature=1.0, key=jax.random.key(3), samples_per_prompt=draws
    )
    logits = np.asarray(lm(PROMPTS[:1]).logits[0, -1], np.float64)
    expected = softmax(logits) * draws
    counts = np.bincount(gen.tokens[:, -1], minlength=61)
    common = expected >= 5
    observed, wanted = (np.append(x[common], x[~common].sum()) for x in (counts, expected))
    assert chisquare(observed, wanted).pvalue > 1e-4


def test_one_device_equals_eight(lm: LanguageModel):
    mesh = params.make_mesh(data=2, fsdp=2, tensor=2)
    options = {"max_new_tokens": NEW, "temperature": 1.0, "key": jax.random.key(0)}
    many = in_double(tiny(mesh)).generate(PROMPTS, **options)
    one = lm.generate(PROMPTS, **options)
    np.testing.assert_array_equal(many.tokens, one.tokens)
    np.testing.assert_allclose(many.logprobs, one.logprobs, atol=DOUBLE)


def test_without_experts_is_the_base_model(lm: LanguageModel):
    base = in_double(tiny(experts=False))
    off = lm.generate(PROMPTS, max_new_tokens=NEW, experts=False)
    np.testing.assert_array_equal(off.tokens, base.generate(PROMPTS, max_new_tokens=NEW).tokens)
    assert (off.tokens != lm.generate(PROMPTS, max_new_tokens=NEW).tokens).any()


QWEN2_MOE = {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
}


@pytest.mark.parametrize(("family", "more"), [("llama", {}), ("qwen2_moe", QWEN2_MOE)], ids=["llama", "moe"])
def test_greedy_equals_transformers(tmp_path: Path, family: str, more: dict):
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        eos_token_id=5,
        pad_token_id=0,
        **more,
    )
    theirs = AutoModelForCausalLM.from_config(config).eval()
    theirs.config._experts_implementation = "eager"  # torch's grouped product has no doubles
    theirs.save_pretrained(tmp_path)
    mask = (np.arange(9) >= np.array([[0], [3], [6]])).astype(np.int64)
    ours = in_double(jaxmoe.load(tmp_path)).generate(PROMPTS, mask, max_new_tokens=24)
    with torch.no_grad(), torch_double_precision():
        expected = theirs.double().generate(
            torch.tensor(PROMPTS, dtype=torch.int64),
            attention_mask=torch.tensor(mask),
            max_new_tokens=24,
            do_sample=False,
        )
    np.testing.assert_array_equal(ours.tokens, expected.numpy())


def test_greedy_equals_the_original_code(goldens: Path):
    folder = goldens / "loramoe" / "llama"
    expected = np.load(folder / "expected.npz")
    lm = in_double(jaxmoe.load(folder / "base", folder / "adapter"))
    gen = lm.generate(expected["generate_prompt"], max_new_tokens=8, stop_tokens=())
    np.testing.assert_array_equal(gen.tokens, expected["generate_out"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": PROMPTS[0]}, r"\[rows, length\]"),
        ({"attention_mask": np.ones((2, 9))}, "attention_mask must have input_ids' shape"),
        ({"attention_mask": np.array([[1] * 9, [1] * 9, [1] * 8 + [0]])}, "row 2"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"samples_per_prompt": 0}, "samples_per_prompt must be at least 1"),
        ({"temperature": 0.5}, "needs a key"),
        ({"top_p": 1.5}, "top_p must lie in"),
        ({"input_ids": [[3, 4], [5]]}, "must be rows of one length: pad shorter ones on the left"),
    ],
)
def test_errors_name_the_rule(lm: LanguageModel, change: dict, message: str):
    options = {"input_ids": PROMPTS, "max_new_tokens": 4} | change
    with pytest.raises(ValueError, match=message):
        lm.generate(**options)


def test_generation_stops_at_the_ends_of_generation_config_too(lm, tmp_path):
    """Llama 3 Instruct names its end of turn in generation_config.json only; transformers stops there."""
    free = lm.generate(PROMPTS, max_new_tokens=NEW, stop_tokens=())
    stop = int(free.tokens[0, PROMPTS.shape[1] + 2])
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, stop]}))
    from_disk = dataclasses.replace(lm, source=tmp_path)
    assert from_disk.stop_tokens == tuple(sorted((1, stop)))
    new = free.tokens[0, PROMPTS.shape[1] :].tolist()
    assert from_disk.generate(PROMPTS, max_new_tokens=NEW).lengths[0] == new.index(stop) + 1


@pytest.mark.parametrize("wrong", [61, 120, -1])
def test_ids_outside_the_vocabulary_are_refused(lm, wrong):
    """The embedding of 61 rows would give that of the last one, without a word."""
    beyond = PROMPTS.copy()
    beyond[1, 3] = wrong
    with pytest.raises(ValueError, match=rf"between 0 and 60, .* got {wrong} at \[1, 3\]"):
        lm(beyond)
    with pytest.raises(ValueError, match=rf"got {wrong} at \[1, 3\]"):
        lm.generate(beyond, max_new_tokens=2)
    beyond[1, :4] = wrong
    padded = np.ones_like(beyond)
    padded[1, :4] = 0
    assert np.isfinite(np.asarray(lm(beyond, padded).logits[1, 4:])).all()


LONGROPE = RopeConfig(
    "longrope", original_max_position_embeddings=12, short_factor=(1.0,) * 4, long_factor=(5.0,) * 4
)


@pytest.mark.parametrize("rope", [LONGROPE, RopeConfig("dynamic", factor=8.0)], ids=lambda r: r.rope_type)
def test_rows_that_fill_up_a_batch_do_not_lengthen_it(rope):
    """5 prompts become 6 of 16 slots, whose padding alone would lie beyond the original length."""
    lm = in_double(tiny(rope=rope, max_positions=12))
    prompts = np.random.default_rng(0).integers(3, 61, (5, 9)).astype(np.int32)
    gen = lm.generate(prompts, max_new_tokens=3, stop_tokens=())
    check_greedy(lm, gen, 9)


def test_a_text_does_not_grow_past_the_length_at_which_longrope_changes():
    """Keys of the prompt would have been turned by other angles than those of the tokens beyond."""
    lm = in_double(tiny(rope=LONGROPE))
    lm.generate(PROMPTS, max_new_tokens=4, stop_tokens=())  # 9 + 4, of which the last is not read
    with pytest.raises(ValueError, match=r"past 12 tokens .*got prompts of at most 9 and 5 new tokens"):
        lm.generate(PROMPTS, max_new_tokens=5)
    beyond = np.concatenate([PROMPTS, PROMPTS], axis=1)
    check_greedy(lm, lm.generate(beyond, max_new_tokens=5, stop_tokens=()), 18)
