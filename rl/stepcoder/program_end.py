"""Where a response ends for the policy: after its program.

What a model writes after its program changes neither the verdict nor the reward. Sampling stops there, and no
loss is taken on what was sampled beyond it; a run records its share as `tail_share`.
"""

import re

from rl.feedback.problems import Problem
from rl.feedback.prompts import PromptForm, extract
from rl.stepcoder.prompts import Response

_FENCE = re.compile(r"\s*(?:```|~~~)[^\n]*")
# The program may turn out to use a definition that follows it; nothing else extends it again.
_MAY_BELONG = re.compile(r"(?:async\s+)?def\b|class\b|@")


def answer_end(text: str, program_end: int) -> int:
    """Where the answer ends: after the program and the fence that closes it.

    Args:
      text: of the response.
      program_end: `Extracted.end`.
    Returns: characters.

    >>> answer_end("x = 1\\n```\\nThat is all.", 6)
    9
    """
    fence = _FENCE.match(text, program_end)
    return fence.end() if fence else program_end


def answer_tokens(response: Response, program_end: int) -> int:
    """How many tokens of a response the policy is trained on: those of its program and before it.

    All of them if nothing follows except the fence that closes the program and the end of the turn: these are
    the decision to stop. A token that is only partly program counts, and so does the first token of any
    response, which has to carry the reward.

    Args:
      program_end: `Extracted.end`.
    Returns: the length of a prefix of the response's tokens.
    """
    if not response.text[answer_end(response.text, program_end) :].strip():
        return len(response.offsets)
    inside = [start < program_end for start, _ in response.offsets]
    return max(1, inside.index(False) if False in inside else len(inside))


def is_over(problem: Problem, text: str, form: PromptForm, given: str) -> bool:
    """Whether a response in progress has gone past its program, so that sampling can stop.

    Decided by whole lines, and only if the response continues code: an answer in words may bring a better
    block later. A function after the program does not end it, because what follows may use it.

    Args:
      text: the response so far.
      form: in which the problem was put.
      given: the code with which the program begins.
    Returns: False while the response may still continue its program.

    >>> problem = Problem("double", "Double n.", "def f(n):", fn_name="f", inputs=[[3]], outputs=[6])
    >>> text = "\\n    return 2 * n\\n\\nprint(f(3))"
    >>> [is_over(problem, text + more, "completion", "def f(n):") for more in ("", "\\n")]
    [False, True]
    """
    if form != "completion" and not given:
        return False
    lines = text[: text.rfind("\n") + 1]
    if not lines.strip():
        return False
    end = extract(problem, lines, form, given=given).end
    closed = answer_end(lines, end) > end
    tail = lines[end:].strip()
    return closed or (bool(tail) and not _MAY_BELONG.match(tail))
