"""suite=behavior and evals.administer on a model behind a server do what they do on a local one."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evals import administer as command
from evals.models.api_spending import CostCeilingError
from evals.models.local_model import LocalModel
from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design, battery, questions
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondents.api_server import ServerConfig
from evals.questionnaires.respondents.local_respondent import ScoringRespondent
from evals.questionnaires.wording import named_templates
from tests.http_stub import completion, serving
from tests.served import ENGINE, tiny
from tests.tiny_checkpoints import float32_logits, logits_of
from tests.tolerances import rounding_bound
from training.commands.evaluate import main
from training.runtime import config as configs
from training.suites.config import EvalConfig


def reply(number, body):
    """An answer to a question, a line to a dialogue, and none that can be read to every ninth."""
    prompt = body["messages"][0]["content"]
    if "Letter:" in prompt:
        return 200, {}, completion("B")
    if "Continue the conversation" in prompt:
        return 200, {}, completion("<think>hm</think>I would love to come along!")
    return 200, {}, completion("So-so." if "life of the party" in prompt else "ABCDE"[hash(prompt) % 2 + 1])


def test_the_suite_tests_a_model_behind_a_server(tmp_path):
    with serving(reply) as server, serving(reply) as judge:
        settings = [
            f"output={tmp_path / 'out'}",
            "suite=behavior",
            "progress=false",
            "behavior.instruments=[mini_ipip]",
            "behavior.templates=[form]",
            "behavior.personas='4'",
            "behavior.tasks=[conduct]",
            "behavior.task_count=1",
            "behavior.nulls=[random]",
            "behavior.answers=written",
            "behavior.dialogues=true",
            f"behavior.server={{url: '{server.url}', model: served}}",
            f"behavior.judge={{url: '{judge.url}', model: reader}}",
        ]
        found = main(configs.load(EvalConfig, None, settings))
    folder = tmp_path / "out" / "behavior"
    assert (folder / "report.html").is_file()
    verdicts = found["sets"]["mini_ipip"]["verdicts"]
    assert {row["construct"] for row in verdicts} >= {"extraversion", "agreeableness"}
    table = pd.read_parquet(folder / "responses.parquet")
    assert set(table["instrument"]) == {"mini_ipip", "behavior"}
    judged = table[table["read_by"] == "reader"]
    # one item, four personas, two option orders
    assert len(judged) == len(judge.requests) == 8
    assert set(judged["text"]) == {"So-so."}
    replies = pd.read_parquet(folder / "replies.parquet")
    assert set(replies["text"]) == {"I would love to come along!"}
    card = (folder / "report.html").read_text()
    assert f"this model: served at {server.url}" in card
    assert f"reader at {judge.url}" in card
    spent = json.loads((folder / "usage.json").read_text())
    assert spent["requests"] == len(server.requests) + len(judge.requests)


def test_one_ceiling_holds_for_all_models_of_a_run_and_all_is_told(tmp_path):
    folder = tmp_path / "out" / "behavior"
    with serving(reply) as server:

        def asked(ceiling, dialogues="false"):
            dear = f"url: '{server.url}', concurrency: 1, prompt_price: 1000, cost_ceiling: {ceiling}"
            settings = [
                f"output={tmp_path / 'out'}",
                "suite=behavior",
                "progress=false",
                "behavior.instruments=[gad_7]",
                "behavior.templates=[form]",
                "behavior.option_orders=[forward]",
                "behavior.personas='2'",
                "behavior.tasks=[]",
                "behavior.nulls=[random]",
                "behavior.answers=written",
                f"behavior.dialogues={dialogues}",
                f"behavior.server={{{dear}, model: one}}",
                f"behavior.beside=[{{name: the other, server: {{{dear}, model: two}}}}]",
            ]
            return main(configs.load(EvalConfig, None, settings))

        def spent(place):
            return json.loads((place / "usage.json").read_text())["cost"]

        def of(model):
            return sum(body["model"] == model for body in server.requests)

        # the first is done; the other is stopped where both together come to the ceiling
        with pytest.raises(CostCeilingError):
            asked(2.5)
        before = spent(folder), spent(folder / "the_other")
        assert before == (pytest.approx(0.1 * of("one")), pytest.approx(0.1 * of("two")))
        assert of("one") == 14
        assert 0 < before[1] < sum(before) <= 2.5
        # what the other spent stops a later session of the first, dialogues too
        (folder / "the_other" / "usage.json").write_text('{"requests": 9, "cost": 99.0}')
        kept, number = (folder / "answers.jsonl").read_text(), len(server.requests)
        with pytest.raises(CostCeilingError, match=f"spent {99 + before[0]:.4g} in"):
            asked(9, "true")
        (folder / "answers.jsonl").write_text("")
        with pytest.raises(CostCeilingError, match=f"spent {99 + before[0]:.4g} in"):
            asked(9)
        (folder / "answers.jsonl").write_text(kept)
        assert len(server.requests) == number
        asked(1000)
    total = spent(folder) + spent(folder / "the_other")
    assert f"{total:.4g} for " in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["base=somewhere"], "behavior.server takes the place of base and run"),
        (["behavior.calibrated=true"], "need a local model"),
        (["behavior.temperature=-1"], "behavior.temperature must be a finite number, 0 or more; got -1"),
        (["behavior.task_count=0"], "behavior.task_count must be at least 1; got 0"),
        (["behavior.items_per_prompt=0"], "behavior.items_per_prompt must be at least 1; got 0"),
        (["behavior.server.model=''"], "server.model must be the name of a model on http://x/v1; got none"),
        (["behavior.server.concurrency=0"], "concurrency must be at least 1; got 0"),
        (["behavior.server.max_new_tokens=0"], "max_new_tokens must be at least 1; got 0"),
        (["behavior.server.timeout_s=0"], "timeout_s must be a finite number above 0; got 0"),
        (["behavior.server.tokens_name=tokens"], "tokens_name must be max_tokens or max_completion_tokens"),
        (["coding.temperature=.nan"], "coding.temperature must be a finite number, 0 or more; got nan"),
        (["coding.top_p=0"], "coding.top_p must lie above 0 and be at most 1; got 0"),
        (
            ["behavior.beside=[{name: x, base: y}]"],
            "beside a model behind a server stand models behind servers",
        ),
        (["behavior.beside=[{name: x}]"], "x needs either base or server"),
        (["behavior.judge={url: 'http://x/v1', model: j}"], "judge reads written answers; got answers=label"),
    ],
)
def test_settings_that_do_not_go_together_are_named(tmp_path, more, message):
    server = "behavior.server={url: 'http://x/v1', model: m}"
    with pytest.raises(ValueError, match=message):
        configs.load(EvalConfig, None, [f"output={tmp_path}", "suite=behavior", server, *more])


def test_the_command_asks_tasks_and_dialogues_and_reports(tmp_path):
    with serving(reply) as server:
        args = [str(tmp_path), "--instrument", "mini_ipip", "--respondent", server.url, "--model", "served"]
        args += ["--template", "form", "--personas", "2", "--task", "conduct", "--task-count", "1"]
        args += ["--dialogues", "--report", "--name", "Served", "--max-new-tokens", "20"]
        done = CliRunner().invoke(command.app, args)
    assert done.exit_code == 0, done.output
    assert "report.html" in done.output
    assert "answers of Served in" in done.output
    table = pd.read_parquet(tmp_path / "responses.parquet")
    assert set(table["instrument"]) == {"mini_ipip", "behavior"}
    assert len(pd.read_parquet(tmp_path / "replies.parquet")) > 0
    assert {body["max_tokens"] for body in server.requests} == {20, 60}


def test_the_command_elicits_the_behaviors_that_were_intended(tmp_path, monkeypatch):
    def asked(folder, *more, instrument="planned_behavior"):
        args = [str(tmp_path / folder), "--instrument", instrument, "--template", "form", *more]
        return CliRunner().invoke(command.app, [*args, "--option-order", "forward", "--intentions"])

    with serving(reply) as server:
        who = ["--respondent", server.url, "--model", "served", "--personas", "2"]
        monkeypatch.setenv("JUDGE_KEY", "k")
        judge = ["--judge", server.url, "--judge-model", "other", "--judge-key-variable", "JUDGE_KEY"]
        prices = ["--cost-ceiling", "9", "--prompt-price", "1"]
        assert "judge other needs a prompt_price" in asked("planned", *who, *judge, *prices).stderr
        done = asked("planned", *who, *judge, *prices, "--judge-prompt-price", "2")
        spent = json.loads((tmp_path / "planned" / "usage.json").read_text())
        assert spent["requests"] == len(server.requests)
        assert 100 * spent["requests"] < spent["cost"] * 1e6 < 200 * spent["requests"]
    assert done.exit_code == 0, done.output
    found = pd.read_csv(tmp_path / "planned" / "planned.csv")
    assert len(found) == 4 * 2
    assert found["done"].between(0, 1).all()
    assert "leave --intentions out" in asked("null", "--respondent", "null:faithful").stderr
    refused = asked("other", "--respondent", "http://127.0.0.1:9/v1", "--model", "x", instrument="mini_ipip")
    assert "--intentions needs --instrument planned_behavior" in refused.stderr


def test_a_served_model_scores_as_the_same_model_here():
    made = tiny(replace(ENGINE, slots=4, max_length=768))
    gad = battery(load_instrument("gad_7"))
    gad = replace(gad, entries=gad.entries[:3])
    design = Design(named_templates(["terse"]))
    ids = np.asarray([made.tokenizer.encode(next(iter(questions(gad, design))).prompt)])
    scores, config = logits_of(made.lm, ids), made.lm.config
    rounding = float32_logits(config, ids.size, np.abs(scores).max()) + rounding_bound(config.vocab_size, 1.0)
    with made.worker, made.serving() as address:
        server = ServerConfig(f"{address}/v1", "tiny", "completions", concurrency=2)
        for scored, length in (("label", "none"), ("words", "tokens")):
            there = administer(server.respondent(scored), [gad], design)
            local = LocalModel(made.lm, made.tokenizer, "text")
            here = administer(ScoringRespondent(local, "tiny", scored, length), [gad], design)
            found = np.stack(there["probabilities"].tolist())
            # softmax over options: p (1 − p) of the difference of two log-probabilities
            expected = np.stack(here["probabilities"].tolist())
            np.testing.assert_allclose(found, expected, rtol=0, atol=rounding / 2)
