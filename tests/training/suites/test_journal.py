"""A killed evaluation: what was answered is not asked again, and the numbers are the same."""

import json

import pytest

from evals.models.local_model import LocalModel
from jaxmoe.tokenizer import train_bpe
from tests.tiny_checkpoints import write_checkpoint
from training.commands import evaluate
from training.commands.evaluate import PARTIAL, main
from training.runtime import config as configs
from training.runtime.atomic import write_whole
from training.suites import asking, coding
from training.suites.config import EvalConfig

ROWS = [{"question": f"What is {a} plus {b}?", "answers": [str(a + b)]} for a in range(5) for b in range(2)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_bpe(["Q: What is 1 plus 2?\nA: 3 Question Answer A. B."] * 4, 300)
    write_checkpoint(folder, model_type="llama", vocab_size=len(tokenizer), max_position_embeddings=128)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(checkpoint, tmp_path, monkeypatch):
    """Of two sets, of 10 questions in words and 6 with choices, asked in blocks of 4."""
    monkeypatch.setattr(asking, "BLOCK", 4)
    words, choices = tmp_path / "words.jsonl", tmp_path / "choices.jsonl"
    words.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    picked = [{"question": row["question"], "choices": ["1", "2", "3"], "answer": 0} for row in ROWS[:6]]
    choices.write_text("".join(json.dumps(row) + "\n" for row in picked))
    sources = [{"path": str(words)}, {"path": str(choices)}]

    def made(output, **values):
        more = {"sources": sources, "templates": ["qa"], "max_new_tokens": 4, **values.pop("knowledge", {})}
        plain = {"base": str(checkpoint), "batch_size": 8, "progress": False, "knowledge": more}
        return configs.parse(EvalConfig, {**plain, "output": str(tmp_path / output), **values})

    return made


def killed_after(monkeypatch, calls):
    """Ends the evaluation in the call for log-probabilities that comes after so many."""
    made, logprob = [], LocalModel.logprob

    def counted(self, prompts, continuations):
        made.append(len(prompts))
        if len(made) > calls:
            raise KeyboardInterrupt
        return logprob(self, prompts, continuations)

    monkeypatch.setattr(LocalModel, "logprob", counted)
    return made


# calls are 3 for the questions in words, 2 for the first four with choices (the choices without a question
# are scored once), 1 for the rest
@pytest.mark.parametrize(
    ("calls", "done", "left"), [(0, 0, 6), (1, 4, 5), (3, 10, 3), (4, 10, 3), (5, 14, 1)]
)
def test_a_killed_evaluation_resumes_with_the_same_numbers(
    settings, tmp_path, monkeypatch, capsys, calls, done, left
):
    whole = main(settings("whole"))
    with monkeypatch.context() as patch:
        killed_after(patch, calls)
        with pytest.raises(KeyboardInterrupt):
            main(settings("killed"))
    part = tmp_path / "killed" / PARTIAL
    assert len(part.read_text().splitlines()) == 1 + done
    assert not (tmp_path / "killed" / "results.json").exists()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        made = killed_after(patch, 99)
        again = main(settings("killed"))
    assert (f"{done} items of an earlier run" in capsys.readouterr().err) == (done > 0)
    assert len(made) == left
    assert again["sets"] == whole["sets"]
    items = [(tmp_path / name / "items.jsonl").read_text() for name in ("whole", "killed")]
    assert items[0] == items[1]
    assert not part.exists()


def test_an_evaluation_that_ended_while_results_were_written_asks_nothing_again(
    settings, tmp_path, monkeypatch
):
    def killed(path, text):
        if path.name == "results.json":
            raise KeyboardInterrupt
        write_whole(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            main(settings("out"))
    out = tmp_path / "out"
    items = (out / "items.jsonl").read_text()
    for name in ("items.jsonl.part", "results.json.part", "usage.json.part"):
        (out / name).write_text("half")
    with monkeypatch.context() as patch:
        made = killed_after(patch, 99)
        main(settings("out"))
    assert made == []
    assert (out / "items.jsonl").read_text() == items
    assert (out / "results.json").is_file()
    # without answers to resume from, items are another's
    (out / "results.json").unlink()
    with pytest.raises(ValueError, match="is not empty and holds no evaluation"):
        main(settings("out"))


def test_a_block_that_is_not_whole_is_asked_again(settings, tmp_path, monkeypatch):
    main(settings("whole"))
    with monkeypatch.context() as patch:
        killed_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            main(settings("killed"))
    part = tmp_path / "killed" / PARTIAL
    text = part.read_text()
    part.write_text(text[: text.rindex('"answers"')])  # killed in the middle of the eighth line
    main(settings("killed"))
    items = [(tmp_path / name / "items.jsonl").read_text() for name in ("whole", "killed")]
    assert items[0] == items[1]


def test_items_of_other_settings_are_refused_or_thrown_away(settings, tmp_path, monkeypatch, capsys):
    def kill():
        with monkeypatch.context() as patch:
            killed_after(patch, 1)
            with pytest.raises(KeyboardInterrupt):
                main(settings("out"))

    kill()
    said = r"unfinished .* other settings: knowledge.max_new_tokens is 4 there, 5 here; choose another output"
    with pytest.raises(ValueError, match=said):
        main(settings("out", knowledge={"max_new_tokens": 5}))
    with pytest.raises(ValueError, match="seed is 0 there, 1 here"):
        main(settings("out", seed=1))
    path = tmp_path / "words.jsonl"
    rows = path.read_text()
    path.write_text(rows.replace('"9"', '"nine"').replace('"5"', '"five"'))
    with pytest.raises(ValueError, match="other settings: the questions are not the same"):
        main(settings("out"))
    path.write_text(rows)
    assert len((tmp_path / "out" / PARTIAL).read_text().splitlines()) == 1 + 4
    with monkeypatch.context() as patch:
        made = killed_after(patch, 99)
        main(settings("out", knowledge={"max_new_tokens": 5}, overwrite=True))
    thrown = "unfinished items are thrown away: knowledge.max_new_tokens is 4 there, 5 here"
    assert thrown in capsys.readouterr().err
    assert len(made) == 6
    # what changes no answer may change
    (tmp_path / "out" / "results.json").unlink()
    (tmp_path / "out" / "items.jsonl").unlink()
    kill()
    with monkeypatch.context() as patch:
        made = killed_after(patch, 99)
        main(settings("out", confidence=0.9, progress=True))
    assert len(made) == 5


def test_other_weights_are_refused(settings, checkpoint, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killed_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            main(settings("out"))
    from safetensors.numpy import load_file, save_file

    before = (checkpoint / "model.safetensors").read_bytes()
    weights = load_file(checkpoint / "model.safetensors")
    save_file({name: value * 1.01 for name, value in weights.items()}, checkpoint / "model.safetensors")
    try:
        with pytest.raises(ValueError, match="other settings: the weights are not the same"):
            main(settings("out"))
    finally:
        (checkpoint / "model.safetensors").write_bytes(before)


def test_a_killed_coding_evaluation_resumes_with_the_same_programs(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(coding, "CHUNK", 2)
    path = tmp_path / "problems.jsonl"
    rows = [
        {
            "task_id": n,
            "text": f"Add {n}.",
            "code": "def f(x):\n    return x",
            "test_list": ["assert f(1) == 1"],
        }
        for n in range(5)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = {"paths": [str(path)], "samples": 2, "max_new_tokens": 3, "workers": 1, "temperature": 1.0}

    def run(output):
        plain = {"suite": "coding", "base": str(checkpoint), "batch_size": 8, "progress": False}
        return main(configs.parse(EvalConfig, {**plain, "coding": section, "output": str(tmp_path / output)}))

    def counted(patch, most):
        made, generate = [], LocalModel.generate_each

        def limited(self, *arguments, **settings):
            made.append(arguments)
            if len(made) > most:
                raise KeyboardInterrupt
            return generate(self, *arguments, **settings)

        patch.setattr(LocalModel, "generate_each", limited)
        return made

    whole = run("whole")
    with monkeypatch.context() as patch:
        counted(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            run("killed")
    assert len((tmp_path / "killed" / PARTIAL).read_text().splitlines()) == 1 + 4
    with monkeypatch.context() as patch:
        made = counted(patch, 99)
        again = run("killed")
    assert len(made) == 2
    assert again["sets"] == whole["sets"]
    items = [(tmp_path / name / "items.jsonl").read_text() for name in ("whole", "killed")]
    assert items[0] == items[1]
