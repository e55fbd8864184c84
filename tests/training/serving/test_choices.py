"""Answers over HTTP of an engine that writes what a test says: time limits, streams, faults of ours."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from jaxmoe.generation.engine import EngineStatistics
from jaxmoe.generation.requests import Completion, NewToken, Request
from jaxmoe.tokenizer import train_bpe
from training.serving.app import make_app
from training.serving.served_model import ServedModel, ServingLimits
from training.serving.worker import EngineWorker

TOKENIZER = train_bpe(["to be or not to be"] * 3, 300)
END = 1
CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


class ScriptedEngine:
    """Writes the same tokens for each request, one a step; then waits until it is cancelled."""

    def __init__(self, tokens: list[int]):
        self.config, self.statistics = SimpleNamespace(slots=2), EngineStatistics()
        self._tokens = tokens
        self._running: dict[int, tuple[Request, list[NewToken]]] = {}
        self._cancelled: set[int] = set()
        self._count = 0

    @property
    def idle(self) -> bool:
        return not self._running

    def check(self, request: Request) -> None:
        if request.prompt == [7]:
            raise TypeError("a fault of ours")

    def submit(self, request: Request) -> int:
        self._count += 1
        self._running[self._count] = request, []
        return self._count

    def cancel(self, id: int) -> None:
        self._cancelled.add(id)

    def step(self) -> dict[int, Completion]:
        time.sleep(0.002)
        done = {}
        for id, (request, new) in list(self._running.items()):
            scored = [NewToken(5, -1.0)] if request.prompt_logprobs and new else None
            if id in self._cancelled:
                done[id] = Completion(new, "cancelled", scored)
            elif len(new) < len(self._tokens):
                new.append(NewToken(self._tokens[len(new)], -1.0, ((9, -0.5),)[: request.alternatives]))
                request.on_token(new[-1])
                if new[-1].token in request.stop_tokens or len(new) == request.max_new_tokens:
                    done[id] = Completion(new, "stop" if new[-1].token == END else "length", scored)
        for id in done:
            del self._running[id]
        return done


class Server:
    """A scripted engine behind the routes."""

    def __init__(self, tokens: list[int], seconds: float = 60.0):
        self.worker = EngineWorker(lambda: ScriptedEngine(tokens), 2)
        model = ServedModel({"m": True, "a/b": False}, TOKENIZER, (END,), 200)
        self.app = make_app(self.worker, model, ServingLimits(seconds=seconds))
        self.client = TestClient(self.app)

    def __enter__(self) -> "Server":
        self.worker.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.end()

    def post(self, asked: dict):
        route = "chat/completions" if "messages" in asked else "completions"
        return self.client.post(f"/v1/{route}", json={"model": "m"} | asked)

    def streamed(self, asked: dict) -> list[dict]:
        lines = self.post(asked | {"stream": True}).text.split("\n\n")
        return [json.loads(one[6:])["choices"][0] for one in lines if one.startswith("data: {")]

    def until_free(self) -> None:
        deadline = time.monotonic() + 20
        while self.worker.pending:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def written(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def test_the_time_limit_gives_what_is_there():
    with Server(written("to be"), seconds=0.2) as server:
        asked = {"prompt": [4, 5], "max_tokens": 100, "echo": True, "logprobs": 0}
        answer = server.post(asked).json()["choices"][0]
    assert answer["finish_reason"] == "length"
    assert answer["logprobs"]["token_logprobs"] == [None, -1.0, *[-1.0] * len(written("to be"))]


@pytest.mark.parametrize("asked", [{"prompt": "a"}, CHAT])
def test_nothing_within_the_time_limit_is_an_error(asked: dict):
    with Server([], seconds=0.1) as server:
        answer = server.post(asked)
        streamed = server.post(asked | {"stream": True}).text
    assert answer.status_code == 503
    assert "within 0.1 seconds (limits.seconds)" in answer.json()["error"]["message"]
    assert "limits.seconds" in streamed
    assert "finish_reason" not in streamed.replace('"finish_reason": null', "")


def test_a_fault_of_ours_is_told_counted_and_ends_the_siblings(capsys):
    with Server([]) as server:
        answer = server.post({"prompt": [[5], [7]]})
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
        assert 'route="completions",status="500"} 1.0' in server.client.get("/metrics").text
        server.until_free()
    assert "a fault of ours" in capsys.readouterr().err


def test_a_stream_has_the_log_probabilities_of_every_token():
    """Also of those that made no text, such as the end; offsets go on."""
    with Server([*written("to be é"), END]) as server:
        asked = {"prompt": "a", "max_tokens": 30, "logprobs": 1}
        whole = server.post(asked).json()["choices"][0]["logprobs"]
        pieces = [one["logprobs"] for one in server.streamed(asked) if one["logprobs"]]
        for key in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
            assert [item for piece in pieces for item in piece[key]] == whole[key]
        chat = CHAT | {"logprobs": True, "top_logprobs": 1, "expert_weights": True}
        whole = server.post(chat).json()["choices"][0]
        pieces = [one for one in server.streamed(chat) if one.get("logprobs")]
        told = [one for piece in pieces for one in piece["logprobs"]["content"]]
        assert told == whole["logprobs"]["content"]
        assert [one for piece in pieces for one in piece["expert_weights"]] == whole["expert_weights"]
    assert b"".join(bytes(one["bytes"]) for one in told[:-1]) == " to be é".encode()


def test_the_token_itself_is_among_the_likeliest():
    with Server([*written("to"), END]) as server:
        scored = server.post({"prompt": "a", "logprobs": 1}).json()["choices"][0]["logprobs"]
    assert [one[token] for token, one in zip(scored["tokens"], scored["top_logprobs"], strict=True)] == [
        -1.0
    ] * len(scored["tokens"])
    assert all(one[TOKENIZER.decode([9])] == -0.5 for one in scored["top_logprobs"])


def test_a_client_that_leaves_before_the_first_event_frees_its_slot():
    asked = json.dumps({"model": "m", "prompt": "a", "echo": True, "stream": True}).encode()
    bodies = iter([{"type": "http.request", "body": asked}, {"type": "http.disconnect"}])

    async def receive() -> dict:
        return next(bodies)

    async def send(message: dict) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # as a server that waits for a client to read

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}, "method": "POST", "path": "/v1/completions"}
    scope |= {"headers": [], "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": ""}
    with Server([]) as server:
        asyncio.run(server.app(scope, receive, send))
        server.until_free()


def test_what_is_not_there_is_told_as_json():
    with Server([]) as server:
        client = server.client
        found = [client.get("/v1/nothing"), client.get("/v1/completions"), client.get("/v1/models/c")]
        assert [one.status_code for one in found] == [404, 405, 404]
        assert [one.json()["error"]["code"] for one in found] == [None, None, "model_not_found"]
        assert found[1].headers["allow"] == "POST"
        assert client.get("/v1/models/a/b").json()["id"] == "a/b"
