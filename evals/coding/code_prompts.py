"""How a programming problem is put to a model, and how a program is taken out of what it writes.

    completion   the model goes on with code: the problem's own starter code (HumanEval's prompt); the
                 statement stands before it as a docstring where the code does not hold it. No white space
                 at the end: tokenizers join it to what comes after
    chat         the model is asked for a program and answers with text, code in ``` fences

Not covered: repair of programs that do not compile, conversations of several turns.
"""

import re
from typing import Literal, get_args

from evals.models.text_model import cut_at
from rl.feedback.problems import Problem

CodeForm = Literal["completion", "chat"]
LANGUAGES = {"python": ("python", "py", "python3", ""), "cpp": ("cpp", "c++", "cc", "cxx", "")}
# what begins after a finished function at the margin, when only that function was wanted
AFTER_FUNCTION = (
    "\ndef ",
    "\nclass ",
    "\nif __name__",
    "\nprint(",
    "\nassert ",
    "\n@",
    "\n#",
    "\n```",
    '\n"""',
)
# what begins after a whole program
AFTER_PROGRAM = ("\n```", '\n"""', "\nassert ", "\n<")

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def code_prompt(problem: Problem, form: CodeForm) -> str:
    """What the model is given. Raises: ValueError for an unknown form, or a language without such prompts."""
    _check(problem, form)
    starter, statement = problem.starter_code, problem.prompt.strip()
    if form == "completion":
        told = starter if _holds(starter, problem) else f'"""\n{statement}\n"""\n{starter}'
        return told.rstrip()
    name = {"cpp": "C++"}.get(problem.language, problem.language.capitalize())
    if _holds(starter, problem):
        return (
            f"Complete this {name} code. Answer with the whole program in one code block.\n\n"
            f"```{problem.language}\n{starter.rstrip()}\n```"
        )
    asked = f"Solve this problem in {name}. Answer with the whole program in one code block.\n\n{statement}"
    if problem.kind == "stdin" and not problem.entry:
        asked += "\n\nRead from standard input and write to standard output."
    if starter.strip():
        asked += f"\n\nBegin with:\n```{problem.language}\n{starter.rstrip()}\n```"
    return asked


def stop_strings(problem: Problem, form: CodeForm) -> tuple[str, ...]:
    """What ends a response early: in a completion, what is no part of the solution; nothing in a chat."""
    if form == "chat":
        return ()
    given = problem.starter_code.rstrip()
    last = given.rpartition("\n")[2]
    return AFTER_FUNCTION if last.endswith(":") or last.startswith((" ", "\t")) else AFTER_PROGRAM


def program(problem: Problem, response: str, form: CodeForm) -> str:
    """The whole program that a response amounts to.

    A completion is put behind the starter code. Of a chat answer the code is taken (`extract_code`); if it is
    a function's body alone, or lacks the imports of the starter code, those are put before it.
    """
    _check(problem, form)
    starter = problem.starter_code
    if form == "completion":
        return starter.rstrip() + cut_at(response, stop_strings(problem, form))
    name = problem.class_name or problem.fn_name or problem.entry
    code = extract_code(response, name, problem.language)
    if not name or not starter or problem.language != "python":
        return code
    if not defines(code, name) and defines(starter, name):
        return f"{starter.rstrip()}\n{_indented(code)}"
    imports = re.findall(r"^(?:import|from) [^\n]+", starter, re.MULTILINE)
    missing = [line for line in imports if line not in code]
    return "\n".join([*missing, code])


def extract_code(response: str, name: str | None = None, language: str = "python") -> str:
    """The code of a chat answer.

    Of the fenced blocks in the problem's language (or in none), the last that defines `name`, else the
    longest; a fence that is never closed reaches to the end. Without fences the answer is taken as it is.
    """
    tags = LANGUAGES.get(language, (language, ""))
    blocks = [code for tag, code in _FENCE.findall(response) if tag.lower() in tags]
    if not blocks:
        return response
    wanted = [code for code in blocks if name and defines(code, name)]
    return wanted[-1] if wanted else max(blocks, key=len)


def defines(code: str, name: str) -> bool:
    """Whether Python code defines a function or class of this name at the margin."""
    return re.search(rf"^(?:async )?(?:def|class) +{re.escape(name)}\b", code, re.MULTILINE) is not None


def _check(problem: Problem, form: CodeForm) -> None:
    if form not in get_args(CodeForm):
        raise ValueError(f"the form of code prompts must be completion or chat; got {form!r}")
    if form == "completion" and problem.language != "python":
        raise ValueError(f"problem {problem.id} is in {problem.language}; only chat prompts exist for that")


def _holds(starter: str, problem: Problem) -> bool:
    """Whether the starter code already holds the statement, as in HumanEval."""
    return bool(starter.strip()) and problem.prompt.strip() in starter


def _indented(body: str) -> str:
    """A function's body, moved right if it stands at the margin."""
    lines = body.splitlines()
    if all(not line.strip() or line.startswith((" ", "\t")) for line in lines):
        return body
    return "\n".join(f"    {line}" if line.strip() else line for line in lines)
