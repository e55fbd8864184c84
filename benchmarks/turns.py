"""Times programs in turns, each in its own process: a busy machine slows all of them alike."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Timed(NamedTuple):
    """One program's turns.

    Attributes:
      seconds: seconds of each turn.
      peak_bytes: peak memory of its process at the end.
      said: what its last step returned.
    """

    seconds: list[float]
    peak_bytes: int
    said: Mapping[str, float]


def serve(step: Callable[[], Mapping[str, float] | None]) -> None:
    """The worker's loop, once it is warm: for each line read, one step, answered with its seconds.

    Args:
      step: returns when its work is done; its return value is reported.
    """
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        said = step() or {}
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_bytes": peak, "said": said}), flush=True)


def take_turns(commands: Mapping[str, Sequence[str]], turns: int) -> dict[str, Timed]:
    """Starts the workers and lets each do a step in turn.

    Args:
      commands: commands by name; each program ends in `serve`.
      turns: number of steps of each.
    Returns: the timings of each.
    Raises: SystemExit if a worker ends before it is ready.
    """
    workers = {
        name: subprocess.Popen([*command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name, command in commands.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    last: dict[str, Any] = {}
    for name, process in workers.items():
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{name} ended before its first step")
    for _ in range(turns):
        for name, process in workers.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("step\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            seconds[name].append(answer["seconds"])
            last[name] = answer
    for process in workers.values():
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    return {name: Timed(seconds[name], last[name]["peak_bytes"], last[name]["said"]) for name in commands}
