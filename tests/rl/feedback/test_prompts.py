"""How problems are put, and which program an answer amounts to: in every form, cut short, with words around it."""
# ruff: noqa: E501 (tables of cases read best one a line)

import time
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.feedback.code_text import CodeText
from rl.feedback.languages import LANGUAGES, LanguageEntry
from rl.feedback.problems import Problem
from rl.feedback.prompts import PromptForm, code_prompt, extract, stop_strings
from rl.feedback.python_text import layout
from rl.feedback.readers import load_problems

HEAD = 'from math import sqrt\n\n\ndef area(r):\n    """Area of a square of side r."""\n'
HUMANEVAL = Problem("h", HEAD, HEAD, fn_name="area", asserts=("assert area(2) == 4",))
MBPP = Problem("m", "Write a function add.", fn_name="add", asserts=("assert add(1, 2) == 3",))
CALL = Problem("c", "Double x.", "def double(x):", fn_name="double", inputs=[[1]], outputs=[2])
STDIN = Problem("s", "Echo.", "", inputs=["x\n"], outputs=["x\n"])
ENTRY = Problem("e", "Echo.", "def main():", inputs=["x\n"], outputs=["x\n"])
CPP = replace(STDIN, language="cpp")
LEETCODE = Problem(
    "l",
    "Double.",
    "class Solution:\n    def f(self, n: int) -> int:\n        ",
    fn_name="f",
    inputs=[[1]],
    outputs=[2],
)
FORMS: tuple[PromptForm, ...] = ("completion", "instruction", "chat")


def test_completions_go_on_with_the_starter_code():
    # a prompt that ended in a line break would end in a token that running text does not have there
    assert code_prompt(HUMANEVAL, "completion") == (HEAD.rstrip(), "", HEAD.rstrip())
    assert code_prompt(CALL, "completion").text == '"""\nDouble x.\n"""\ndef double(x):'
    assert code_prompt(CPP, "completion").text == "/*\nEcho.\n*/"


def test_a_statement_cannot_end_its_own_docstring():
    for statement in ('Print """ once.', "Print \"\"\" and '''.", 'Print "'):
        text = code_prompt(replace(CALL, prompt=statement), "completion").text
        assert [part.kind for part in layout(text).parts] == ["string", "definition"]
    assert code_prompt(replace(CPP, prompt="x */ int"), "completion").text.count("*/") == 1


def test_questions_show_statement_starter_and_how_input_comes():
    for form in ("instruction", "chat"):
        assert HEAD.rstrip() in code_prompt(HUMANEVAL, form).text
        assert "standard input" in code_prompt(STDIN, form).text
        assert "standard input" not in code_prompt(CALL, form).text
        assert "standard input" not in code_prompt(ENTRY, form).text
        assert "def double(x):" in code_prompt(CALL, form).text
        assert code_prompt(CALL, form)[1:] == ("", "")
    assert "in C++" in code_prompt(CPP, "chat").text


def test_the_beginning_of_a_solution_is_given():
    prefix = "def double(x):\n    if x:\n        "
    assert code_prompt(CALL, "completion", prefix).given == prefix.rstrip()
    begun = code_prompt(CALL, "chat", prefix)
    assert begun.text == code_prompt(CALL, "chat").text
    assert begun.opening == f"```python\n{prefix.rstrip()}"
    assert begun.given == prefix.rstrip()


def test_unknown_forms_and_languages_are_refused():
    with pytest.raises(ValueError, match="completion, instruction, chat; got 'base'"):
        code_prompt(CALL, "base")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="problem c is in 'cobol'; there are prompts for python, cpp"):
        code_prompt(replace(CALL, language="cobol"), "chat")
    with pytest.raises(ValueError, match="got 'base'"):
        stop_strings("base")  # pyright: ignore[reportArgumentType]


BODY = "\n    return r * r\n"
GUARD = '\nif __name__ == "__main__":\n    main()\n'
MAIN = "import sys\ndef main():\n    print(sys.stdin.readline())\n"
MARGIN_QUOTES = 'def main():\n    s = """\nx\n"""\n    print(input())\nmain()\n'
# name: (problem, response, what of it is the program)
COMPLETIONS: dict[str, tuple[Problem, str, str]] = {
    "as it is": (HUMANEVAL, BODY, BODY),
    "a test printed": (HUMANEVAL, BODY + "\nprint(area(3))\n", BODY + "\n"),
    "the next task": (HUMANEVAL, BODY + "\n\ndef perimeter(r):\n    return 4 * r\n", BODY + "\n\n"),
    "the next task, decorated and commented": (
        HUMANEVAL,
        BODY + "\n# Next\n@cache\ndef p(r):\n    return 4\n",
        BODY + "\n",
    ),
    "the next class": (HUMANEVAL, BODY + "class P:\n    x = 1\n", BODY),
    "a helper after its use": (
        HUMANEVAL,
        "\n    return sq(r)\n\ndef other(): ...\n\ndef sq(r):\n    return r * r\n",
        "\n    return sq(r)\n\ndef other(): ...\n\ndef sq(r):\n    return r * r\n",
    ),
    "a fence and words": (HUMANEVAL, BODY + "```\nThat's all.", BODY),
    "words": (HUMANEVAL, BODY + "\nThis returns the area.\n", BODY + "\n"),
    "a tag": (HUMANEVAL, BODY + "</code>\n", BODY),
    "an assert": (CALL, "\n    return 2 * x\n\nassert double(1) == 2\n", "\n    return 2 * x\n\n"),
    "a docstring of its own": (
        CALL,
        '\n    """Twice x.\n\n"""\n    return 2 * x\n',
        '\n    """Twice x.\n\n"""\n    return 2 * x\n',
    ),
    "another task's docstring": (
        CALL,
        '\n    return 2 * x\n"""\nTriple x.\n"""\ndef triple(x):\n',
        "\n    return 2 * x\n",
    ),
    "a comment at the margin inside": (
        CALL,
        "\n# twice\n    return 2 * x\n",
        "\n# twice\n    return 2 * x\n",
    ),
    "on the same line": (CALL, " return 2 * x\n", " return 2 * x\n"),
    "all again": (CALL, "\ndef double(x):\n    return 2 * x\n", "\ndef double(x):\n    return 2 * x\n"),
    "helper first": (
        MBPP,
        "\ndef one():\n    return 1\n\ndef add(a, b):\n    return a + b\n\nassert add(1, 2) == 3\n",
        "\ndef one():\n    return 1\n\ndef add(a, b):\n    return a + b\n\n",
    ),
    "a guard that was cut off": (
        MBPP,
        "\nadd = lambda a, b: a + b\nif __name__ == '__main__':\n    print(add(",
        "\nadd = lambda a, b: a + b\n",
    ),
    "a main guard": (STDIN, MAIN + GUARD, MAIN + GUARD),
    "a main guard, and on": (STDIN, MAIN + GUARD + '"""\nNext.\n"""\ndef', MAIN + GUARD),
    "the entry's guard": (ENTRY, "\n    print(input())\n" + GUARD, "\n    print(input())\n" + GUARD),
    "quotes that close at the margin": (STDIN, MARGIN_QUOTES, MARGIN_QUOTES),
    "a module's docstring": (STDIN, '"""Echo."""\nprint(input())\n', '"""Echo."""\nprint(input())\n'),
    "a comment in quotes": (
        STDIN,
        'import sys\nsys.setrecursionlimit(10**6)\n"""\nIdea\n"""\nprint(input())\n',
        'import sys\nsys.setrecursionlimit(10**6)\n"""\nIdea\n"""\nprint(input())\n',
    ),
    "a fence inside a string": (
        STDIN,
        'print("""\n```\n""")\nprint(1)\n```\n',
        'print("""\n```\n""")\nprint(1)\n',
    ),
    "Python 2": (STDIN, "n = input()\nprint n\n", "n = input()\nprint n\n"),
    "words before there is a program": (
        STDIN,
        "n = input()\nthis is no code\nprint(n)\n",
        "n = input()\nthis is no code\nprint(n)\n",
    ),
    "only a block": (STDIN, "Here is the code:\n```python\nprint(input())\n```\nDone", "print(input())\n"),
    "C++": (CPP, "int main() {}\n```\n", "int main() {}\n"),
    "nothing": (HUMANEVAL, "", ""),
}


@pytest.mark.parametrize("name", COMPLETIONS)
def test_completions(name: str):
    problem, response, wanted = COMPLETIONS[name]
    got = extract(problem, response, "completion")
    assert response[got.start : got.end] == wanted
    assert got.shift is not None
    assert got.program[got.start + got.shift : got.end + got.shift] == wanted
    assert got.end + got.shift == len(got.program)
    if name not in ("all again", "only a block"):
        assert got.program == code_prompt(problem, "completion").given + wanted


FENCED = """Sure:
```python
def area(r):
    return r * r
```
For example:
```
area(2)  # a longer line, of no use at all here
```"""
TWICE = "```python\ndef add(a, b):\n    return 1\n```\nRather:\n```python\ndef add(a, b):\n    return 2\n```"
# name: (problem, response, program)
ANSWERS: dict[str, tuple[Problem, str, str]] = {
    "the block with the function": (
        HUMANEVAL,
        FENCED,
        "from math import sqrt\ndef area(r):\n    return r * r\n",
    ),
    "the longest without a name": (STDIN, FENCED, "area(2)  # a longer line, of no use at all here\n"),
    "a block that does not end": (STDIN, "```py\nx = 1", "x = 1"),
    "no fences": (STDIN, "x = 1", "x = 1"),
    "the problem's language": (STDIN, "```bash\nls --a-long-option\n```\n```python\ny\n```", "y\n"),
    "C++": (CPP, "```c++\nint x;\n```\n```python\nlonger than it\n```", "int x;\n"),
    "a later correction": (MBPP, TWICE, "def add(a, b):\n    return 2\n"),
    "a correction that is cut off": (
        MBPP,
        "```python\ndef add(a, b):\n    return a + b\n```\nOr, longer:\n```python\ndef add(a, b):\n    retu",
        "def add(a, b):\n    return a + b\n",
    ),
    "tildes": (STDIN, "So:\n~~~python\nprint(1)\n~~~\n", "print(1)\n"),
    "in a list": (
        STDIN,
        "1. So:\n   ```python\n   for x in y:\n       print(x)\n   ```\n",
        "for x in y:\n    print(x)\n",
    ),
    "a body alone": (HUMANEVAL, "```python\nreturn sqrt(r) ** 4\n```", HEAD + "    return sqrt(r) ** 4\n"),
    "an indented body": (CALL, "```python\n    return x * 2\n```", "def double(x):\n    return x * 2\n"),
    "words around": (
        MBPP,
        "Here's the code (see below):\n\ndef add(a, b):\n    return a + b\n\nIt's O(1), as you'd expect.",
        "def add(a, b):\n    return a + b\n\n",
    ),
    "a guard": (STDIN, f"```python\n{MAIN}{GUARD}```", MAIN + GUARD),
    "a method": (
        LEETCODE,
        "```python\nclass Solution:\n    def f(self, n):\n        return 2 * n\n```",
        "class Solution:\n    def f(self, n):\n        return 2 * n\n",
    ),
    "a fence behind it only": (
        STDIN,
        "print(input())\n```\nwhich prints what it reads, whatever that is",
        "print(input())\n",
    ),
    "only words": (STDIN, "I cannot do that.", "I cannot do that."),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("form", ["instruction", "chat"])
def test_answers_in_words(name: str, form: PromptForm):
    problem, response, wanted = ANSWERS[name]
    got = extract(problem, response, form)
    assert got.program == wanted
    verbatim = name not in ("in a list", "a body alone")
    assert (got.shift is not None) is verbatim
    if got.shift is not None:
        assert got.program.endswith(response[got.start : got.end])
        assert got.program[got.start + got.shift : got.end + got.shift] == response[got.start : got.end]


def test_helpers_of_the_starter_code_are_not_lost():
    starter = "import math\n\ndef half(x):\n    return x / 2\n\ndef twice(x):\n"
    problem = Problem("t", "Double.", starter, fn_name="twice", asserts=("assert twice(half(2)) == 2",))
    got = extract(problem, "```python\ndef twice(x):\n    return 2 * x\n```", "chat")
    assert got.program == "import math\ndef half(x):\n    return x / 2\ndef twice(x):\n    return 2 * x\n"
    assert (
        extract(problem, f"```python\n{starter}    return 2 * x\n```", "chat").program
        == f"{starter}    return 2 * x\n"
    )


def test_code_that_was_begun_is_gone_on_with_in_every_form():
    given = "def double(x):\n    if x:"
    for form in FORMS:
        got = extract(CALL, "\n        return 2 * x\n    return 0\n```\nSo it is.", form, given=given)
        assert got.program == f"{given}\n        return 2 * x\n    return 0\n"
        assert (got.start, got.shift) == (0, len(given))


@given(
    st.lists(
        st.sampled_from(
            [
                *"ab(\"'`\n #:=[]{}\\",
                "def f():",
                "import re",
                "```",
                '"""',
                "\n    ",
                "x = 1",
                "print(1)",
                "class A:",
            ]
        ),
        max_size=30,
    )
)
def test_any_text_is_taken_apart(pieces: list[str]):
    response = "".join(pieces)
    for problem, form in product((HUMANEVAL, MBPP, CALL, STDIN, CPP), FORMS):
        got = extract(problem, response, form)
        assert 0 <= got.start <= got.end <= len(response)
        if got.shift is not None:
            assert got.program[got.start + got.shift : got.end + got.shift] == response[got.start : got.end]
    assert "".join(response[p.start : p.end] for p in layout(response).parts) == response


HOSTILE = (
    "(" * 200_000,
    '"""' * 70_000,
    "'\\" * 100_000,
    "```\n" * 50_000,
    "a = " * 50_000,
    "a," * 100_000,
    "@\n" * 100_000,
    "def f(\n" * 30_000,
    "#\n" * 100_000,
    " \n" * 100_000,
    "x[" * 100_000,
    "if x " * 40_000,
    "~~~\n```\n" * 25_000,
    "async " * 30_000,
    "def a(): b\n" * 20_000,
)


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_time_is_linear_in_the_length(number: int):
    """Five times the text may take ten times as long (a busy machine), not 25, at one of four tries."""

    def seconds(text: str) -> float:
        began = time.process_time()
        for problem in (MBPP, STDIN, HUMANEVAL):
            extract(problem, text, "completion")
            extract(problem, text, "chat")
        return time.process_time() - began

    text = HOSTILE[number]
    short = text[: len(text) // 5]
    assert any(seconds(text) < max(10 * seconds(short), 0.5) for _ in range(4))


def test_published_solutions_are_taken_whole(shared):
    """Of 1,586 solutions none is cut: behind a fence, between words, or as a completion that goes on."""
    from rl.feedback.pool import Limits, Pool

    pairs = []
    for name in ("apps_plus_format.json", "mbpp.jsonl", "HumanEval.jsonl.gz"):
        for problem in load_problems(shared / "data/code" / name, bad="skip"):
            code, start = problem.canonical_solution, problem.starter_code.rstrip()
            rest = code[len(start) :] if code.startswith(start) else f"\n{code}"
            for form, response in (
                ("chat", f"So:\n```python\n{code}\n```\nDone."),
                ("chat", f"Here it is.\n\n{code}\n\nIt's right."),
                ("completion", rest),
                ("completion", f"{rest}\n```\nThat's all."),
                ("completion", f'{rest}\n"""\nNext\n"""\ndef following('),
            ):
                program = extract(problem, response, form).program
                if program.strip() != code.strip():
                    pairs.append((problem, program))
    with Pool(2, Limits(time_s=5), trace=False) as pool:
        feedbacks = pool.grade_many(pairs)
    assert [
        p.id for (p, _), feedback in zip(pairs, feedbacks, strict=True) if feedback.verdict != "pass"
    ] == []


def test_one_line_of_the_registry_adds_a_language(monkeypatch):
    """Fences tell its code from prose; a class of its own may know better."""
    text = CodeText("Lua", ("lua", ""), comment=lambda statement: f"--[[\n{statement}\n]]")
    entry = LanguageEntry(lambda packages: pytest.fail("prompts run nothing"), text)
    monkeypatch.setitem(LANGUAGES, "lua", entry)
    problem = Problem("double", "Double n.", "local n =", inputs=["3"], outputs=["6"], language="lua")
    assert code_prompt(problem, "completion").text == "--[[\nDouble n.\n]]\nlocal n ="
    asked = code_prompt(problem, "chat").text
    assert "in Lua" in asked
    assert "```lua\nlocal n =\n```" in asked
    going_on = " io.read()\nprint(2 * n)\n```\nThat is all."
    assert extract(problem, going_on, "completion").program == "local n = io.read()\nprint(2 * n)\n"
    answer = "So:\n\n```python\nno\n```\n\n```lua\nlocal n = io.read()\nprint(2 * n)\n```\nDone."
    assert extract(problem, answer, "chat").program == "local n = io.read()\nprint(2 * n)\n"
    assert extract(problem, "print(2 * io.read())", "chat").program == "print(2 * io.read())"
