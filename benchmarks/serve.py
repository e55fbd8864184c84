"""Many clients at once against one server; some of them leave, send nonsense, or ask too much.

    python -m benchmarks.serve [--base smollm2-135m-instruct] [--clients 200] [--seconds 60]

Starts `python -m training serve` on a free port. Until the time is up, each client keeps sending randomly
chosen requests: a completion, whole or streamed; a chat; an answer that it does not wait for (the connection
is closed); a body that is not JSON; an unknown model; a prompt that is too long. Greedy answers must match
those that the server gave to a single client; refusals must be refusals. At the end, nothing may be left in
progress (/metrics), the engine must not have been restarted, and the process's memory must be within a tenth
of what it was after a third of the time. One JSON line; exit status 1 if anything is wrong.
"""

import argparse
import asyncio
import json
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

PROMPTS = [f"{word} is a word that" for word in ("Bread", "River", "Copper", "Winter", "Garden", "Piano")]
NEW, SLOTS, LONGEST = 16, 32, 256
# relative frequency of each request, and the expected status; None: the client does not wait for one
KINDS = {
    "whole": (6, 200),
    "streamed": (4, 200),
    "chat": (3, 200),
    "left": (2, None),
    "no json": (1, 400),
    "unknown model": (1, 404),
    "too long": (1, 400),
}


@dataclass
class Seen:
    """What the clients encountered.

    Attributes:
      asked: requests by kind.
      busy: requests that were rejected because too many were waiting (503 or 429).
      wrong: what should not have happened, by its description.
      waits: seconds that whole answers took.
    """

    asked: Counter[str] = field(default_factory=Counter)
    busy: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)


class Client:
    """A client that sends one request after another until the time is up."""

    def __init__(self, http: httpx.AsyncClient, name: str, expected: dict[str, str], seen: Seen, seed: int):
        self._http, self._name, self._expected, self._seen = http, name, expected, seen
        self._rng = random.Random(seed)

    async def run(self, until: float) -> None:
        """Sends requests until `until`, by time.monotonic."""
        kinds, weights = list(KINDS), [weight for weight, _ in KINDS.values()]
        while time.monotonic() < until:
            kind = self._rng.choices(kinds, weights)[0]
            self._seen.asked[kind] += 1
            prompt = self._rng.choice(PROMPTS)
            try:
                await self._ask(kind, prompt)
            except httpx.HTTPError as error:
                self._seen.wrong[f"{kind}: {type(error).__name__}"] += 1

    async def _ask(self, kind: str, prompt: str) -> None:
        body = {"model": self._name, "prompt": prompt, "max_tokens": NEW, "temperature": 0}
        began = time.monotonic()
        if kind in ("streamed", "left"):
            text = ""
            request = self._http.stream("POST", "/v1/completions", json=body | {"stream": True})
            async with request as response:
                if self._status(kind, response.status_code):
                    async for line in response.aiter_lines():
                        if kind == "left" and line:
                            return  # after the first token
                        if line.startswith("data: {"):
                            text += json.loads(line[6:])["choices"][0]["text"]
                    self._compare(kind, prompt, text)
            return
        route = "/v1/chat/completions" if kind == "chat" else "/v1/completions"
        if kind == "chat":
            del body["prompt"]
            body |= {"messages": [{"role": "user", "content": prompt}]}
        elif kind == "unknown model":
            body["model"] = "nobody"
        elif kind == "too long":
            body["prompt"] = prompt * LONGEST
        content = b'{"model": [' if kind == "no json" else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        response = await self._http.post(route, content=content, headers=headers)
        if self._status(kind, response.status_code) and response.status_code == 200:
            self._seen.waits.append(time.monotonic() - began)
            choice = response.json()["choices"][0]
            if kind == "chat":
                self._compare("chat", f"chat: {prompt}", choice["message"]["content"])
            else:
                self._compare(kind, prompt, choice["text"])

    def _status(self, kind: str, status: int) -> bool:
        if status in (429, 503):
            self._seen.busy += 1
            return False
        wanted = KINDS[kind][1] or 200
        if status != wanted:
            self._seen.wrong[f"{kind}: status {status}"] += 1
        return status == wanted

    def _compare(self, kind: str, prompt: str, text: str) -> None:
        if text != self._expected[prompt]:
            self._seen.wrong[f"{kind}: another answer"] += 1


async def load(address: str, process: int, clients: int, seconds: float) -> dict[str, object]:
    """Runs the clients, and checks the server before, during and after."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=600) as http:
        name = (await http.get("/v1/models")).json()["data"][0]["id"]
        expected: dict[str, str] = {}
        for prompt in PROMPTS:
            body = {"model": name, "max_tokens": NEW, "temperature": 0}
            made = await http.post("/v1/completions", json=body | {"prompt": prompt})
            expected[prompt] = made.json()["choices"][0]["text"]
            chat = body | {"messages": [{"role": "user", "content": prompt}]}
            said = await http.post("/v1/chat/completions", json=chat)
            expected[f"chat: {prompt}"] = said.json()["choices"][0]["message"]["content"]
        seen, until = Seen(), time.monotonic() + seconds
        before, steps = await tokens(http), await metric(http, "jaxmoe_engine_steps")
        running = [
            asyncio.create_task(Client(http, name, expected, seen, seed).run(until))
            for seed in range(clients)
        ]
        await asyncio.sleep(seconds / 3)
        memory = resident(process)
        await asyncio.gather(*running)
        took = seconds + max(time.monotonic() - until, 0)
        made = await tokens(http) - before
        steps = await metric(http, "jaxmoe_engine_steps") - steps
        pending = None
        for _ in range(100):  # clients that left are noticed at the next step
            pending = await metric(http, "jaxmoe_pending_requests")
            if pending == 0:
                break
            await asyncio.sleep(0.1)
        restarts = await metric(http, "jaxmoe_engine_restarts")
        grown = resident(process) / memory - 1
    if pending:
        seen.wrong["requests left in progress"] += int(pending)
    if restarts:
        seen.wrong["engine restarts"] += int(restarts)
    if grown > 0.1:
        seen.wrong[f"memory grew by {grown:.0%}"] += 1
    return {
        "clients": clients,
        "seconds": round(took, 1),
        "requests": sum(seen.asked.values()),
        "by_kind": dict(seen.asked),
        "turned_away": seen.busy,
        "tokens_per_s": round(made / took),
        "ms_per_step": round(1000 * took / max(steps, 1)),
        "median_wait_s": round(statistics.median(seen.waits), 2) if seen.waits else None,
        "memory_mb": round(memory / 1e6),
        "memory_grew": round(grown, 3),
        "wrong": dict(seen.wrong),
    }


async def metric(http: httpx.AsyncClient, name: str) -> float:
    """A value from /metrics; 0 while it is missing."""
    found = re.search(rf"^{re.escape(name)} (.*)$", (await http.get("/metrics")).text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def tokens(http: httpx.AsyncClient) -> float:
    """New tokens that the server has reported so far."""
    return await metric(http, 'jaxmoe_tokens_total{kind="completion"}')


def resident(process: int) -> int:
    """Memory of a process, in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def main() -> int:
    """Starts the server, puts it under load, and stops it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="smollm2-135m-instruct", help="checkpoint: folder, file or name")
    parser.add_argument("--clients", type=int, default=200, help="at a time")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which new requests are made")
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = [f"port={port}", f"engine.slots={SLOTS}", f"engine.max_length={LONGEST}"]
    command = [sys.executable, "-m", "training", "serve", f"base={options.base}", *settings]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                httpx.get(f"{address}/health")
                break
            except httpx.TransportError:
                if server.poll() is not None:
                    raise SystemExit("the server ended before it listened") from None
                time.sleep(0.2)
        found = asyncio.run(load(address, server.pid, options.clients, options.seconds))
    finally:
        server.send_signal(signal.SIGTERM)
        drained = server.wait(60)
    found["ended_by"] = "SIGTERM" if drained == -signal.SIGTERM else drained
    print(json.dumps(found))
    return int(bool(found["wrong"]) or drained not in (0, -signal.SIGTERM))


if __name__ == "__main__":
    sys.exit(main())
