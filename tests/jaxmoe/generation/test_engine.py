"""The engine: the same text as a batch of its own, whatever else is decoded beside it."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxmoe.generation import engine_programs
from jaxmoe.generation.engine import Engine, EngineConfig
from jaxmoe.generation.model_runner import ModelRunner
from jaxmoe.generation.requests import NewToken, Request
from jaxmoe.generation.sampling import Sampling
from jaxmoe.language_model import LanguageModel, positions_from_mask
from jaxmoe.model import params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.config import ClampedSwiglu, ExpertConfig, ModelConfig, MoeConfig, RopeConfig
from jaxmoe.model.lora_experts import ExpertCall
from tests.tiny_checkpoints import float32_logits, logits_of
from tests.tolerances import rounding_bound

CONFIG = ModelConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    eos_token_id=1,
    pad_token_id=0,
)
SMALL = EngineConfig(slots=3, max_length=96, chunk=8, sizes=(32, 64))


def language_model(windows: tuple[int, ...] = (), seed: int = 0) -> LanguageModel:
    """A random model with experts that matter."""
    config = dataclasses.replace(CONFIG, windows=windows)
    experts = ExpertConfig(num_experts=3, rank=2, targets=("q_proj", "up_proj", "down_proj"))
    model = params.build(config, experts, seed=seed, std=0.3)
    for linear in (model.blocks.self_attn.q_proj, model.blocks.mlp.up_proj, model.blocks.mlp.down_proj):
        noise = jax.random.normal(jax.random.key(5), linear.experts.b.shape)
        linear.experts.b[...] = noise * 0.05
    return LanguageModel(config, params.split(model), params.single_device_mesh(), experts)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return language_model()


def prompts(lengths: list[int], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(2, CONFIG.vocab_size, n).tolist() for n in lengths]


def alone(lm: LanguageModel, prompt: list[int], new: int, **options) -> list[int]:
    """The new tokens of a batch of one."""
    made = lm.generate(np.asarray([prompt]), max_new_tokens=new, **options)
    return made.tokens[0, len(prompt) : len(prompt) + int(made.lengths[0])].tolist()


@pytest.mark.parametrize(("windows", "unrolled"), [((), True), ((5, 0), False)])
def test_greedy_text_is_that_of_a_batch_of_its_own(windows, unrolled):
    lm = language_model(windows)
    engine = Engine(lm, SMALL)
    engine._runner = ModelRunner(lm, SMALL.slots, 32, unrolled=unrolled)
    given = prompts([1, 8, 9, 25])
    new = [40, 30, 1, 7]
    ids = [
        engine.submit(Request(prompt, count, stop_tokens=(1,)))
        for prompt, count in zip(given, new, strict=True)
    ]
    done = engine.run()
    for id, prompt, count in zip(ids, given, new, strict=True):
        assert done[id].tokens == alone(lm, prompt, count)
        stopped = done[id].tokens[-1] == 1
        assert done[id].reason == ("stop" if stopped else "length")


@pytest.mark.slow  # each switch is tried in test_switches, without the engine
def test_attention_sinks_and_experts_of_the_base():
    """As GPT-OSS has them: greedy text is that of a batch of its own."""
    config = dataclasses.replace(
        CONFIG,
        windows=(4, 0),
        qkv_bias=True,
        attention_sinks=True,
        moe=MoeConfig(4, 2, 8, bias=True, clamped=ClampedSwiglu(limit=0.5)),
    )
    model = params.split(params.build(config, std=0.3))
    lm = LanguageModel(config, model, params.single_device_mesh())
    engine, given = Engine(lm, SMALL), prompts([3, 11])
    ids = [engine.submit(Request(prompt, 12, stop_tokens=(1,))) for prompt in given]
    done = engine.run()
    assert [done[id].tokens for id in ids] == [alone(lm, prompt, 12) for prompt in given]


def test_log_probabilities_are_the_models(lm):
    engine = Engine(lm, SMALL)
    prompt = prompts([21])[0]
    id = engine.submit(Request(prompt, 6, prompt_logprobs=True, alternatives=3))
    done = engine.run()[id]
    whole = np.asarray([prompt + done.tokens])
    scores = logits_of(lm, whole)[0]
    logits = log_softmax(scores, axis=-1)
    bound = float32_logits(CONFIG, whole.size, np.abs(scores).max()) + rounding_bound(CONFIG.vocab_size, 1.0)
    expected = logits[np.arange(len(whole[0]) - 1), whole[0, 1:]]
    assert done.prompt is not None
    assert [one.token for one in done.prompt] == prompt[1:]
    said = [one.logprob for one in done.prompt]
    np.testing.assert_allclose(said, expected[: len(prompt) - 1], rtol=0, atol=bound)
    np.testing.assert_allclose(done.logprobs, expected[len(prompt) - 1 :], rtol=0, atol=bound)
    for row, one in zip(logits, [*done.prompt, *done.new], strict=False):
        best = np.argsort(-row)[:3]
        assert [id for id, _ in one.alternatives] == best.tolist()
        np.testing.assert_allclose([p for _, p in one.alternatives], row[best], rtol=0, atol=bound)


def test_rows_use_the_experts_or_the_base_alone(lm):
    engine = Engine(lm, SMALL)
    prompt = prompts([12])[0]
    ids = {experts: engine.submit(Request(prompt, 10, experts=experts)) for experts in (True, False)}
    done = engine.run()
    for experts, id in ids.items():
        assert done[id].tokens == alone(lm, prompt, 10, experts=experts, stop_tokens=())
    assert done[ids[True]].tokens != done[ids[False]].tokens


@partial(jax.jit, static_argnums=0)
def routing_weights(definition, trainable, frozen, tokens_BT):
    """Routing weights of every token [T, E], a forward pass over the whole text: mean over all routers."""
    model = params.merge(params.ModelParams(definition, trainable, frozen))
    length = tokens_BT.shape[1]
    seen = jnp.ones_like(tokens_BT)
    call = ExpertCall(samples_BTZ=jnp.eye(length)[None])
    out = model(tokens_BT, positions_from_mask(seen), AttentionMask(seen, seen), call=call)
    return jnp.mean(jnp.stack([one.weight_BZE[:, 0] for one in out.statistics.values()]), axis=(0, 1))


@pytest.mark.parametrize("unrolled", [True, False])
def test_each_token_tells_the_experts_that_were_at_work(unrolled):
    lm = language_model()
    engine = Engine(lm, SMALL)
    engine._runner = ModelRunner(lm, SMALL.slots, 32, unrolled=unrolled)
    first, second = prompts([12, 9])
    told = engine.submit(Request(first, 10, expert_weights=True))
    base = engine.submit(Request(second, 10, expert_weights=True, experts=False))
    silent = engine.submit(Request(second, 10))
    done = engine.run()
    ids = np.asarray([first + done[told].tokens])
    expected = routing_weights(*lm.weights, ids)[len(first) - 1 : -1]
    found = np.asarray([one.experts for one in done[told].new])
    # softmax turns an error of its logits, which are no larger than the model's own, into a smaller one
    bound = float32_logits(CONFIG, ids.size, np.abs(logits_of(lm, ids)).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)
    assert np.ptp(found, axis=0).max() > 0.05  # tokens differ
    np.testing.assert_allclose(found.sum(1), 1, rtol=0, atol=rounding_bound(6, 1.0))
    assert {one.experts for id in (base, silent) for one in done[id].new} == {()}


def test_a_request_does_not_depend_on_its_neighbors(lm):
    """The same seed gives the same tokens alone, in a full engine, and after others have used the slots."""
    settings = Sampling(0.9, top_k=20, top_p=0.8)
    prompt = prompts([19], seed=3)[0]
    request = Request(prompt, 25, settings, seed=11)
    engine = Engine(lm, SMALL)
    first = engine.submit(request)
    expected = engine.run()[first].tokens
    for i, other in enumerate(prompts([4, 30, 11, 7, 2], seed=9)):
        engine.submit(Request(other, 5 + 3 * i, Sampling(1.3), seed=i))
    again = engine.submit(request)
    other_seed = engine.submit(dataclasses.replace(request, seed=12))
    done = engine.run()
    assert done[again].tokens == expected
    assert done[other_seed].tokens != expected


def test_what_is_common_is_read_once(lm):
    engine = Engine(lm, dataclasses.replace(SMALL, slots=2))
    common = prompts([40])[0]
    ids = [engine.submit(Request([*common, tail], 4)) for tail in (5, 6, 7, 8)]
    done = engine.run()
    assert [done[id].reused for id in ids] == [0, 40, 40, 40]
    assert engine.statistics.prefilled == 40
    plain = Engine(lm, dataclasses.replace(SMALL, slots=2, prefix_reuse=False))
    others = [plain.submit(Request([*common, tail], 4)) for tail in (5, 6, 7, 8)]
    unshared = plain.run()
    assert plain.statistics.prefilled == 160
    assert [done[id].tokens for id in ids] == [unshared[id].tokens for id in others]


def test_a_conversation_goes_on_where_it_was(lm):
    """The answer's own keys and values serve the next turn."""
    engine = Engine(lm, SMALL)
    opening = prompts([20])[0]
    first = engine.run_one(Request(opening, 10))
    follow = [*opening, *first.tokens, 3, 4, 5]
    second = engine.run_one(Request(follow, 5))
    assert second.reused == len(opening) + 9  # the last new token has not been read
    assert second.tokens == alone(lm, follow, 5, stop_tokens=())


def test_weights_of_another_round(lm):
    """What was read with the old weights is not taken for what the new ones would read."""
    engine, other = Engine(lm, SMALL), language_model(seed=1)
    prompt = prompts([30])[0]
    assert engine.run_one(Request(prompt, 8)).tokens == alone(lm, prompt, 8, stop_tokens=())
    engine.update(other.weights)
    done = engine.run_one(Request(prompt, 8))
    assert done.reused == 0
    assert done.tokens == alone(other, prompt, 8, stop_tokens=())


def test_a_mesh_changes_nothing_and_keeps_the_cache_spread():
    """Slots over data and fsdp, heads over tensor, before and after every program."""
    lm = language_model(seed=5)
    mesh = params.make_mesh(data=2, fsdp=2, tensor=2, devices=jax.devices()[:8])
    parts = params.shardings(params.abstract(CONFIG, lm.experts), mesh)
    weights = lm.weights._replace(
        trainable=jax.device_put(lm.weights.trainable, parts[0]),
        frozen=jax.device_put(lm.weights.frozen, parts[1]),
    )
    spread = dataclasses.replace(lm, weights=weights, mesh=mesh)
    config = dataclasses.replace(SMALL, slots=4)
    engines = Engine(lm, config), Engine(spread, config)
    ids = [[e.submit(Request(p, 12)) for p in prompts([5, 30, 9, 11, 50])] for e in engines]
    done = [e.run() for e in engines]
    one, many = ([d[i].tokens for i in own] for d, own in zip(done, ids, strict=True))
    assert one == many
    for x in jax.tree.leaves(engines[1]._runner._cache):
        assert {part.data.shape for part in x.addressable_shards} == {(1, 1, *x.shape[2:])}


def compiled() -> list[int]:
    """How often each program has been compiled so far."""
    programs = (engine_programs.decode_step, engine_programs.read_chunk, engine_programs.copy_slot)
    return [program._cache_size() for program in programs]


def test_few_programs_are_compiled():
    """A step, a chunk and a copy for each length of the cache; other prompts, lengths, seeds and temperatures
    add none, and a report that is asked for beside the tokens adds a step of its own, whatever its size."""
    lm = language_model(seed=2)
    engine = Engine(lm, SMALL)
    counts = compiled()
    rng = np.random.default_rng(0)
    for i in range(30):
        length = int(rng.integers(1, 60))
        engine.submit(
            Request(
                prompts([length], seed=i)[0], int(rng.integers(1, 30)), Sampling(float(i % 3) / 2), seed=i
            )
        )
    engine.run()
    after = compiled()
    assert [now - before <= 3 for now, before in zip(after, counts, strict=True)] == [True] * 3
    before = engine_programs.decode_step._cache_size()
    for alternatives in (1, 2, 5, 20):
        engine.submit(Request([5, 6], 2, alternatives=alternatives))
        engine.run()
    # of one alternative, and of more; tests before this one may have had them compiled
    assert engine_programs.decode_step._cache_size() - before <= 2


def test_a_program_is_compiled_once():
    """A cache that has been through a program lies where a new one lies."""
    lm = language_model(seed=6)
    engine, before = Engine(lm, dataclasses.replace(SMALL, slots=5)), compiled()
    engine.submit(Request(prompts([20])[0], 8))
    engine.run()
    assert [now - then for now, then in zip(compiled()[:2], before[:2], strict=True)] == [1, 1]


def test_few_texts_run_in_few_rows():
    """Whatever number of rows a step has, texts come out the same; each number is compiled once."""
    lm = language_model(seed=7)
    slots = dataclasses.replace(SMALL, slots=24, chunks=24)
    engine, before = Engine(lm, slots), engine_programs.decode_step._cache_size()
    given, new = prompts([6] * 24), [2 if i < 13 else 12 if i < 18 else 20 for i in range(24)]
    requests = [Request(p, n, Sampling(0.9), seed=i) for i, (p, n) in enumerate(zip(given, new, strict=True))]
    ids = [engine.submit(request) for request in requests]
    rows: list[int] = []
    step = engine._runner.step

    def counted(told, *args, **options):
        rows.append(len(told.tokens_B))
        return step(told, *args, **options)

    engine._runner.step = counted  # type: ignore[method-assign]
    done = engine.run()
    assert rows == [24, 24] + [16] * 10 + [8] * 8
    assert engine_programs.decode_step._cache_size() - before == 3
    assert engine.statistics.wasted == 10 * (16 - 11) + 8 * (8 - 6)
    full = Engine(lm, slots)
    full._runner._row_numbers = (24,)
    others = [full.submit(request) for request in requests]
    expected = full.run()
    assert [done[id].tokens for id in ids] == [expected[id].tokens for id in others]


def test_short_prompts_fill_the_slots_within_a_step(lm):
    engine = Engine(lm, dataclasses.replace(SMALL, slots=4, chunks=3))
    for prompt in prompts([6, 7, 20, 5]):
        engine.submit(Request(prompt, 8))
    engine.step()
    assert len(engine._active) == 2  # two prompts of one chunk, and the first of three
    engine.step()
    assert len(engine._active) == 4
    engine.run()


def test_short_parts_of_prompts_are_read_by_a_shorter_program():
    lm = language_model(seed=4)
    engine = Engine(lm, dataclasses.replace(SMALL, chunk=64, max_length=120, sizes=()))
    given = prompts([12, 17, 30, 81])
    before = engine_programs.read_chunk._cache_size()
    ids = [engine.submit(Request(prompt, 5)) for prompt in given]
    done = engine.run()
    assert [done[id].tokens for id in ids] == [alone(lm, p, 5, stop_tokens=()) for p in given]
    assert engine_programs.read_chunk._cache_size() - before == 2


def test_slots_are_refilled_at_once(lm):
    """Answers of very unequal lengths: few steps run with an empty slot while requests wait."""
    engine = Engine(lm, dataclasses.replace(SMALL, slots=4, max_length=80))
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(2.3, 0.8, 60)), 1, 60).astype(int)
    for i, length in enumerate(lengths):
        engine.submit(Request(prompts([6], seed=i)[0], int(length)))
    while engine._waiting or engine._reading:
        engine.step()
    wasted, decoded = engine.statistics.wasted, engine.statistics.decoded
    assert wasted / (wasted + decoded) < 0.1
    engine.run()
    assert engine.statistics.finished == 60


def test_cancelled_wherever_they_are(lm):
    engine = Engine(lm, dataclasses.replace(SMALL, slots=1))
    ids = [engine.submit(Request(prompt, 50)) for prompt in prompts([40, 5, 6])]
    engine.step()
    engine.cancel(ids[0])  # its prompt is being read
    engine.cancel(ids[2])  # waiting
    ended = engine.step()
    assert {id: done.reason for id, done in ended.items()} == {ids[0]: "cancelled", ids[2]: "cancelled"}
    while not engine._active:
        engine.step()
    engine.step()
    engine.cancel(ids[1])
    done = engine.run()[ids[1]]
    assert (done.reason, len(done.tokens) >= 1) == ("cancelled", True)
    assert engine.idle
    engine.cancel(999)
    assert engine.step() == {}


def test_a_callback_sees_every_token_and_may_end_the_text(lm):
    seen: list[int] = []

    def until_three(token: NewToken) -> bool:
        seen.append(token.token)
        assert token.logprob <= 0
        return len(seen) == 3

    done = Engine(lm, SMALL).run_one(Request(prompts([5])[0], 20, on_token=until_three))
    assert (done.tokens, done.reason) == (seen, "stop")
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([]), "at least one token id"),
        (Request([1, 97]), "must lie in 0..96; got 97"),
        (Request([-1]), "must lie in 0..96; got -1"),
        (Request([1], 0), "max_new_tokens must be at least 1; got 0"),
        (Request([1] * 90, 7), r"must fit 96 tokens \(engine.max_length\); got 90 \+ 7"),
        (Request([1], alternatives=21), r"must lie in 0\.\.20; got 21"),
        (Request([1, 2**70]), r"must lie in 0\.\.96; got one beyond 64 bits"),
        (Request([1], seed=2**63), "seed must fit 64 bits"),
        (Request([1], sampling=Sampling(1e39)), "temperature must be at most"),
        (Request([1], sampling=Sampling(10**400)), "temperature must be at most"),
    ],
)
def test_impossible_requests_are_refused(lm, request_, message):
    engine = Engine(lm, SMALL)
    with pytest.raises(ValueError, match=message):
        engine.submit(request_)
    assert engine.idle


@pytest.mark.parametrize("sampling", [Sampling(1.0, top_k=3_000_000_000), Sampling(1.0, top_p=1e-60)])
def test_settings_beyond_32_bits_are_served(lm, sampling):
    same = Sampling(1.0) if sampling.top_k else Sampling()
    engine, prompt = Engine(lm, SMALL), prompts([5])[0]
    assert (
        engine.run_one(Request(prompt, 6, sampling)).tokens == engine.run_one(Request(prompt, 6, same)).tokens
    )


@pytest.mark.parametrize("temperature", [1e-38, 1e-40, 9e-7])
def test_hardly_any_temperature_is_none(lm, temperature):
    engine, prompt = Engine(lm, SMALL), prompts([5])[0]
    cold = engine.run_one(Request(prompt, 6, Sampling(temperature), score_draws=True))
    assert cold.tokens == engine.run_one(Request(prompt, 6)).tokens
    assert [one.drawn_logprob for one in cold.new] == [0.0] * 6


def test_what_is_cancelled_has_the_scores_of_a_prompt_that_was_read(lm):
    engine, prompt = Engine(lm, SMALL), prompts([20])[0]
    id = engine.submit(Request(prompt, 50, prompt_logprobs=True))
    while not (engine._active and engine._active[0].new):
        engine.step()
    engine.cancel(id)
    assert len(engine.step()[id].prompt) == 19


LONGROPE = RopeConfig(
    "longrope", original_max_position_embeddings=32, short_factor=(1.0,) * 4, long_factor=(2.0,) * 4
)


@pytest.mark.parametrize(
    "ropes",
    [
        {"rope": RopeConfig("dynamic", factor=2.0)},
        {"rope": LONGROPE},
        {"layer_ropes": (RopeConfig(), LONGROPE)},
    ],
    ids=["dynamic", "longrope", "in one layer"],
)
def test_positions_that_depend_on_the_longest_text_are_refused(lm, ropes):
    """A text would change with its neighbors: a free slot alone stands beyond the original length."""
    with pytest.raises(ValueError, match="turns with the longest text of a batch"):
        Engine(dataclasses.replace(lm, config=dataclasses.replace(CONFIG, **ropes)), SMALL)
