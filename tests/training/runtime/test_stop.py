"""SIGTERM and Ctrl-C: a request while steps are made, and an end without a stack dump before and after."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.runtime.stop import StopRequest

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """A shell starts what runs in the background deaf to Ctrl-C, and so would be what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def never(step: int) -> bool:
    raise AssertionError("one process has nobody to ask")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request(number):
    before = signal.getsignal(number)
    with StopRequest(never) as stop:
        assert not stop.granted(1)
        os.kill(os.getpid(), number)
        assert stop.granted(2)
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_what_it_did_before():
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with StopRequest(never) as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert (seen, stop.granted(1)) == ([], True)
            os.kill(os.getpid(), signal.SIGINT)
            assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_interrupts_a_notebook():
    with StopRequest(never):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


# where Ctrl-C comes while the program starts: at its first import, and as it imports JAX
@pytest.mark.parametrize("at", ["typer", "jax"])
def test_ctrl_c_while_the_program_starts_ends_it_without_a_word(tmp_path, at):
    (tmp_path / f"{at}.py").write_text(
        "import pathlib, time\npathlib.Path(__file__).with_name('there').touch()\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "training", "sft", "--config", "sft/tiny"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "there").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == b""
    assert process.returncode == -signal.SIGINT
