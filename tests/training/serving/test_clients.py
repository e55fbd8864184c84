"""Evaluation programs of others against the server, unpatched, and what they ask replayed without them.

The replays run always: the golden values are what lm-evaluation-harness's backend `hf` finds for the same
model (tests/goldens/lm_eval/make.py). The programs themselves are slow, and run where they are installed:
beside this project (the extra `clients`), or elsewhere, with the Python that has them in CLIENTS_PYTHON.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

import jaxmoe
from jaxmoe.generation.engine import EngineConfig
from jaxmoe.tokenizer import load_tokenizer
from tests.conftest import GOLDENS
from tests.served import Served, client_of
from tests.tiny_checkpoints import float32_logits
from tests.tolerances import rounding_bound

ROOT = Path(__file__).parents[3]
MODEL = GOLDENS / "lm_eval" / "model"
VALUES = json.loads((GOLDENS / "lm_eval" / "values.json").read_text(encoding="utf-8"))
PYTHON = os.environ.get("CLIENTS_PYTHON", sys.executable)
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    lm, tokenizer = jaxmoe.load(MODEL), load_tokenizer(MODEL)
    config = EngineConfig(slots=4, max_length=768, chunk=128, sizes=())
    made = Served(lm, tokenizer, config, (1,), {"golden": True})
    with made.worker, made.serving() as made.address:
        yield made


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return client_of(served.address)


def bound(served: Served, length: int, tokens: int, total: float) -> float:
    """How far two float32 sums of log-probabilities may lie apart; no logit of this model is beyond 8."""
    each = 2 * float32_logits(served.lm.config, length, 8.0)
    return tokens * each + rounding_bound(tokens + 1, abs(total))


# what they ask, without them


@pytest.mark.parametrize("name", ["arc", "mmlu", "hellaswag"])
def test_log_likelihoods_are_those_of_the_harness(served: Served, client: openai.OpenAI, name: str):
    """As its `local-completions` asks: one new token, the prompt's echoed and counted from the context on."""
    for item in VALUES[name]["2"]:
        # blanks before the continuation count to it
        context = served.tokenizer.encode(item["prompt"].rstrip())
        whole = [served.tokenizer.encode(item["prompt"] + choice) for choice in item["choices"]]
        made = client.completions.create(
            model="golden", prompt=whole, temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True
        )
        for choice, ids, expected in zip(made.choices, whole, item["logprobs"], strict=True):
            own = choice.logprobs.token_logprobs[len(context) : -1]
            assert len(own) == len(ids) - len(context)
            assert abs(sum(own) - expected) <= bound(served, len(ids), len(own), expected)


@pytest.mark.parametrize("shots", ["0", "2"])
def test_texts_are_those_of_the_harness(served: Served, client: openai.OpenAI, shots: str):
    for item in VALUES["gsm8k"][shots]:
        made = client.completions.create(
            model="golden",
            prompt=[served.tokenizer.encode(item["prompt"])],
            max_tokens=24,
            temperature=0.0,
            stop=["Question:", "</s>", "<|im_end|>"],
            seed=1234,
        )
        assert made.choices[0].text == item["response"]


def test_the_likeliest_text_is_known_as_such(served: Served, client: openai.OpenAI):
    """The harness compares each token's log-probability with the largest: to the last bit."""
    prompt = served.tokenizer.encode("How many pens")
    greedy = served.lm.generate(np.asarray([prompt]), max_new_tokens=12, stop_tokens=())
    ids = greedy.tokens[0, : len(prompt) + 12].tolist()
    made = client.completions.create(
        model="golden", prompt=[ids], temperature=0, max_tokens=1, logprobs=1, echo=True
    )
    found = made.choices[0].logprobs
    pairs = list(zip(found.token_logprobs, found.top_logprobs, strict=True))[len(prompt) :]
    assert len(pairs) == 13
    assert all(own == max(top.values()) for own, top in pairs)


@pytest.mark.parametrize("route", ["completions", "chat/completions"])
def test_null_is_as_good_as_nothing(served: Served, route: str):
    """Clients send what nobody set as null, also fields that are not known here."""
    asked = {"prompt": "pens"} if route == "completions" else {"messages": [{"role": "user", "content": "?"}]}
    asked |= {"model": "golden", "seed": 2, "max_tokens": 5, "temperature": 0}
    unset = ["top_p", "n", "stop", "stream", "logprobs", "user", "tool_choice", "service_tier", "store"]
    answers = [
        httpx.post(f"{served.address}/v1/{route}", json=body)
        for body in (asked, asked | dict.fromkeys(unset))
    ]
    assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
    assert answers[0].json()["choices"] == answers[1].json()["choices"]


# the programs themselves


def installed(package: str) -> None:
    """Skips a test whose program is not there."""
    known = [PYTHON, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"]
    if subprocess.run(known, check=False).returncode:
        pytest.skip(f"{PYTHON} has no {package}: pip install '.[clients]', or name one in CLIENTS_PYTHON")


def run(*words: str, folder: Path, **environment: str) -> str:
    """What a program of PYTHON's says, run in a folder."""
    done = subprocess.run(
        [PYTHON, *words],
        cwd=folder,
        env={**os.environ, **OFFLINE, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


ROLLING = {
    "task": "rows_rolling",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": str(GOLDENS / "lm_eval" / "rows" / "gsm8k_test.jsonl")}},
    "test_split": "test",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{question}} {{answer}}",
    "metric_list": [{"metric": "byte_perplexity"}],
}


def harness(
    folder: Path, name: str, model: str, arguments: dict[str, object], tasks: str, *more: str
) -> dict:
    """Answers by task and item, as lm-evaluation-harness logs them."""
    given = ",".join(f"{key}={value}" for key, value in arguments.items())
    words = ["-m", "lm_eval", "run", "--model", model, "--model_args", given, "--tasks", tasks]
    words += ["--include_path", str(folder), "--num_fewshot", "0", "--log_samples"]
    run(*words, "--output_path", str(folder / name), *more, folder=folder)
    found = {}
    for path in (folder / name).rglob("samples_*.jsonl"):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            found[path.name.split("_20")[0], row["doc_id"]] = row["resps"]
    return found


@pytest.mark.slow
def test_lm_evaluation_harness(served: Served, tmp_path: Path):
    """Its backends for servers find what its own backend `hf` finds."""
    installed("lm_eval")
    make = (
        "import sys, pathlib; from tests.goldens.lm_eval import make; make.tasks(pathlib.Path(sys.argv[1]))"
    )
    run("-c", make, str(tmp_path), folder=ROOT)
    (tmp_path / "rolling.yaml").write_text(json.dumps(ROLLING))
    local = {"pretrained": MODEL, "dtype": "float32"}
    there = {"model": "golden", "tokenizer": MODEL, "num_concurrent": 3, "max_retries": 1}
    there["base_url"] = f"{served.address}/v1/completions"
    tasks = "rows_arc,rows_hellaswag,rows_mmlu,rows_gsm8k,rows_rolling"
    here = harness(tmp_path, "hf", "hf", local, tasks, "--device", "cpu")
    over = harness(tmp_path, "api", "local-completions", there, tasks)
    batches = harness(
        tmp_path, "batches", "local-completions", there | {"num_concurrent": 1}, tasks, "--batch_size", "4"
    )
    assert len(here) == 6 + 4 + 4 + 3 + 3
    assert here.keys() == over.keys() == batches.keys()
    for key, expected in here.items():
        if key[0] == "samples_rows_gsm8k":
            assert over[key] == batches[key] == expected
            continue
        for found in (over[key], batches[key]):
            for ours, theirs in zip(numbers(found), numbers(expected), strict=True):
                assert abs(ours[0] - theirs[0]) <= bound(served, 768, 500, theirs[0])
                assert ours[1:] == theirs[1:]  # whether it is the likeliest text
    chat = there | {"base_url": f"{served.address}/v1/chat/completions"}
    del chat["tokenizer"]
    template = "--apply_chat_template"
    said = harness(tmp_path, "chat", "local-chat-completions", chat, "rows_gsm8k", template)
    written = harness(tmp_path, "hf_chat", "hf", local, "rows_gsm8k", template, "--device", "cpu")
    assert len(said) == 3
    assert said == written
    assert said != {key: value for key, value in over.items() if key in said}


def numbers(responses: list) -> list[list]:
    """Log-likelihood, and whether it is the largest, of each choice; a rolling one has the first alone."""
    pairs = [one[0] if isinstance(one[0], list) else one for one in responses]
    return [[float(pair[0]), *pair[1:]] for pair in pairs]


INSPECT = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message

@task
def rows():
    samples = [Sample(input=text, target="7") for text in ("What is 3 + 4?", "How many pens?")]
    return Task(dataset=samples, solver=[system_message("Be brief."), generate()], scorer=includes())
"""


@pytest.mark.slow
def test_inspect(served: Served, tmp_path: Path):
    """Its provider for OpenAI's API gets the model's own greedy answers, with log-probabilities."""
    installed("inspect_ai")
    (tmp_path / "rows.py").write_text(INSPECT)
    words = ["-m", "inspect_ai", "eval", "rows.py", "--model", "openai-api/local/golden", "--display", "none"]
    words += ["--temperature", "0", "--max-tokens", "12", "--seed", "1", "--logprobs", "--top-logprobs", "2"]
    words += ["--stop-seqs", "Question:", "--log-format", "json", "--log-dir", "logs"]
    address = {"LOCAL_API_KEY": "none", "LOCAL_BASE_URL": f"{served.address}/v1"}
    run(*words, folder=tmp_path, **address)
    (log,) = (tmp_path / "logs").glob("*.json")
    found = json.loads(log.read_text(encoding="utf-8"))
    assert found["status"] == "success"
    assert len(found["samples"]) == 2
    for sample in found["samples"]:
        messages = [{"role": one["role"], "content": one["content"]} for one in sample["messages"][:2]]
        assert [one["role"] for one in messages] == ["system", "user"]
        prompt = served.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        choice = sample["output"]["choices"][0]
        assert choice["message"]["content"] == served.expected(prompt, 12)
        assert [len(one["top_logprobs"]) for one in choice["logprobs"]["content"]] == [2] * 12
