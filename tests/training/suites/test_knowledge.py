"""How the knowledge suite puts questions to a model; nothing is computed."""

from types import SimpleNamespace

import pytest

from evals.knowledge.prompts import template
from evals.knowledge.questions import ClosedBookQuestion
from evals.models.local_model import LocalModel
from jaxmoe.tokenizer import train_bpe
from training.suites.knowledge import Asking, KnowledgeConfig, QuestionSource, knowledge

SHOT = ClosedBookQuestion("1", "capital of Peru", ("Lima",))
SOURCE = QuestionSource(embedded="test", shots=1, limit=2)


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["capital of Peru is Lima"] * 4, 300)


def model(tokenizer, form) -> LocalModel:
    mesh = SimpleNamespace(shape={"data": 1, "fsdp": 1})
    lm = SimpleNamespace(mesh=mesh, config=SimpleNamespace(max_positions=64), stop_tokens=())
    return LocalModel(lm, tokenizer, form)  # type: ignore[arg-type]


def test_in_a_chat_system_prompt_and_examples_are_turns(tokenizer):
    config = KnowledgeConfig(templates=("chat",), system="Be brief.")
    asking = Asking(model(tokenizer, "chat"), config, SOURCE, template("chat"), [SHOT], 0.95)
    assert asking.shots_in_prompt == []
    assert asking.asked.before == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": template("chat").prompt(SHOT)},
        {"role": "assistant", "content": "Lima"},
    ]


@pytest.mark.parametrize("form", ["text", "instruction"])
def test_elsewhere_examples_stand_in_the_prompt(tokenizer, form):
    asking = Asking(model(tokenizer, form), KnowledgeConfig(), SOURCE, template("qa"), [SHOT], 0.95)
    assert asking.shots_in_prompt == [SHOT]
    assert asking.asked.before == ()


def test_a_system_prompt_needs_a_chat(tokenizer):
    with pytest.raises(ValueError, match=r"system needs the template chat or auto; got completion, qa"):
        KnowledgeConfig(system="Be brief.")
    config = KnowledgeConfig(sources=(SOURCE,), templates=("auto",), system="Be brief.")
    loaded = SimpleNamespace(text_model=lambda form: model(tokenizer, "instruction"), progress=False)
    with pytest.raises(ValueError, match=r"knowledge\.system needs a chat template"):
        knowledge(config, 0, 0.95)(loaded)  # type: ignore[arg-type]
