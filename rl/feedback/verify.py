"""python -m rl.feedback.verify PATH: runs every canonical solution of a problem set."""

import argparse
import logging
import sys

from jaxmoe.given_paths import given
from rl.feedback.pool import Limits, Pool
from rl.feedback.readers import load_problems


def main(arguments: list[str]) -> int:
    """Grades the canonical solutions and prints those that fail, with a summary.

    Args:
      arguments: the command line, without the program's name.
    Returns: 1 if any failed, else 0; 2, after a line on stderr, for problems that cannot be read.
    """
    parser = argparse.ArgumentParser(prog="python -m rl.feedback.verify", description=__doc__)
    parser.add_argument("path", metavar="PATH", help="folder or file of problems whose solutions are run")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--time-s", type=float, default=10.0, help="limit for each test")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    try:
        with given("PATH", options.path):
            problems = load_problems(options.path, bad="skip")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    solved = [p for p in problems if p.canonical_solution]
    with Pool(workers=options.workers, limits=Limits(time_s=options.time_s)) as pool:
        feedbacks = pool.grade_many([(p, p.canonical_solution) for p in solved])
    failures = 0
    for problem, feedback in zip(solved, feedbacks, strict=True):
        if feedback.verdict != "pass":
            failures += 1
            passed = f"{feedback.passed}/{len(feedback.tests)}"
            print(f"{problem.id}: {feedback.verdict} ({passed}) {feedback.message}")
    weak = sum(feedback.weak for feedback in feedbacks)
    print(
        f"{len(solved) - failures} of {len(solved)} canonical solutions pass; "
        f"{len(problems) - len(solved)} problems have none; {weak} compare answers with each other"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
