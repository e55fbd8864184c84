"""Texts through an engine's slots: greedy ones are those of batches, drawn ones depend on the seed alone."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from evals.models.engine_texts import EngineTexts, engine_texts
from evals.models.local_model import LocalModel
from jaxmoe.language_model import LanguageModel
from jaxmoe.model.config import RopeConfig
from tests.served import tiny

PROMPTS = ["the quick", "brown fox jumps", "the quick", "lazy", "over the lazy dog and again over"]


@pytest.fixture(scope="module")
def models() -> Callable[[], tuple[LocalModel, LocalModel]]:
    """The same model in batches, and with an engine."""
    made = tiny()
    engine = EngineTexts(made.lm, 2, 64)
    local = LocalModel(made.lm, made.tokenizer, batch_size=2, max_length=64)
    return lambda: (local, replace(local, engine=engine))


def test_greedy_texts_are_those_of_batches(models):
    batches, engine = models()
    assert engine.generate(PROMPTS, 9) == batches.generate(PROMPTS, 9)
    # a token that holds a stop string ends a text, and so do cut prompts keep their ends
    stops = (" ", "e", "7")
    with pytest.warns(UserWarning, match="lose their beginning"):
        found = engine.generate([*PROMPTS, "the " * 80], 9, stops)
    with pytest.warns(UserWarning, match="lose their beginning"):
        assert found == batches.generate([*PROMPTS, "the " * 80], 9, stops)
    assert engine.engine._engine.statistics.steps < 6 * 18 / 2


def test_draws_depend_on_seed_place_and_sample(models):
    _, engine = models()
    drawn = engine.generate(PROMPTS, 6, temperature=1.0, samples=2, seed=5)
    assert len(drawn) == 2 * len(PROMPTS)
    # whatever else is asked, or was before
    assert engine.generate(PROMPTS[:2], 6, temperature=1.0, samples=2, seed=5) == drawn[:4]
    assert engine.generate(PROMPTS, 6, temperature=1.0, samples=1, seed=5) == drawn[::2]
    assert engine.generate(PROMPTS, 6, temperature=1.0, samples=2, seed=6) != drawn
    assert drawn[0:2] != drawn[4:6]  # equal prompts, other draws


def test_batches_take_over_where_the_engine_cannot(monkeypatch, capsys):
    lm = tiny().lm
    assert engine_texts(lm, "batches", 2, 64) is None
    assert engine_texts(lm, "engine", 2, 64) is not None
    turning = LanguageModel(replace(lm.config, rope=RopeConfig("dynamic", factor=2.0)), lm.weights, lm.mesh)
    assert engine_texts(turning, "engine", 2, 64) is None
    assert "decoded in batches: rope_type dynamic turns" in capsys.readouterr().err
    monkeypatch.setattr("jax.process_count", lambda: 2)
    assert engine_texts(lm, "engine", 2, 64) is None
    assert "a single process" in capsys.readouterr().err


def test_each_text_is_told_when_it_ends(models):
    """By the engine in the order in which they end, by batches in theirs; each once."""
    for model in models():
        told: dict[int, str] = {}
        drawn = model.generate_each(
            PROMPTS, 30, ("e",), on_text=told.__setitem__, temperature=2.0, samples=2, seed=3
        )
        assert [told[place] for place in range(10)] == drawn
        assert model.engine is None or list(told) != sorted(told)
