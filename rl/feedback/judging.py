"""From what a program did to the result of a test: how its process ended, what it printed, what it returned.

Small answers are compared in this, the trusted process. Large ones, and those judged by the problem's own
code, go to the sandbox's judge (rl.sandbox.judge_service).
"""

import json
import signal
from collections.abc import Callable
from typing import Any

from rl.feedback.language import TestResult
from rl.feedback.problems import Problem
from rl.sandbox import values
from rl.sandbox.comparison import CompareRule, same_output
from rl.sandbox.jobs import Outcome

_LONG_OUTPUT = 1 << 16
_SHOWN = 150
AskJudge = Callable[[dict[str, Any], bytes], dict[str, Any]]


def in_one_line(said: object, most: int = 400) -> str:
    """What a program or a file says, made safe to write anywhere.

    Args:
      most: maximum number of characters in the result.
    Returns: one line; control characters and lone surrogates are escaped.
    """
    text = " ".join(str(said)[:4000].split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)[:most]


def shown(value: object) -> str:
    """The beginning of a value as text."""
    try:
        text = repr(value)
    except ValueError:  # an int with more digits than Python writes
        return "a number of many digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def printed(output: bytes, expected: str, rule: CompareRule) -> TestResult:
    """The result of a test whose program printed this and ended normally.

    Args:
      output: what the program wrote; bytes that are not UTF-8 are replaced.
      expected: the text of the problem.
      rule: how the two are compared.
    Returns: pass, or fail with both texts cut to a readable length.
    """
    text = output.decode("utf-8", errors="replace")
    if same_output(expected, text, rule):
        return TestResult("pass")
    return TestResult("fail", f"printed {shown(text)}, expected {shown(expected)}")


def judge_printed(
    problem: Problem, number: int, output: bytes, rule: CompareRule, ask: AskJudge
) -> TestResult:
    """The result of a test that ended normally, from the judge for a long text or a problem with a checker.

    Args:
      problem: of the stdin kind.
      number: of the test, from 0.
      output: what the program wrote.
      rule: how the text is compared; a checker does not use it.
      ask: puts a question and an answer to the judge, and returns its reply.
    Returns: the result; a lost judge or a failing checker does not give a pass.
    """
    expected = problem.outputs[number]
    if problem.checker:
        text = json.dumps(output.decode("utf-8", errors="replace")).encode()
        return judge_result(problem, number, ask(judge_question(problem, number, "", rule), text))
    if len(output) <= _LONG_OUTPUT or output == expected.encode(errors="surrogateescape"):
        return printed(output, expected, rule)
    question = {"kind": "output", "rule": rule, "expected": expected}
    return judge_result(problem, number, ask(question, output))


def judge_question(problem: Problem, number: int, condition: str, rule: CompareRule) -> dict[str, Any]:
    """What the judge is asked about the answer to a test.

    Args:
      problem: with the test.
      number: of the test, from 0.
      condition: of an assert-style test, over the values _0, _1, ...; "" for other kinds.
      rule: how values are compared.
    Returns: a request as `rl.sandbox.judge_service` lists them, without the answer.
    """
    if problem.kind == "assert":
        return {"kind": "condition", "setup": problem.setup, "condition": condition}
    expected = values.encode(problem.outputs[number])
    if problem.checker:
        given = values.encode(problem.inputs[number])
        return {"kind": "checker", "checker": problem.checker, "given": given, "expected": expected}
    return {"kind": "same", "rule": rule, "expected": expected}


def judge_result(problem: Problem, number: int, reply: dict[str, Any]) -> TestResult:
    """The result of a test from what the judge says.

    Args:
      problem: with the test.
      number: of the test, from 0.
      reply: {"right", "why"}, with "raised" if the program raised; {"fault"}, or {"lost"} if no judge
        answered.
    Returns: a timeout if the judge did not finish in time, a runtime error if the program or the problem's
      own code failed, else pass or fail.
    """
    if "lost" in reply:
        slow = "finish" in reply["lost"]
        return TestResult("timeout" if slow else "runtime_error", f"the judge of its answer {reply['lost']}")
    if "fault" in reply:
        return TestResult("runtime_error", f"the problem's own test failed: {reply['fault']}")
    if reply["right"]:
        return TestResult("pass")
    if "raised" in reply:
        return TestResult("runtime_error", reply["raised"])
    expected = (problem.asserts if problem.kind == "assert" else problem.outputs)[number]
    return TestResult("fail", f"not as expected: {shown(expected)} {reply['why'][:200]}".rstrip())


def bad_end(outcome: Outcome, ended: tuple[bytes, dict[str, Any]] | None = None) -> TestResult:
    """The verdict on a test that brought its process to an end.

    Args:
      outcome: how the process ended.
      ended: kind (E or D) and content of the last frame that it sent (`rl.sandbox.program`), if it sent one.
    Returns: output limit, timeout or runtime error, the first of them that holds.
    """
    if outcome.output_exceeded:
        return TestResult("output_limit", "printed more than the limit")
    if outcome.timed_out:
        return TestResult("timeout", "ran out of time")
    if outcome.garbled:
        return TestResult("runtime_error", "wrote to the grader's own channel")
    if outcome.status < 0:
        name = _signal_name(-outcome.status)
        return TestResult("runtime_error", f"killed by signal {-outcome.status} ({name})")
    kind, content = ended or (b"", {})
    if kind == b"E":
        return TestResult("runtime_error", in_one_line(content.get("error")))
    if kind == b"D":
        return TestResult("runtime_error", f"ended with exit code {shown(content.get('exit'))[:20]}")
    return TestResult("runtime_error", f"left without an answer (exit code {outcome.status})")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
