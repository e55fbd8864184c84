"""How the knowledge suite puts questions to a model; nothing is computed."""

from types import SimpleNamespace

import pytest

from evals.knowledge.prompts import template
from evals.knowledge.questions import ClosedBookQuestion
from evals.models.local_model import LocalModel
from evals.models.text_model import ContinuationScores
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


class Recording:
    """A model of texts that gives every choice as many nats as it has characters, and writes one sentence."""

    form = "text"

    def __init__(self):
        self.prompts: list[str] = []

    def logprob(self, prompts, continuations):
        self.prompts += prompts
        return ContinuationScores([-float(len(c)) for c in continuations], [1] * len(prompts))

    def generate(self, prompts, max_new_tokens, stop=()):
        self.prompts += prompts
        return ["So the answer is B."] * len(prompts)


def measured(sources, **values):
    model = Recording()
    loaded = SimpleNamespace(text_model=lambda form: model, progress=False, journal=None)
    sets = knowledge(KnowledgeConfig(sources=sources, **values), 0, 0.95)(loaded)  # type: ignore[arg-type]
    return model, sets


@pytest.fixture
def mmlu(tmp_path):
    for part in ("test", "dev"):
        (tmp_path / part).mkdir()
        for subject in ("anatomy", "world_religions"):
            rows = "".join(f"{part} {subject} {n}?,1,2,3,4,B\n" for n in range(3))
            (tmp_path / part / f"{subject}_{part}.csv").write_text(rows)
    return tmp_path


def test_examples_of_mmlu_are_the_first_of_the_questions_own_subject(mmlu):
    source = QuestionSource(
        path=str(mmlu / "test"), shots=2, shots_from=str(mmlu / "dev"), shots_order="first"
    )
    model, [found] = measured((source,), templates=("lm_eval",))
    asked = {prompt for prompt in model.prompts if prompt != "Answer:"}
    assert len(asked) == 6
    choices = "A. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    assert (
        "The following are multiple choice questions (with answers) about world religions.\n\n"
        f"dev world_religions 0?\n{choices} B\n\ndev world_religions 1?\n{choices} B\n\n"
        f"test world_religions 2?\n{choices}"
    ) in asked
    assert sum("anatomy 0?" in prompt and "religions" in prompt for prompt in asked) == 0
    assert list(found.by_category) == ["anatomy", "world_religions"]
    (mmlu / "dev" / "anatomy_dev.csv").unlink()
    with pytest.raises(ValueError, match=r"dev, subject anatomy: 2 examples are wanted, but 0 of the 0"):
        measured((source,), templates=("lm_eval",))


def test_reasoning_is_asked_for_and_scored(mmlu):
    source = QuestionSource(path=str(mmlu / "test"), limit=2)
    model, [found] = measured((source,), templates=("qa",), reasoning=True)
    assert found.name == "test, qa, reasoning"
    assert all(prompt.endswith("A: Let's think step by step.") for prompt in model.prompts)
    assert {name: score.value for name, score in found.scores.items()} == {"acc": 1.0, "answered": 1.0}
    with pytest.raises(ValueError, match="test, template completion: template completion leaves no room"):
        measured((source,), templates=("completion",), reasoning=True)


def test_a_file_of_two_data_sets_is_refused(tmp_path):
    rows = ['{"question": "a", "answer": "2\\n#### 2"}', '{"question": "b", "answer": "c"}']
    (tmp_path / "mixed.jsonl").write_text("\n".join(rows))
    with pytest.raises(ValueError, match=r"mixed.jsonl holds rows of several data sets; give each a source"):
        measured((QuestionSource(path=str(tmp_path / "mixed.jsonl")),), templates=("qa",))
