"""What is said of a lost process: once, whether JAX or Python notices first."""

import subprocess
import sys

import pytest

from training.runtime.lost_process import LOST

FATAL = "F1128 client.cc:80] Terminating process because the JAX distributed service detected fatal errors."
JAX = f"os.write(2, b{FATAL!r} + b'\\n    @ 0x1 frame\\n')"
PYTHON = "lost_process.say_lost()"


@pytest.mark.parametrize("order", [(JAX,), (PYTHON,), (JAX, PYTHON), (PYTHON, JAX)])
def test_it_is_said_once(order: tuple[str, ...]):
    program = "import os\nfrom training.runtime import lost_process\nlost_process.report_in_one_line()\n"
    done = subprocess.run(
        [sys.executable, "-c", program + "\n".join(order)], capture_output=True, text=True, timeout=120
    )
    assert done.stderr == LOST + "\n"


def test_without_the_small_process_nothing_is_said():
    program = "from training.runtime import lost_process\nassert not lost_process.say_lost()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
