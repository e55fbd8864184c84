"""The server, asked over HTTP by an unpatched client of OpenAI's and by clients that misbehave."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
from scipy.special import log_softmax

from jaxmoe.generation.engine import Engine
from jaxmoe.generation.requests import Request
from jaxmoe.tokenizer import encode_chat_prompt
from tests.served import Served, client_of, tiny
from tests.tiny_checkpoints import float32_logits, logits_of
from tests.tolerances import rounding_bound
from training.serving.served_model import ServingLimits
from training.serving.worker import EngineWorker


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    made = tiny()
    with made.worker, made.serving() as made.address:
        yield made


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return client_of(served.address)


def until_free(worker: EngineWorker) -> None:
    """Waits until no request is in progress."""
    deadline = time.monotonic() + 60
    while worker.pending and time.monotonic() < deadline:
        time.sleep(0.05)
    assert worker.pending == 0


def test_models(client: openai.OpenAI):
    assert [model.id for model in client.models.list().data] == ["tiny", "tiny-base"]


@pytest.mark.parametrize("name", ["tiny", "tiny-base"])
def test_text_is_the_models(served: Served, client: openai.OpenAI, name: str):
    prompt = served.tokenizer.encode("the quick")
    made = client.completions.create(model=name, prompt="the quick", max_tokens=12, temperature=0)
    assert made.choices[0].text == served.expected(prompt, 12, name == "tiny")
    assert made.choices[0].finish_reason == "length"
    counts = (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens)
    assert counts == (len(prompt), 12, len(prompt) + 12)


def test_a_chat_whole_and_streamed_are_one(client: openai.OpenAI):
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "jumps over"}]}
    asked |= {"max_tokens": 15, "temperature": 0.8, "seed": 3}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    told = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(one.delta.content or "" for one in told) == whole.choices[0].message.content
    assert told[-1].finish_reason == whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage


def test_a_stream_of_no_tokens_has_the_prompt_alone(client: openai.OpenAI):
    asked = {"model": "tiny", "prompt": "the fox", "max_tokens": 0, "echo": True, "temperature": 0}
    whole = client.completions.create(**asked)
    options = {"include_usage": True}
    chunks = list(client.completions.create(**asked, stream=True, stream_options=options))
    told = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(one.text for one in told) == whole.choices[0].text
    assert told[-1].finish_reason == whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
def test_streamed_tokens_are_counted_once(served: Served, client: openai.OpenAI, options: dict):
    def counted(kind: str) -> float:
        found = re.search(
            rf'jaxmoe_tokens_total{{kind="{kind}"}} (.*)', httpx.get(f"{served.address}/metrics").text
        )
        return float(found[1]) if found else 0.0

    before = counted("prompt"), counted("completion")
    list(client.completions.create(model="tiny", prompt=[[5, 6, 7]], max_tokens=4, stream=True, **options))
    assert (counted("prompt") - before[0], counted("completion") - before[1]) == (3, 4)


def test_stop_strings_samples_and_seeds(client: openai.OpenAI):
    asked = {"model": "tiny", "prompt": "the", "max_tokens": 10, "temperature": 1.0, "seed": 5}
    texts = [choice.text for choice in client.completions.create(**asked, n=4).choices]
    assert len(set(texts)) > 1
    assert texts == [choice.text for choice in client.completions.create(**asked, n=4).choices]
    stop = texts[0][3:5]
    cut = client.completions.create(**asked, stop=[stop]).choices[0]
    assert (cut.text, cut.finish_reason) == (texts[0][: texts[0].find(stop)], "stop")
    assert client.completions.create(**asked, best_of=4).choices[0].text in texts


def test_the_log_likelihood_of_a_given_text(served: Served, client: openai.OpenAI):
    """What evaluation harnesses ask: echo, the tokens' log-probabilities, no new token."""
    ids = served.tokenizer.encode("the lazy dog")
    made = client.completions.create(
        model="tiny", prompt=[ids], max_tokens=0, echo=True, logprobs=1, temperature=0
    )
    scored = made.choices[0].logprobs
    scores, config = logits_of(served.lm, np.asarray([ids]))[0, :-1], served.lm.config
    logits = log_softmax(scores, axis=-1)
    bound = float32_logits(config, len(ids), np.abs(scores).max()) + rounding_bound(config.vocab_size, 1.0)
    assert scored.token_logprobs[0] is None
    expected = logits[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(scored.token_logprobs[1:], expected, rtol=0, atol=bound)
    best = [max(one.values()) for one in scored.top_logprobs[1:]]
    np.testing.assert_allclose(best, logits.max(axis=-1), rtol=0, atol=bound)
    assert made.choices[0].text == served.tokenizer.decode(ids)
    assert made.usage.completion_tokens == 0


def test_chat_log_probabilities(client: openai.OpenAI):
    messages = [{"role": "user", "content": "fox"}]
    made = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=4, logprobs=True, top_logprobs=3, temperature=0
    )
    content = made.choices[0].logprobs.content
    assert [len(one.top_logprobs) for one in content] == [3] * 4
    assert all(one.top_logprobs[0].logprob == one.logprob for one in content)


@pytest.mark.parametrize("name", ["tiny", "tiny-base"])
def test_which_experts_spoke(served: Served, name: str):
    """An extension: with each token the experts' shares, as the engine tells them, whole and streamed."""
    messages = [{"role": "user", "content": "jumps"}]
    asked = {"model": name, "messages": messages, "max_tokens": 6, "temperature": 0, "expert_weights": True}
    route = f"{served.address}/v1/chat/completions"
    whole = httpx.post(route, json=asked, timeout=120).json()["choices"][0]
    ids = encode_chat_prompt(served.tokenizer, messages)
    with_weights = Request(ids, 6, experts=name == "tiny", expert_weights=True)
    new = served.engine().run_one(with_weights).new
    found = [one["weights"] for one in whole["expert_weights"]]
    assert [len(one) for one in found] == [2 if name == "tiny" else 0] * 6
    np.testing.assert_allclose(found, [one.experts for one in new], rtol=0, atol=1e-4)  # four digits
    written = [one["token"] for one in whole["expert_weights"]]
    assert written == [served.tokenizer.decode([one.token]) for one in new]
    streamed = [
        json.loads(line.removeprefix("data: "))["choices"][0]
        for line in httpx.post(route, json=asked | {"stream": True}, timeout=120).text.split("\n\n")
        if "expert_weights" in line
    ]
    assert [one for piece in streamed for one in piece["expert_weights"]] == whole["expert_weights"]
    assert "expert_weights" not in httpx.post(route, json=asked | {"expert_weights": False}).text


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({"model": "other", "prompt": "a"}, 404, "there is no model 'other'; there is tiny, tiny-base"),
        ({"model": "tiny"}, 400, "prompt: field required"),
        ({"model": "tiny", "prompt": ""}, 400, "at least one token"),
        ({"model": "tiny", "prompt": "a", "suffix": "b"}, 400, "suffix is not supported"),
        ({"model": "tiny", "prompt": "a", "frobnicate": 1}, 400, "frobnicate is not supported"),
        ({"model": "tiny", "prompt": "a", "expert_weights": True}, 400, "expert_weights is not supported"),
        ({"model": "tiny", "prompt": "a", "temperature": -1}, 400, "greater than or equal to 0; got -1"),
        ({"model": "tiny", "prompt": "a", "temperature": "hot"}, 400, "temperature: .*; got 'hot'"),
        ({"model": "tiny", "prompt": "a", "presence_penalty": 1}, 400, "^presence_penalty is not supported"),
        ({"model": "tiny", "prompt": "a", "logit_bias": {"1": 2}}, 400, "^logit_bias is not supported"),
        ({"model": "tiny", "prompt": [1, 99999]}, 400, r"token ids must lie in 0\.\.\d+; got 99999"),
        ({"model": "tiny", "prompt": "a", "max_tokens": 5000}, 400, "must fit 160 tokens"),
        ({"model": "tiny", "prompt": ["a"] * 200}, 400, "1 to 128 prompts; got 200"),
        ({"model": "tiny", "prompt": "a", "n": 3, "best_of": 2}, 400, "best_of must be at least n"),
        ({"model": "tiny", "prompt": {"a": 1}}, 400, "prompt"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(served: Served, asked: dict, status: int, message: str):
    answer = httpx.post(f"{served.address}/v1/completions", json=asked)
    assert answer.status_code == status
    assert re.search(message, answer.json()["error"]["message"])


def test_broken_bodies_end_nobody(served: Served):
    with served.serving(limits=ServingLimits(body_bytes=1000)) as address:
        bodies = [b"", b"{", b"[1,2]", b"\xff\xfe", b"[" * 900, b'{"model": "tiny", "prompt": "\\ud800"}']
        found = [httpx.post(f"{address}/v1/completions", content=body).status_code for body in bodies]
        assert found == [400] * 6
        assert httpx.post(f"{address}/v1/completions", content=b" " * 2000).status_code == 413
        assert httpx.get(f"{address}/health").json()["status"] == "ok"
        metrics = httpx.get(f"{address}/metrics").text
        assert 'jaxmoe_requests_total{route="completions",status="400"} 6.0' in metrics
        assert "<title>jaxmoe</title>" in httpx.get(address).text


def test_a_key_is_asked_for_and_compared(served: Served):
    with served.serving(key="secret") as address:
        given = ["", "Bearer wrong", "Basic secret", "Bearer secret"]
        found = [httpx.get(f"{address}/v1/models", headers={"Authorization": one}) for one in given]
    assert [answer.status_code for answer in found] == [401, 401, 401, 200]
    assert all("secret" not in answer.text for answer in found)


def test_clients_that_leave_free_their_slots(served: Served, client: openai.OpenAI):
    asked = {"model": "tiny", "prompt": "the", "max_tokens": 150, "temperature": 0}
    stream = client.completions.create(**asked, stream=True)
    next(iter(stream))
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.05).completions.create(**asked)
    until_free(served.worker)


def test_too_many_waiting_are_turned_away(served: Served):
    worker = EngineWorker(lambda: served.engine(slots=1), most_waiting=0)
    asked = {"model": "tiny", "prompt": "the", "max_tokens": 150, "temperature": 0}
    with worker, served.serving(worker) as address, ThreadPoolExecutor(1) as pool:
        client = client_of(address)
        first = pool.submit(client.completions.create, **asked)
        while not worker.pending:
            time.sleep(0.005)
        with pytest.raises(openai.RateLimitError, match="try again"):
            client.completions.create(**asked)
        with pytest.raises(openai.BadRequestError, match="at most 1 samples"):
            client.completions.create(**asked | {"n": 2})
        assert first.result().usage.completion_tokens == 150


def test_an_engine_that_fails_is_made_anew(served: Served, capsys: pytest.CaptureFixture[str]):
    made: list[Engine] = []

    def fail() -> dict:
        raise RuntimeError("out of memory")

    def make() -> Engine:
        made.append(served.engine(slots=1))
        if len(made) == 1:
            made[0]._decode = fail  # type: ignore[method-assign]
        return made[-1]

    worker = EngineWorker(make)
    asked = {"model": "tiny", "prompt": "the", "max_tokens": 5, "temperature": 0}
    with worker, served.serving(worker) as address:
        client = client_of(address)
        with pytest.raises(openai.InternalServerError, match="the engine failed"):
            client.completions.create(**asked)
        assert client.completions.create(**asked).usage.completion_tokens == 5
    assert worker.restarts == 1
    assert "out of memory" in capsys.readouterr().err


def test_an_engine_that_cannot_be_made_anew_is_told(served: Served, capsys: pytest.CaptureFixture[str]):
    made: list[Engine] = []

    def make() -> Engine:
        if made:
            raise RuntimeError("no memory for another")
        made.append(served.engine(slots=1))
        made[0]._decode = lambda: {}[0]  # type: ignore[method-assign]
        return made[0]

    worker = EngineWorker(make)
    with worker, served.serving(worker) as address:
        asked = {"model": "tiny", "prompt": "the"}
        found = [httpx.post(f"{address}/v1/completions", json=asked) for _ in range(2)]
        assert [answer.status_code for answer in found] == [500, 503]
        health = httpx.get(f"{address}/health")
    assert (health.status_code, health.json()["pending"]) == (503, 0)
    assert "could not be started again" in health.json()["status"]
    assert found[1].json()["error"]["message"] == health.json()["status"]
    assert "no memory for another" in capsys.readouterr().err


def test_many_clients_at_once(served: Served, client: openai.OpenAI):
    """Each gets its own answer, whatever the others ask or break."""
    prompts = [f"the {word}" for word in ("quick", "brown", "fox", "lazy", "dog", "jumps")] * 4
    alone = {prompt: served.expected(served.tokenizer.encode(prompt), 8) for prompt in set(prompts)}

    def one(number: int, prompt: str) -> str | None:
        asked = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0}
        if number % 5 == 4:
            with pytest.raises(openai.BadRequestError):
                client.completions.create(**asked | {"top_p": 7.0})
            return None
        return client.completions.create(**asked).choices[0].text

    with ThreadPoolExecutor(len(prompts)) as pool:
        found = list(pool.map(one, range(len(prompts)), prompts))
    for number, (prompt, text) in enumerate(zip(prompts, found, strict=True)):
        assert text is None if number % 5 == 4 else text == alone[prompt]
    until_free(served.worker)
