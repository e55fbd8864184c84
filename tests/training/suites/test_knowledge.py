"""How the knowledge suite puts questions to a model; nothing is computed."""

from types import SimpleNamespace

import pytest

from evals.knowledge.prompts import template
from evals.knowledge.questions import ClosedBookQuestion
from evals.models.local_model import LocalModel
from jaxmoe.tokenizer import train_bpe
from training.suites.asking import Asking
from training.suites.knowledge import KnowledgeConfig, QuestionSource, knowledge

SHOT = ClosedBookQuestion("1", "capital of Peru", ("Lima",))
SOURCE = QuestionSource(embedded="test", shots=1, limit=2)


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["capital of Peru is Lima"] * 4, 300)


def model(tokenizer, form) -> LocalModel:
    mesh = SimpleNamespace(shape={"data": 1, "fsdp": 1})
    lm = SimpleNamespace(mesh=mesh, config=SimpleNamespace(max_positions=64), stop_tokens=())
    return LocalModel(lm, tokenizer, form)  # type: ignore[arg-type]


def asking(tokenizer, form, **values) -> Asking:
    settings = {
        "shots": {"": [SHOT]},
        "system": None,
        "max_new_tokens": 8,
        "reasoning_tokens": 8,
        "normalization": "squad",
        "score_answers": False,
        "confidence": 0.95,
    }
    return Asking(model(tokenizer, form), **{**settings, **values})


def test_in_a_chat_system_prompt_and_examples_are_turns(tokenizer):
    put = asking(tokenizer, "chat", system="Be brief.").put("", template("chat"))
    assert put.shots == []
    assert put.model.before == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": template("chat").prompt(SHOT)},
        {"role": "assistant", "content": "Lima"},
    ]


@pytest.mark.parametrize("form", ["text", "instruction"])
def test_elsewhere_examples_stand_in_the_prompt(tokenizer, form):
    put = asking(tokenizer, form).put("", template("qa"))
    assert put.shots == [SHOT]
    assert put.model.before == ()


def test_a_system_prompt_needs_a_chat(tokenizer):
    with pytest.raises(ValueError, match=r"system needs the template chat or auto; got completion, qa"):
        KnowledgeConfig(system="Be brief.")
    config = KnowledgeConfig(sources=(SOURCE,), templates=("auto",), system="Be brief.")
    loaded = SimpleNamespace(
        text_model=lambda form: model(tokenizer, "instruction"), progress=False, journal=None
    )
    with pytest.raises(ValueError, match=r"knowledge\.system needs a chat template"):
        knowledge(config, 0, 0.95)(loaded)  # type: ignore[arg-type]
