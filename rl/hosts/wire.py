"""A program to grade and its feedback as JSON, for pools on other machines.

Nothing is unpickled on either side: values of tests have the forms of `rl.sandbox.values`, and incoming data
is checked field by field.
"""

import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

from pydantic import TypeAdapter

from rl.feedback.language import CompilerFeedback, Settings
from rl.feedback.problems import Problem, fault_of
from rl.feedback.rewards import Scheme
from rl.sandbox import values


class GradingRequest(NamedTuple):
    """What to grade, and how."""

    problem: Problem
    program: str
    settings: Settings
    reward: Scheme


@dataclass(frozen=True)
class Refusal:
    """Why there is no feedback.

    Attributes:
      kind: "request" if it is the request's fault, "tools" if the machine lacks a language's tools, "sandbox"
        if its sandbox fails.
    """

    kind: str
    message: str


_REQUEST = TypeAdapter(GradingRequest)
_FEEDBACK = TypeAdapter(CompilerFeedback)
_REFUSAL = TypeAdapter(Refusal)
_FORGED = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)


def write_request(request: GradingRequest) -> bytes:
    """The JSON form of a request.

    >>> from rl.feedback.language import Limits
    >>> problem = Problem("p", "", inputs=["1"], outputs=["2"])
    >>> request = GradingRequest(problem, "print(2)", Settings(Limits()), "binary")
    >>> read_request(write_request(request)) == request
    True
    """
    problem = asdict(request.problem)
    for name in ("inputs", "outputs"):
        problem[name] = values.encode(list(getattr(request.problem, name)))
    settings = request.settings._asdict() | {"limits": asdict(request.settings.limits)}
    form = {"problem": problem, "program": request.program, "settings": settings, "reward": request.reward}
    return json.dumps(form).encode()


def read_request(form: bytes) -> GradingRequest:
    """The request in a JSON form.

    Raises: ValueError, in one line, for a form that is not a request or a problem that cannot be used.
    """
    try:
        content = json.loads(form)
        for name in ("inputs", "outputs"):
            content["problem"][name] = values.decode(content["problem"][name])
        request = _REQUEST.validate_python(content)
    except _FORGED as error:
        raise ValueError(f"no request to grade a program: {_in_one_line(error)}") from error
    if fault := fault_of(request.problem):
        raise ValueError(f"the problem {fault}")
    return request


def write_reply(reply: CompilerFeedback | Refusal) -> bytes:
    """The JSON form of a reply."""
    name = "refused" if isinstance(reply, Refusal) else "feedback"
    return json.dumps({name: asdict(reply)}).encode()


def read_reply(form: bytes) -> CompilerFeedback | Refusal:
    """The reply in a JSON form. Raises: ValueError, in one line, for a form that is not a reply."""
    try:
        content = json.loads(form)
        if "refused" in content:
            return _REFUSAL.validate_python(content["refused"])
        return _FEEDBACK.validate_python(content["feedback"])
    except _FORGED as error:
        raise ValueError(f"no feedback on a program: {_in_one_line(error)}") from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
