"""What the commands refuse is said in one line, with status 2: files, folders and values that are no good."""

import json
from pathlib import Path

import pytest
import typer
from click.testing import Result
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from evals import import_instruments, score, study
from evals.administer import app
from evals.questionnaires import instrument, reading_accuracy
from jaxmoe.tokenizer import train_bpe
from tests.tiny_checkpoints import write_checkpoint

PERSON = {"name": "ann", "text": "You are Ann.", "traits": {"openness": 1}}


def run(command, *arguments: object) -> Result:
    """The result of a command, a function or an app of Typer."""
    if not isinstance(command, typer.Typer):
        function, command = command, typer.Typer()
        command.command()(function)
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def assert_one_line(done: Result, said: str) -> None:
    assert done.exit_code == 2, done.exception
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert done.stderr.splitlines()[-1] == errors[0]
    assert said in errors[0]


def administered(folder, *arguments: object) -> Result:
    return run(app, folder, "--instrument", "gad_7", "--template", "form", *arguments)


@pytest.mark.parametrize("form", [lambda people: people, lambda people: {"people": people}])
def test_personas_are_a_list_alone_or_under_people(tmp_path, form):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(form([PERSON, {"name": "bo", "text": "You are Bo."}])))
    done = administered(tmp_path / "out", "--personas", file)
    assert done.exit_code == 0, done.stderr
    assert "28 answers of" in done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps({"persons": [PERSON]}), 'must hold a list of persons, alone or under "people"'),
        ("3", "must hold a list of persons"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "--personas: personas cannot be read from"),
        (b"\xff", "personas cannot be read from"),
        (json.dumps(["ann"]), "person 1: "),
        (json.dumps([PERSON, {"text": "You."}]), "person 2: name: Field required"),
        (json.dumps([PERSON | {"age": 30}]), "person 1: age: Unexpected keyword argument"),
        (json.dumps([PERSON | {"traits": {"openness": "high"}}]), "person 1: traits.openness: "),
        ('[{"name": "a", "text": "", "traits": {"openness": NaN}}]', "traits.openness: Input should be a"),
        (json.dumps([PERSON, PERSON]), "'ann' is repeated"),
        ("[]", "mine.json must hold at least one person; got none"),
        (json.dumps([PERSON | {"name": "a\ud800"}]), "mine.json: person 1: name, text and traits must be"),
        (json.dumps([PERSON, {"name": "b", "text": "\ud800"}]), "mine.json: person 2: name, text and"),
        (json.dumps([PERSON | {"traits": {"\ud800": 1}}]), "mine.json: person 1: "),
        (json.dumps([PERSON | {"traits": {"openness": "1.5"}}]), "person 1: traits.openness: "),
        (json.dumps([PERSON | {"traits": {"openness": True}}]), "person 1: traits.openness: "),
    ],
)  # fmt: skip
def test_a_file_without_personas_is_refused_by_name(tmp_path, text, said):
    file = tmp_path / "mine.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_one_line(administered(tmp_path / "out", "--personas", file), said)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert_one_line(administered(tmp_path / "file"), "file")
    assert_one_line(administered(tmp_path / "file" / "below"), "below")


@pytest.mark.parametrize("output", ["a.csv/x.csv", "folder.csv", "x.txt"])
def test_scores_that_cannot_be_written_are_said(tmp_path, output):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "a.csv").write_text("respondent,item,response\nann,gad7_1,2\n")
    done = run(
        score.main, tmp_path / "a.csv", "--instrument", "gad_7", "--min-answered", 0.1, "--output",
        tmp_path / output,
    )  # fmt: skip
    assert_one_line(done, output.split("/")[0])


def test_scores_go_into_a_new_folder(tmp_path):
    (tmp_path / "a.csv").write_text("respondent,item,response\nann,gad7_1,2\n")
    output = tmp_path / "new" / "x.csv"
    done = run(score.main, tmp_path / "a.csv", "--instrument", "gad_7", "--output", output)
    assert done.exit_code == 0, done.stderr
    assert output.is_file()


@pytest.mark.parametrize(("flag", "status"), [("self_harm", 0), ("self_hram", 2)])
def test_an_instrument_is_read_once_and_an_unknown_flag_is_no_fault_of_it(
    tmp_path, monkeypatch, flag, status
):
    read, files = instrument.read_json, []
    monkeypatch.setattr(instrument, "read_json", lambda path: files.append(path) or read(path))
    (tmp_path / "a.csv").write_text("respondent,item,response\nann,phq9_1,2\n")
    done = run(score.main, tmp_path / "a.csv", "--instrument", "phq_9", "--include", flag)
    assert done.exit_code == status, done.stderr
    assert len(files) == 1
    assert ("unknown flag of phq_9" in done.stderr) == (status == 2)
    assert "--instrument" not in done.stderr


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (app, ("out", "--instrument", "no/x.json"), "--instrument: no instrument or file named 'no/x.json'"),
        (app, ("out", "--instrument", "cut.json"), "--instrument: cut.json is not valid JSON"),
        (
            app,
            ("out", "--instrument", "gad_7", "--personas", "no.json"),
            "--personas: personas cannot be read from no.json: No such file or directory (looked for in ",
        ),
        (
            app,
            ("out", "--instrument", "gad_7", "--respondent", "no"),
            "no is none of them (looked for in ",
        ),
        (app, ("cut.json", "--instrument", "gad_7"), "FOLDER: cut.json is a file; a folder is written there"),
        (score.main, ("no.csv", "--instrument", "gad_7"), "RESPONSES: there is no file no.csv (looked "),
        (score.main, ("folder", "--instrument", "gad_7"), "RESPONSES: folder is a folder; a file is needed"),
        (score.main, ("cut.json", "--instrument", "gad_7"), "RESPONSES: cut.json cannot be read"),
        (score.main, ("no.csv", "--instrument", "no.json"), "--instrument: no instrument or file named"),
        (
            study.main,
            ("me=no.csv", "--instrument", "gad_7", "--output", "out"),
            "RESPONSES: there is no file or folder no.csv (looked for in ",
        ),
        (
            study.main,
            ("folder", "--instrument", "gad_7", "--output", "out"),
            "RESPONSES: the folder folder holds no responses.parquet; give another RESPONSES",
        ),
        (
            study.main,
            ("no.csv", "--instrument", "gad_7", "--output", "cut.json"),
            "--output: cut.json is a file; a folder is written there",
        ),
        (import_instruments.main, ("no.json", "out"), "FILE: there is no file no.json (looked for in "),
        (import_instruments.main, ("cut.json", "out"), "FILE: cut.json is not valid JSON"),
        (reading_accuracy.main, ("no.jsonl",), "ANSWERS: there is no file no.jsonl (looked for in "),
    ],
)  # fmt: skip
def test_a_path_that_is_no_good_is_told_by_its_option(tmp_path, monkeypatch, command, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("cut.json").write_text('{"items": [')
    done = run(command, *arguments)
    assert_one_line(done, said)
    assert "give another" in done.stderr
    assert "Errno" not in done.stderr


def test_a_checkpoint_that_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("respondent,item,response\nann,gad7_1,2\n")
    done = run(
        study.main, "a.csv", "--instrument", "gad_7", "--output", "out", "--checkpoint", "1=a.csv",
        "--checkpoint", "2=no.csv",
    )  # fmt: skip
    assert_one_line(done, "--checkpoint: there is no file or folder no.csv (looked for in ")


def test_a_model_trained_anew_in_its_folder_is_not_told_by_the_answers_of_the_old_one(tmp_path):
    base = tmp_path / "base"
    tokenizer = train_bpe(["Statement: I feel calm. Answers A B C D"] * 4, 300)
    write_checkpoint(base, model_type="llama", vocab_size=len(tokenizer), max_position_embeddings=768)
    tokenizer.save_pretrained(base)

    def asked() -> Result:
        return administered(tmp_path / "out", "--option-order", "forward", "--respondent", base)

    first = asked()
    assert first.exit_code == 0, first.stderr
    answers = (tmp_path / "out" / "answers.jsonl").read_text()
    assert asked().stdout == first.stdout
    weights = load_file(base / "model.safetensors")
    save_file({name: value * 1.01 for name, value in weights.items()}, base / "model.safetensors")
    assert_one_line(asked(), "holds another administration: base and revision is ")
    assert (tmp_path / "out" / "answers.jsonl").read_text() == answers


def test_instruments_that_cannot_be_written_are_said(tmp_path):
    rows = [
        {"input": f"I {n}", "choices": ["no", "yes"], "metadata": {"trait": "Openness"}} for n in range(2)
    ]
    (tmp_path / "bfi.json").write_text(json.dumps(rows))
    (tmp_path / "file").touch()
    assert_one_line(run(import_instruments.main, tmp_path / "bfi.json", tmp_path / "file"), "file")


@pytest.mark.parametrize("text", [None, "3\n", "[" * 100_000 + "\n", '{"part": 1}\n'])
def test_labeled_answers_that_cannot_be_read_are_said(tmp_path, text):
    file = tmp_path / "answers.jsonl"
    if text is not None:
        file.write_text(text)
    assert_one_line(run(reading_accuracy.main, file), "answers.jsonl")


SERVED = ("--respondent", "http://127.0.0.1:9/v1", "--model", "m")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--temperature", -1), "temperature must be a finite number, 0 or more; got -1"),
        (("--temperature", "nan", *SERVED), "temperature must be a finite number, 0 or more; got nan"),
        (("--temperature", "inf"), "temperature must be a finite number"),
        (("--concurrency", 0), "concurrency must be at least 1; got 0"),
        (("--concurrency", -3, *SERVED), "concurrency must be at least 1; got -3"),
        (("--max-new-tokens", 0), "max_new_tokens must be at least 1; got 0"),
        (("--max-new-tokens", -5, *SERVED), "max_new_tokens must be at least 1; got -5"),
        (("--seeds", 0), "seeds must be at least 1; got 0"),
        (("--task", "conduct", "--task-count", 0), "task_count must be at least 1; got 0"),
        (("--items-per-prompt", 0), "items_per_prompt must be at least 1; got 0"),
        (("--respondent", "http://127.0.0.1:9/v1"), "give --model, the model's name on the server"),
        (("--respondent", "HTTP://127.0.0.1:9/v1"), "give --model, the model's name on the server"),
        (("--respondent", "HTTP:///v1", "--model", "m"), "url must name a host; got 'HTTP:///v1'"),
        (("--respondent", "http:///v1", "--model", "m"), "url must name a host; got 'http:///v1'"),
        ((*SERVED, "--tokens-name", ""), "tokens_name must be max_tokens or max_completion_tokens; got ''"),
        ((*SERVED, "--judge", "http://127.0.0.1:9/v1"), "give --judge-model, the judge's name on its server"),
        (("--judge-model", "m"), "--judge-model needs --judge"),
        (("--model", "m"), "--model names a model on a server; give --respondent http(s)://HOST/v1 with it"),
        ((*SERVED, "--prompt-price", -1), "prompt_price must be a finite amount"),
        (("--respondent", "random"), "--respondent random: the simulated respondent is null:random"),
        (("--width", 0), "width must be a finite number above 0; got 0"),
    ],
)
def test_values_that_make_no_sense_are_refused_before_anything_is_asked(tmp_path, arguments, said):
    assert_one_line(administered(tmp_path / "out", *arguments), said)
    assert not (tmp_path / "out").exists()
