"""A server that is told to end lets the texts in progress end first."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.served import free_port, save_tiny_base, wait_until_healthy

ROOT = Path(__file__).parents[3]


@pytest.mark.slow  # a server of its own
def test_a_stream_ends_whole_after_sigterm(tmp_path):
    """SIGTERM comes with the first token of 400; all of them arrive, new requests are refused, it exits 0."""
    save_tiny_base(tmp_path / "base")
    port = free_port()
    command = [sys.executable, "-m", "training", "serve", f"base={tmp_path / 'base'}", "name=tiny"]
    command += [f"port={port}", "engine.slots=2", "engine.max_length=512", "engine.chunk=16"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_healthy(address, [server])
        asked = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 400, "stream": True, "logprobs": 0}
        tokens, reason, ended = 0, None, False
        with httpx.stream("POST", f"{address}/v1/completions", json=asked, timeout=120) as answer:
            for line in answer.iter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    ended = True
                    break
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                if not tokens:
                    server.send_signal(signal.SIGTERM)
                tokens += len(choice["logprobs"]["tokens"]) if choice["logprobs"] else 0
                reason = choice["finish_reason"] or reason
        assert ended
        assert reason == "stop" or (reason == "length" and tokens == 400)
        said, _ = server.communicate(timeout=60)
        assert server.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM), said
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{address}/health")
    finally:
        server.kill()
        server.wait()
