"""How a coding problem is put to a model, and how the program is taken out of its answer.

The one way for reinforcement learning and evaluation, so that what is trained is what is measured:

    completion         the model goes on with code: the problem's starter code, with the statement before it
                       as a docstring where the code does not hold it
    instruction, chat  the model is asked for a program and answers with text and code; the two differ only in
                       how the text is turned into tokens

The code that is given (the starter code, or with the curriculum the beginning of the canonical solution)
loses its trailing white space: a tokenizer joins line breaks to the indentation after them, so a prompt that
ended in one would end in a token that running text does not have there.

Not covered: repair of programs that do not compile, conversations of several turns.
"""

import re
import textwrap
from typing import Literal, NamedTuple, get_args

from rl.feedback.languages import LANGUAGES
from rl.feedback.problems import Problem
from rl.feedback.python_text import CodePart, defines, layout, names_in

PromptForm = Literal["completion", "instruction", "chat"]
FENCE = "```"
_BLOCK = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>```+|~~~+)[ \t]*(?P<tag>[\w+#.-]*)[^\n]*\n"
    r"(?P<code>.*?)(?P<end>^[ \t]*(?P=fence)|\Z)",
    re.DOTALL | re.MULTILINE,
)
_CLOSED = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)


class CodePrompt(NamedTuple):
    """A problem as text.

    Attributes:
      text: the beginning of the code (completion), or what the user says.
      opening: with what the answer begins; "" where the model writes it from the start.
      given: the code with which the program begins, the end of `text` or of `opening`.
    """

    text: str
    opening: str
    given: str


class Extracted(NamedTuple):
    """The program that an answer amounts to.

    Attributes:
      program: the whole program, as it is graded.
      start, end: the characters of the response that belong to it. What comes after `end` is not part of it,
        and no part of what a policy is rewarded for.
      shift: position in `program` minus position in the response, of these characters; None where their
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
        text = given if told else f"{_comment(problem)}\n{given}"
        return CodePrompt(text.rstrip(), "", given)
    given = prefix.rstrip()
    opening = f"{FENCE}{problem.language}\n{given}" if given else ""
    return CodePrompt(_question(problem), opening, given)


def _question(problem: Problem) -> str:
    starter, name = problem.starter_code, LANGUAGES[problem.language].title
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


def _comment(problem: Problem) -> str:
    """The statement as a docstring, or as a C++ comment, whose end it cannot write itself."""
    statement = problem.prompt.strip()
    if problem.language == "cpp":
        return f"/*\n{statement.replace('*/', '* /')}\n*/"
    quotes = '"""' if '"""' not in statement else "'''"
    return f"{quotes}\n{statement.replace(quotes, ' '.join(quotes))}\n{quotes}"


def stop_strings(form: PromptForm) -> tuple[str, ...]:
    """What ends a response early, in every form: text that no answer goes on after.

    Few, since a stop string is blind to where it stands: `def`, `if __name__` and three quotes all occur in
    the middle of right programs, and a fence may open a block. Where a program ends, `extract` says.
    """
    _check_form(form)
    return ("\n<|", "\n</code>", "\n[/INST]")


def extract(problem: Problem, response: str, form: PromptForm, *, given: str | None = None) -> Extracted:
    """Takes the program out of a response, in time linear in its length; runs and parses nothing.

    Code that goes on from what was given ends before a fence, and, once the function that is asked for is
    there (or the program prints), before prose, a new docstring, `assert`, `print`, or a function that the
    program does not use. `if __name__` guards, docstrings and helper functions stay.
    Of an answer in words the program is a code block: the last that defines what is asked for, else the
    longest; without fences its lines of code. What it lacks of the starter code is put before it.

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
    if _begins_again(problem, response, given):
        return _continued(problem, response, "", _missing(given, _wanted(problem), response))
    return _continued(problem, response, given)


def _continued(problem: Problem, response: str, given: str, missing: str = "") -> Extracted:
    text = given + response
    if problem.language == "python":
        end = _end_of_program(text, len(given), problem)
    else:
        closed = _CLOSED.search(text, len(given))
        end = closed.start() if closed else len(text)
    return Extracted(missing + text[:end], 0, end - len(given), len(missing) + len(given))


def _answers_in_words(problem: Problem, response: str, given: str) -> bool:
    """Whether a model that was to go on with code answered in words, or opened a block, instead."""
    first = _first_line(response)
    if (given and not response.startswith("\n")) or not first.strip() or first[0].isspace():
        return False
    if first.startswith((FENCE, "~~~")):
        return bool(_BLOCK.match(response.lstrip("\n"))) and not _is_closing(problem, response, given)
    prose = problem.language == "python" and layout(first).parts[0].kind == "prose"
    return prose and (not given or bool(_BLOCK.search(response)))


def _is_closing(problem: Problem, response: str, given: str) -> bool:
    """Whether a fence right behind what was given ends a program that was complete already."""
    name = _wanted(problem)
    return _first_line(response).strip() == FENCE and not (name and _defines(response, name)) and bool(given)


def _begins_again(problem: Problem, response: str, given: str) -> bool:
    """Whether a model that was to write the body of a function wrote the whole program again."""
    first, name = _first_line(response), _wanted(problem)
    if problem.language != "python" or not given.endswith(":") or not first or first[0].isspace():
        return False
    return name is not None and _defines(response, name)


def _first_line(text: str) -> str:
    return text.lstrip("\n").partition("\n")[0]


def _answered(problem: Problem, response: str, given: str) -> Extracted:
    start, end, indent = _code_of(problem, response)
    code = response[start:end]
    even = textwrap.dedent(code) if indent else code
    head, name, starter = "", _wanted(problem), given or problem.starter_code
    if name and starter and problem.language == "python":
        if not _defines(even, name) and (_defines(starter, name) or starter.rstrip().endswith(":")):
            head, even = starter.rstrip() + "\n", _indented(even)
        else:
            head = _missing(starter, name, even)
    return Extracted(head + even, start, end, len(head) - start if even == code else None)


def _code_of(problem: Problem, response: str) -> tuple[int, int, bool]:
    """Where the code of an answer in words lies, and whether all of it is indented, as in a list."""
    name, tags = _wanted(problem), LANGUAGES[problem.language].tags
    python = problem.language == "python"
    blocks = [
        (*b.span("code"), bool(b["indent"])) for b in _BLOCK.finditer(response) if b["tag"].lower() in tags
    ]
    first = _CLOSED.search(response)
    if first and python and _is_program(response[: first.start()], name):
        return 0, first.start(), False  # a program, and only then the first fence
    if blocks:
        wanted = [b for b in blocks if name and _defines(textwrap.dedent(response[b[0] : b[1]]), name)]
        return wanted[-1] if wanted else max(blocks, key=lambda block: block[1] - block[0])
    return (*_code_in_prose(problem, response), False) if python else (0, len(response), False)


def _is_program(text: str, name: str | None) -> bool:
    """Whether a text begins as code and holds what is asked for."""
    return layout(text).parts[0].kind not in ("prose", "comment") and (name is None or _defines(text, name))


def _code_in_prose(problem: Problem, text: str) -> tuple[int, int]:
    """The run of code lines in an answer without fences; all of it where nothing looks like code."""
    parts = layout(text).parts
    if all(part.kind != "prose" for part in parts):
        return 0, len(text)
    name = _wanted(problem)
    runs: list[tuple[int, int]] = []
    inside = False
    for part in parts:
        inside = part.kind != "prose" and (inside or part.kind not in ("string", "comment"))
        if inside and runs and runs[-1][1] == part.start:
            runs[-1] = (runs[-1][0], part.end)
        elif inside:
            runs.append((part.start, part.end))
    wanted = [run for run in runs if name and _defines(text[run[0] : run[1]], name)]
    if wanted:
        return wanted[-1]
    return max(runs, key=lambda run: run[1] - run[0]) if runs else (0, len(text))


def _end_of_program(text: str, given: int, problem: Problem) -> int:
    """Where the program ends in a text whose first `given` characters are code of ours."""
    name = _wanted(problem)
    parts, unfinished = layout(text)
    first = {part.name: i for i, part in reversed([*enumerate(parts)]) if part.name}
    seen: set[str] = {"print", "write"}  # names of what writes the output
    complete = bool(name) and given > 0 and _defines(text[:given], name)
    needed = -1  # the last part that defines something which the program uses
    for i, part in enumerate(parts):
        code = text[part.code : part.end]
        if part.start >= given and part.start > 0:
            cut_off = i == len(parts) - 1 and unfinished and part.kind != "definition"
            if _CLOSED.match(text, part.code) or (complete and part.kind == "prose"):
                return part.start
            if complete and i > needed and (_is_beyond(part, code, name) or (name and cut_off)):
                return part.start
        words = names_in(code)
        needed = max([needed, *(first[word] for word in words if word in first)])
        if name:
            complete = complete or _defines(code, name)
        elif part.kind in ("statement", "assignment", "guard"):
            complete = complete or bool(words & seen) or part.kind == "guard"
        seen.add(part.name)
    return len(text)


def _is_beyond(part: CodePart, code: str, name: str | None) -> bool:
    """Whether a statement behind a complete program, which does not need it, is none of its own."""
    if part.kind == "string" or code.startswith("assert"):
        return True
    return name is not None and (part.kind == "definition" or re.match(r"print\b", code) is not None)


def _wanted(problem: Problem) -> str | None:
    """The function or class that the tests use; None where the program as a whole is run."""
    return problem.class_name or problem.fn_name or problem.entry


def _defines(code: str, name: str) -> bool:
    """`defines`, or as a method of `class Solution`, as the site has it whose problems lack a class name."""
    if defines(code, name):
        return True
    method = re.search(rf"^[ \t]+(?:async +)?def +{re.escape(name)}\b", code, re.MULTILINE)
    return method is not None and defines(code, "Solution")


def _missing(starter: str, name: str | None, code: str) -> str:
    """The imports and helper functions of the starter code that a program left out."""
    lacking = []
    for part in layout(starter).parts:
        text = starter[part.code : part.end].rstrip()
        if part.kind == "import":
            lacking += [line for line in text.split("\n") if line.strip() and line not in code]
        elif part.kind == "definition" and part.name != name and not (name and _defines(text, name)):
            lacking += [] if defines(code, part.name) else [text]
    return "".join(f"{text}\n" for text in lacking)


def _holds(starter: str, problem: Problem) -> bool:
    """Whether code already holds the statement, as in HumanEval."""
    return bool(starter.strip()) and problem.prompt.strip() in starter


def _indented(body: str) -> str:
    """A function's body, moved right if it stands at the margin."""
    lines = body.split("\n")
    if all(not line.strip() or line.startswith((" ", "\t")) for line in lines):
        return body
    return "\n".join(f"    {line}" if line.strip() else line for line in lines)


def _check_form(form: PromptForm) -> None:
    if form not in get_args(PromptForm):
        raise ValueError(f"the form of code prompts must be {', '.join(get_args(PromptForm))}; got {form!r}")


def _check(problem: Problem, form: PromptForm) -> None:
    _check_form(form)
    if problem.language not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        raise ValueError(f"problem {problem.id} is in {problem.language!r}; there are prompts for {known}")
