"""suite=knowledge and suite=coding on a model behind `training serve` find what they find on it here."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import jaxmoe
from jaxmoe.tokenizer import load_tokenizer
from tests.conftest import GOLDENS
from tests.served import ENGINE, Served
from tests.tiny_checkpoints import float32_logits
from tests.tolerances import rounding_bound
from training.commands.evaluate import PARTIAL, main
from training.runtime import config as configs
from training.suites import asking
from training.suites.config import EvalConfig

MODEL = GOLDENS / "lm_eval" / "model"
WORDS = [{"question": f"What is {n} plus {n}?", "answers": [str(2 * n)]} for n in range(5)]
CHOICES = [{"question": "Who runs?", "choices": ["the fox", "a dog", "nobody at all"], "answer": 1}] * 3
PROBLEM = {
    "prompt": "Print ok.",
    "starter_code": "",
    "inputs": [""],
    "outputs": ["ok\n"],
    "difficulty": "easy",
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    lm, tokenizer = jaxmoe.load(MODEL), load_tokenizer(MODEL)
    made = Served(lm, tokenizer, replace(ENGINE, max_length=320, chunk=64), (1,), {"golden": True})
    with made.worker, made.serving() as made.address:
        yield made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Questions in words and with choices, and problems."""
    for name, rows in (("words", WORDS), ("choices", CHOICES)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "problems.json").write_text(json.dumps([PROBLEM | {"id": str(n)} for n in range(3)]))
    return tmp_path


def run(folder: Path, output: str, suite: str, section: dict, served: Served | None, **values) -> dict:
    if "server" not in section and served is None:
        values |= {"base": str(MODEL), "batch_size": 8}
    elif served is not None:
        server = {"url": f"{served.address}/v1", "model": "golden", "max_new_tokens": 1, "text_start": "</s>"}
        section = section | {"server": server | section.get("server", {})}
    plain = {"output": str(folder / output), "suite": suite, "progress": False, suite: section, **values}
    return main(configs.parse(EvalConfig, plain))


def items(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]


def test_knowledge_is_that_of_the_local_model(served: Served, files: Path):
    sources = [{"path": str(files / "words.jsonl")}, {"path": str(files / "choices.jsonl")}]
    section = {"sources": sources, "templates": ["qa", "lm_eval"], "max_new_tokens": 6}
    here, there = (run(files, name, "knowledge", section, one) for name, one in (("a", None), ("b", served)))
    assert list(here["sets"]) == list(there["sets"])
    config = served.lm.config
    each = 2 * float32_logits(config, 64, 8.0) + rounding_bound(config.vocab_size, 1.0)
    numbers = ("logprobs", "unconditional", "answer_logprob")
    for ours, theirs in zip(items(files / "b"), items(files / "a"), strict=True):
        nats = [one["scores"].pop("answer_nats", 0.0) for one in (ours, theirs)]  # a mean over tokens
        assert abs(nats[0] - nats[1]) <= each
        assert {k: v for k, v in ours.items() if k not in numbers} == {
            k: v for k, v in theirs.items() if k not in numbers
        }
        for name in numbers:
            pair = [one.get(name) for one in (ours, theirs)]
            pair = pair if isinstance(pair[0], list) else [[one] if one is not None else [] for one in pair]
            assert all(abs(x - y) <= 30 * each for x, y in zip(*pair, strict=True))
    paid = json.loads((files / "b" / "usage.json").read_text(encoding="utf-8"))
    assert paid["completion_tokens"] > 0
    assert not (files / "b" / PARTIAL).exists()


def test_answers_in_a_chat_are_those_of_the_local_model(
    served: Served, files: Path, capsys: pytest.CaptureFixture[str]
):
    source = {"path": str(files / "words.jsonl"), "shots": 1}
    source |= {"shots_from": str(files / "words.jsonl"), "limit": 2}
    section = {"sources": [source], "templates": ["auto"], "max_new_tokens": 6, "score_answers": False}
    here = run(files, "a", "knowledge", section, None, decoding="engine")
    there = run(files, "b", "knowledge", section | {"score_answers": True}, served)
    assert there["sets"] == here["sets"]
    assert items(files / "b") == items(files / "a")
    assert "answer_nats is left out where a server is asked in a chat" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["completion", "auto"])
def test_programs_are_those_of_the_local_model(served: Served, files: Path, form: str):
    paths = [str(files / "problems.json")]
    section = {"paths": paths, "form": form, "max_new_tokens": 8, "temperature": 0.0, "workers": 1}
    here, there = (run(files, name, "coding", section, one) for name, one in (("a", None), ("b", served)))
    assert there["sets"] == here["sets"]
    assert items(files / "b") == items(files / "a")


def test_a_killed_evaluation_asks_only_what_is_left(
    served: Served, files: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(asking, "BLOCK", 2)
    section = {"sources": [{"path": str(files / "words.jsonl")}], "templates": ["qa"], "score_answers": False}
    section |= {"max_new_tokens": 4}
    done = iter(range(1))
    ask = asking.answer_records

    def killed(*args, **values):
        if next(done, None) is None:
            raise KeyboardInterrupt
        return ask(*args, **values)

    with monkeypatch.context() as patch:
        patch.setattr(asking, "answer_records", killed)
        with pytest.raises(KeyboardInterrupt):
            run(files, "out", "knowledge", section, served)
    usage = files / "out" / "usage.json"
    assert json.loads(usage.read_text())["requests"] == 2
    # what changes no answer may be changed in between
    run(files, "out", "knowledge", section | {"server": {"concurrency": 1}}, served)
    assert json.loads(usage.read_text())["requests"] == 5
    assert len(items(files / "out")) == 5


@pytest.mark.parametrize(
    ("suite", "section", "values", "message"),
    [
        ("knowledge", {}, {"base": "x"}, "knowledge.server takes the place of base and run"),
        ("coding", {"paths": ["x"]}, {"adapter": "x"}, "adapter goes with base; the server of coding.server"),
        ("knowledge", {}, {"step": 3}, "step goes with run; the server of knowledge.server has no steps"),
        ("knowledge", {}, {"max_length": 64}, "max_length goes with base"),
        ("knowledge", {"templates": ["instruction"]}, {}, "template instruction needs a local model"),
        ("coding", {"paths": ["x"], "form": "instruction"}, {}, "form instruction needs a local model"),
    ],
)
def test_settings_that_do_not_go_together_are_named(tmp_path, suite, section, values, message):
    section = section | {"server": {"url": "http://x/v1", "model": "m"}}
    with pytest.raises(ValueError, match=message):
        configs.parse(EvalConfig, {"output": str(tmp_path), "suite": suite, suite: section, **values})


def test_choices_in_a_chat_are_refused_before_anything_is_asked(files: Path):
    section = {"sources": [{"path": str(files / "choices.jsonl")}], "templates": ["chat"]}
    section |= {"server": {"url": "http://127.0.0.1:9/v1", "model": "m"}}
    message = r"choices\.jsonl, template chat: servers score choices in completions"
    with pytest.raises(ValueError, match=message):
        run(files, "out", "knowledge", section, None)
