"""Two processes serve from the address of the first: the texts of one, and both end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

import jaxmoe
from jaxmoe.tokenizer import load_tokenizer
from tests.served import free_port, save_tiny_base, wait_until_healthy

ROOT = Path(__file__).parents[3]


@pytest.mark.slow  # two processes and their programs
def test_two_processes_serve_the_texts_of_one(tmp_path):
    """Greedy, with a stop string that the first process alone sees, in turns and side by side."""
    save_tiny_base(tmp_path / "base")
    port, coordinator = free_port(), f"127.0.0.1:{free_port()}"
    values = {
        "base": str(tmp_path / "base"),
        "name": "tiny",
        "port": port,
        "mesh": {"data": 2},
        "engine": {"slots": 2, "max_length": 64, "chunk": 16},
    }
    processes = []
    for i in range(2):
        file = tmp_path / f"{i}.yaml"
        together = {"coordinator": coordinator, "num_processes": 2, "process_id": i, "cpu_devices": 1}
        file.write_text(json.dumps(values | {"distributed": together}))
        command = [sys.executable, "-m", "training", "serve", "--config", str(file)]
        processes.append(
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_healthy(address, processes)
        lm, tokenizer = jaxmoe.load(str(tmp_path / "base")), load_tokenizer(str(tmp_path / "base"))
        prompts = ["def f(n):", "return", "for i in range(n):" * 3]
        asked = {"model": "tiny", "max_tokens": 12, "temperature": 0, "logprobs": 0}
        expected = []
        for prompt in prompts:
            ids = tokenizer.encode(prompt)
            made = lm.generate(np.asarray([ids]), max_new_tokens=12)
            new = made.tokens[0, len(ids) : len(ids) + int(made.lengths[0])]
            expected.append(tokenizer.decode(new, skip_special_tokens=True))

        def text(prompt, **more) -> list[str]:
            answer = httpx.post(
                f"{address}/v1/completions", json=asked | {"prompt": prompt} | more, timeout=120
            )
            assert answer.status_code == 200, answer.text
            return [choice["text"] for choice in answer.json()["choices"]]

        assert text(prompts) == expected
        stop = expected[0][3:5]
        assert text(prompts[0], stop=stop) == [expected[0][: expected[0].index(stop)]]
        time.sleep(2.5)  # idle for some steps
        assert text(prompts[2]) == [expected[2]]
        os.kill(processes[0].pid, signal.SIGINT)
        for process in processes:
            said, _ = process.communicate(timeout=60)
            assert process.returncode in (0, -signal.SIGINT, 130), said
    finally:
        for process in processes:
            process.kill()
            process.wait()
