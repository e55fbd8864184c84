"""How a coding problem is put to a model, and how the program is extracted from its answer.

The one way for reinforcement learning and evaluation, so that what is trained is what is measured:

    completion         the model continues code: the problem's starter code, preceded by the statement as a
                       docstring if the code does not contain it
    instruction, chat  the model is asked for a program and answers with text and code; the two differ only in
                       how the text is turned into tokens

The given code (the starter code, or with the curriculum the beginning of the canonical solution) loses its
trailing white space: a tokenizer joins line breaks to the indentation after them, so a prompt that ended in
one would end in a token that running text does not have there.

Not covered: several turns, in which the policy mends its program (rl/stepcoder/turns.py).
"""

import re
import textwrap
from typing import Literal, NamedTuple, get_args

from rl.feedback.code_text import FENCE_LINE, CodeText
from rl.feedback.languages import LANGUAGES
from rl.feedback.problems import Problem

PromptForm = Literal["completion", "instruction", "chat"]
FENCE = "```"
_BLOCK = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>```+|~~~+)[ \t]*(?P<tag>[\w+#.-]*)[^\n]*\n"
    r"(?P<code>.*?)(?P<end>^[ \t]*(?P=fence)|\Z)",
    re.DOTALL | re.MULTILINE,
)


class CodePrompt(NamedTuple):
    """A problem as text.

    Attributes:
      text: the beginning of the code (completion), or what the user says.
      opening: how the answer begins; "" if the model writes it from the start.
      given: the code with which the program begins, the end of `text` or of `opening`.
    """

    text: str
    opening: str
    given: str


class Extracted(NamedTuple):
    """The program extracted from an answer.

    Attributes:
      program: the whole program, as it is graded.
      start, end: the characters of the response that belong to it. What comes after `end` is not part of it,
        nor of what a policy is rewarded for.
      shift: position in `program` minus position in the response, for these characters; None if their
        indentation was changed, so that there is no such number.
    """

    program: str
    start: int
    end: int
    shift: int | None


def code_prompt(problem: Problem, form: PromptForm, prefix: str = "") -> CodePrompt:
    """A problem as it is put to a model.

    Args:
      problem: its statement, starter code and kind make the prompt.
      form: completion, instruction or chat.
      prefix: the beginning of the canonical solution with which the answer begins; "" for the whole task.
    Returns: CodePrompt(text, opening, given).
    Raises: ValueError for an unknown form or language.

    >>> problem = Problem("double", "Double n.", "def f(n):", fn_name="f", inputs=[[3]], outputs=[6])
    >>> code_prompt(problem, "completion").text
    '\"\"\"\\nDouble n.\\n\"\"\"\\ndef f(n):'
    """
    _check(problem, form)
    if form == "completion":
        given = (prefix or problem.starter_code).rstrip()
        told = _holds(given, problem)
        text = given if told else f"{_text_of(problem).comment(problem.prompt.strip())}\n{given}"
        return CodePrompt(text.rstrip(), "", given)
    given = prefix.rstrip()
    opening = f"{FENCE}{problem.language}\n{given}" if given else ""
    return CodePrompt(_question(problem), opening, given)


def _question(problem: Problem) -> str:
    starter, name = problem.starter_code, _text_of(problem).title
    block = f"{FENCE}{problem.language}\n{starter.rstrip()}\n{FENCE}"
    if _holds(starter, problem):
        return f"Complete this {name} code. Answer with the whole program in one code block.\n\n{block}"
    asked = (
        f"Solve this problem in {name}. Answer with the whole program in one code block.\n\n"
        f"{problem.prompt.strip()}"
    )
    if problem.kind == "stdin" and not problem.entry:
        asked += "\n\nRead from standard input and write to standard output."
    return f"{asked}\n\nBegin with:\n{block}" if starter.strip() else asked


def stop_strings(form: PromptForm) -> tuple[str, ...]:
    """What ends a response early, in every form: text after which no answer continues.

    Few, because a stop string is blind to context: `def`, `if __name__` and three quotes all occur in the
    middle of right programs, and a fence may open a block. `extract` decides where a program ends.
    """
    _check_form(form)
    return ("\n<|", "\n</code>", "\n[/INST]")


def extract(problem: Problem, response: str, form: PromptForm, *, given: str | None = None) -> Extracted:
    """Extracts the program from a response, in time linear in its length; runs and parses nothing.

    Code that continues what was given ends before a fence, and, once the requested function is there (or the
    program prints), before prose, a new docstring, `assert`, `print`, or a function that the program does not
    use. `if __name__` guards, docstrings and helper functions stay.
    In an answer in words the program is a code block: the last whole one that defines what is asked for, else
    one that was cut off, else the longest; without fences it is the lines of code. The parts of the starter
    code that it lacks are put before it.

    Args:
      problem: as it was put.
      response: what the model wrote, without what it was given.
      form: in which it was put.
      given: CodePrompt.given of the prompt; None for that of the whole task.
    Returns: Extracted(program, start, end, shift), for any text.
    Raises: ValueError for an unknown form or language.

    >>> problem = Problem("double", "Double n.", "def f(n):", fn_name="f", inputs=[[3]], outputs=[6])
    >>> extract(problem, "\\n    return 2 * n\\n\\nprint(f(3))\\n", "completion")
    Extracted(program='def f(n):\\n    return 2 * n\\n\\n', start=0, end=19, shift=9)
    """
    given = code_prompt(problem, form).given if given is None else given
    if (form != "completion" and not given) or _answers_in_words(problem, response, given):
        return _answered(problem, response, given)
    text, name = _text_of(problem), _wanted(problem)
    if text.begins_again(response, given, name):
        return _continued(problem, response, "", text.missing(given, name, response))
    return _continued(problem, response, given)


def _continued(problem: Problem, response: str, given: str, missing: str = "") -> Extracted:
    text = given + response
    end = _text_of(problem).end_of_program(text, len(given), _wanted(problem))
    return Extracted(missing + text[:end], 0, end - len(given), len(missing) + len(given))


def _answers_in_words(problem: Problem, response: str, given: str) -> bool:
    """Whether a model that was to continue code answered in words instead, or opened a block."""
    first = _first_line(response)
    if (given and not response.startswith("\n")) or not first.strip() or first[0].isspace():
        return False
    if first.startswith((FENCE, "~~~")):
        return bool(_BLOCK.match(response.lstrip("\n"))) and not _is_closing(problem, response, given)
    return _text_of(problem).is_prose(first) and (not given or bool(_BLOCK.search(response)))


def _is_closing(problem: Problem, response: str, given: str) -> bool:
    """Whether a fence right after what was given ends a program that was already complete."""
    name = _wanted(problem)
    return (
        _first_line(response).strip() == FENCE
        and not (name and _text_of(problem).defines(response, name))
        and bool(given)
    )


def _first_line(text: str) -> str:
    return text.lstrip("\n").partition("\n")[0]


def _answered(problem: Problem, response: str, given: str) -> Extracted:
    start, end, indent = _code_of(problem, response)
    code = response[start:end]
    even = textwrap.dedent(code) if indent else code
    head, even = _text_of(problem).completed(even, given or problem.starter_code, _wanted(problem))
    return Extracted(head + even, start, end, len(head) - start if even == code else None)


def _code_of(problem: Problem, response: str) -> tuple[int, int, bool]:
    """Where the code of an answer in words is, and whether all of it is indented, as in a list."""
    name, text = _wanted(problem), _text_of(problem)
    found = [b for b in _BLOCK.finditer(response) if b["tag"].lower() in text.tags]
    blocks = [(*b.span("code"), bool(b["indent"])) for b in found]
    first = FENCE_LINE.search(response)
    if first and text.is_program(response[: first.start()], name):
        return 0, first.start(), False  # a program, and only after it the first fence
    if blocks:
        wanted = [b for b in blocks if name and text.defines(textwrap.dedent(response[b[0] : b[1]]), name)]
        # one that was cut off by the limit does not replace a whole program before it
        if len(wanted) > 1 and wanted[-1] == blocks[-1] and not found[-1]["end"]:
            wanted.pop()
        return wanted[-1] if wanted else max(blocks, key=lambda block: block[1] - block[0])
    return (*text.code_in_prose(response, name), False)


def _text_of(problem: Problem) -> CodeText:
    return LANGUAGES[problem.language].text


def _wanted(problem: Problem) -> str | None:
    """The function or class that the tests use; None if the program as a whole is run."""
    return problem.class_name or problem.fn_name or problem.entry


def _holds(starter: str, problem: Problem) -> bool:
    """Whether code already contains the statement, as in HumanEval."""
    return bool(starter.strip()) and problem.prompt.strip() in starter


def _check_form(form: PromptForm) -> None:
    if form not in get_args(PromptForm):
        raise ValueError(f"the form of code prompts must be {', '.join(get_args(PromptForm))}; got {form!r}")


def _check(problem: Problem, form: PromptForm) -> None:
    _check_form(form)
    if problem.language not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        raise ValueError(f"problem {problem.id} is in {problem.language!r}; there are prompts for {known}")
