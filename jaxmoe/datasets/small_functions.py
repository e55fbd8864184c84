"""Easy code problems in plain English, which a small pretrained language model solves now and then.

A problem asks for one function in a sentence: which values to take (even numbers, words that contain 'a') and
what to make of them (their sum, how many, a list of their squares), a bit of arithmetic, a question with the
answer True or False, or what to answer in which case. All are combinations of such pieces, made from a seed,
with a canonical solution and tests on random inputs. Unlike in `jaxmoe.datasets.programs` the words mean what
they say: what a model has to learn is to do just that.

No two problems are made of the same pieces, so what is held out is never a problem of the other side with
other numbers in it. Nothing is copied from published problem sets.
"""

import itertools
import json
import random
from collections.abc import Callable
from typing import NamedTuple

from jaxmoe.datasets.formats.fields import Row

Value = int | str | list[int] | list[str]
Draw = Callable[[random.Random], list[Value]]


class Piece(NamedTuple):
    """Words and the code that they ask for.

    `{k}` and `{m}` stand for numbers, `{c}` for a letter, `{these}` for the words or code of another piece.
    """

    words: str
    code: str


class Result(NamedTuple):
    """What is made of the values taken.

    Attributes:
      words: in the statement.
      start: what `result` is before the loop.
      step: what each value `x` does to it, a line of code.
    """

    words: str
    start: str
    step: str


class Family(NamedTuple):
    """Loops over one kind of input; each pair of a choice and a result is a problem.

    Attributes:
      name: of the kind.
      given: how a statement begins.
      argument: name of the function's argument.
      values: what the loop runs over.
      choices: which values are taken; the first, without a condition, takes all.
      results: what is made of them.
      draw: makes random arguments.
    """

    name: str
    given: str
    argument: str
    values: str
    choices: tuple[Piece, ...]
    results: tuple[Result, ...]
    draw: Draw


class Function(NamedTuple):
    """A problem before it has tests."""

    kind: str
    statement: str
    starter: str
    program: str
    draw: Draw


_SOME_WORDS = (
    "apple river stone Green light window tree ocean Paper small Music garden salt yellow egg idea under "
    "open Robot cloud bread winter area it on Tea sun dog level noon"
)
_WORDS = tuple(_SOME_WORDS.split())


def _integer(rng: random.Random) -> list[Value]:
    return [rng.randint(-10, 20)]


def _pair(rng: random.Random) -> list[Value]:
    return [rng.randint(-9, 20), rng.randint(-9, 20)]


def _up_to(rng: random.Random) -> list[Value]:
    return [rng.randint(1, 30)]


def _numbers(rng: random.Random) -> list[Value]:
    return [[rng.randint(-12, 24) for _ in range(rng.randint(0, 8))]]


def _text(rng: random.Random) -> list[Value]:
    pieces = [rng.choice((*rng.choices(_WORDS, k=2), str(rng.randint(1, 99)))) for _ in range(4)]
    return [" ".join(pieces[: rng.randint(1, 4)])]


def _words(rng: random.Random) -> list[Value]:
    return [[rng.choice(_WORDS) for _ in range(rng.randint(0, 6))]]


_NUMBERS = (
    Piece("numbers", ""),
    Piece("even numbers", "x % 2 == 0"),
    Piece("odd numbers", "x % 2 == 1"),
    Piece("numbers greater than {k}", "x > {k}"),
    Piece("numbers less than {k}", "x < {k}"),
    Piece("numbers divisible by {k}", "x % {k} == 0"),
    Piece("numbers not divisible by {k}", "x % {k} != 0"),
    Piece("numbers not equal to {k}", "x != {k}"),
    Piece("numbers between {k} and {m}", "{k} <= x <= {m}"),
    Piece("positive numbers", "x > 0"),
    Piece("negative numbers", "x < 0"),
)
_SUM = Result("the sum of the {these}", "0", "result += x")
_COUNT = Result("the number of {these}", "0", "result += 1")
_LIST = Result("a list of the {these}", "[]", "result.append(x)")
_SQUARES = Result("a list of the squares of the {these}", "[]", "result.append(x * x)")
FAMILIES = (
    Family(
        "list",
        "Given a list of integers,",
        "numbers",
        "numbers",
        _NUMBERS,
        (
            _SUM,
            _COUNT,
            _LIST,
            _SQUARES,
            Result("a list of the {these}, each doubled", "[]", "result.append(2 * x)"),
        ),
        _numbers,
    ),
    Family(
        "range",
        "Of the integers from 1 to n,",
        "n",
        "range(1, n + 1)",
        _NUMBERS[:-2],
        (_SUM, _COUNT, _LIST, _SQUARES),
        _up_to,
    ),
    Family(
        "text",
        "Given a string,",
        "text",
        "text",
        (
            Piece("characters", ""),
            Piece("vowels", "x in 'aeiouAEIOU'"),
            Piece("digits", "x.isdigit()"),
            Piece("letters", "x.isalpha()"),
            Piece("uppercase letters", "x.isupper()"),
            Piece("lowercase letters", "x.islower()"),
            Piece("characters equal to '{c}'", "x == '{c}'"),
            Piece("characters other than '{c}'", "x != '{c}'"),
            Piece("characters that are not spaces", "x != ' '"),
        ),
        (_COUNT, _LIST, Result("a string of the {these}", "''", "result += x")),
        _text,
    ),
    Family(
        "words",
        "Given a list of words,",
        "words",
        "words",
        (
            Piece("words", ""),
            Piece("words longer than {k} letters", "len(x) > {k}"),
            Piece("words shorter than {k} letters", "len(x) < {k}"),
            Piece("words that start with '{c}'", "x.startswith('{c}')"),
            Piece("words that end with '{c}'", "x.endswith('{c}')"),
            Piece("words that contain '{c}'", "'{c}' in x"),
            Piece("words that do not contain '{c}'", "'{c}' not in x"),
        ),
        (
            _COUNT,
            _LIST,
            Result("a list of the lengths of the {these}", "[]", "result.append(len(x))"),
            Result("a list of the {these}, in uppercase", "[]", "result.append(x.upper())"),
        ),
        _words,
    ),
)
_TERMS = (
    Piece("a plus b", "a + b"),
    Piece("a minus b", "a - b"),
    Piece("a times b", "a * b"),
    Piece("the larger of a and b", "max(a, b)"),
    Piece("the smaller of a and b", "min(a, b)"),
    Piece("the absolute value of a", "abs(a)"),
    Piece("the square of a", "a * a"),
    Piece("the remainder of a divided by {k}", "a % {k}"),
)
_CHANGES = (
    Piece("return {these}.", "return {these}"),
    Piece("compute {these}, add {m}, and return the result.", "return {these} + {m}"),
    Piece("compute {these}, multiply it by {k}, and return the result.", "return ({these}) * {k}"),
    Piece("compute {these}, subtract {k}, and return the result.", "return {these} - {k}"),
    Piece("return True if {these} is greater than {m}, otherwise False.", "return {these} > {m}"),
)
_QUESTIONS: tuple[tuple[str, str, Draw, tuple[Piece, ...]], ...] = (
    (
        "an integer n",
        "n",
        _integer,
        (
            Piece("n is even", "n % 2 == 0"),
            Piece("n is odd", "n % 2 == 1"),
            Piece("n is negative", "n < 0"),
            Piece("n is divisible by {k}", "n % {k} == 0"),
            Piece("n is greater than {m}", "n > {m}"),
            Piece("n is less than {k}", "n < {k}"),
            Piece("n is between {k} and {m}", "{k} <= n <= {m}"),
        ),
    ),
    (
        "a string text",
        "text",
        lambda rng: [rng.choice(_WORDS)],
        (
            Piece("it starts with '{c}'", "text.startswith('{c}')"),
            Piece("it ends with '{c}'", "text.endswith('{c}')"),
            Piece("it contains the letter '{c}'", "'{c}' in text"),
            Piece("it has more than {k} characters", "len(text) > {k}"),
            Piece("it is the same when reversed", "text == text[::-1]"),
            Piece("all its letters are lowercase", "text.islower()"),
        ),
    ),
    (
        "a list of integers numbers",
        "numbers",
        _numbers,
        (
            Piece("it is empty", "numbers == []"),
            Piece("it has more than {k} elements", "len(numbers) > {k}"),
            Piece("it contains {k}", "{k} in numbers"),
            Piece("its sum is greater than {m}", "sum(numbers) > {m}"),
            Piece("its sum is even", "sum(numbers) % 2 == 0"),
            Piece("it is sorted in ascending order", "numbers == sorted(numbers)"),
        ),
    ),
)
_ANSWERS = (
    Piece("n plus {k}", "n + {k}"),
    Piece("n minus {k}", "n - {k}"),
    Piece("n times {k}", "n * {k}"),
    Piece("n squared", "n * n"),
)
_OTHERWISE = (Piece("n", "n"), Piece("0", "0"))


def functions(rng: random.Random) -> list[Function]:
    """Every combination of pieces once, in random order, each with random numbers and letters in it.

    Args:
      rng: draws the order and what stands for `{k}`, `{m}` and `{c}`.
    Returns: functions without tests.
    """
    made = [
        _loop(family, choice, result, rng)
        for family in FAMILIES
        for choice, result in itertools.product(family.choices, family.results)
    ]
    made += [_arithmetic(term, change, rng) for term, change in itertools.product(_TERMS, _CHANGES)]
    made += [_question(*group[:3], piece, rng) for group in _QUESTIONS for piece in group[3]]
    made += [
        _case(condition, yes, no, rng)
        for condition, yes, no in itertools.product(_QUESTIONS[0][3], _ANSWERS, _OTHERWISE)
    ]
    rng.shuffle(made)
    return made


def _fill(text: str, filling: dict[str, object]) -> str:
    return text.format(**filling)


def _filling(rng: random.Random) -> dict[str, object]:
    small = rng.randint(2, 6)
    return {"k": small, "m": small + rng.randint(3, 9), "c": rng.choice("aeionrst")}


def _loop(family: Family, choice: Piece, result: Result, rng: random.Random) -> Function:
    filling = _filling(rng)
    words = result.words.format(these=_fill(choice.words, filling))
    test = f"        if {_fill(choice.code, filling)}:\n    " if choice.code else ""
    starter = f"def solve({family.argument}):\n"
    program = (
        f"{starter}    result = {result.start}\n    for x in {family.values}:\n"
        f"{test}        {result.step}\n    return result\n"
    )
    return Function(family.name, f"{family.given} return {words}.", starter, program, family.draw)


def _arithmetic(term: Piece, change: Piece, rng: random.Random) -> Function:
    filling = _filling(rng)
    words, code = (
        _fill(whole, filling | {"these": _fill(part, filling)})
        for whole, part in zip(change, term, strict=True)
    )
    starter = "def solve(a, b):\n"
    statement = f"Given two integers a and b, {words}"
    return Function("arithmetic", statement, starter, f"{starter}    {code}\n", _pair)


def _question(given: str, argument: str, draw: Draw, piece: Piece, rng: random.Random) -> Function:
    filling = _filling(rng)
    starter = f"def solve({argument}):\n"
    statement = f"Given {given}, return True if {_fill(piece.words, filling)}, otherwise False."
    program = f"{starter}    if {_fill(piece.code, filling)}:\n        return True\n    return False\n"
    return Function("question", statement, starter, program, draw)


def _case(condition: Piece, yes: Piece, no: Piece, rng: random.Random) -> Function:
    fillings = [_filling(rng) for _ in range(2)]
    when, if_code = (_fill(text, fillings[0]) for text in condition)
    then, then_code = (_fill(text, fillings[1]) for text in yes)
    starter = "def solve(n):\n"
    statement = f"Given an integer n, return {then} if {when}, otherwise return {no.words}."
    program = f"{starter}    if {if_code}:\n        return {then_code}\n    return {no.code}\n"
    return Function("case", statement, starter, program, _integer)


def _tests(
    function: Function, rng: random.Random, count: int
) -> tuple[list[list[Value]], list[Value]] | None:
    """Different random inputs, of each answer in turn, and the answers; None where there are too few."""
    names: dict[str, Callable[..., Value]] = {}
    exec(compile(function.program, "<program>", "exec"), names)
    pool = {json.dumps(arguments): arguments for arguments in (function.draw(rng) for _ in range(16 * count))}
    by_answer: dict[str, list[tuple[list[Value], Value]]] = {}
    for arguments in pool.values():
        answer = names["solve"](*arguments)
        by_answer.setdefault(json.dumps(answer), []).append((arguments, answer))
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_answer.values()))
    chosen = list(itertools.islice(filter(None, turns), count))
    if len(chosen) < count or len(by_answer) < 2:
        return None
    return [arguments for arguments, _ in chosen], [answer for _, answer in chosen]


def problems(count: int = 240, *, tests: int = 8, seed: int = 0) -> list[Row]:
    """So many problems as APPS+ rows, no two of the same pieces.

    Args:
      count: problems wanted.
      tests: for each.
      seed: of the choice, the order, the numbers in statements, and the tests.
    Returns: rows with statement, canonical solution and tests; `difficulty` names the kind of problem.
    Raises: ValueError if there are not so many combinations.
    """
    rng = random.Random(f"small functions {seed}")
    rows: list[Row] = []
    seen: set[str] = set()  # "even" and "divisible by 2" are one program
    for function in functions(rng):
        chosen = _tests(function, rng, tests)
        if chosen is None or len(rows) == count or function.program in seen:
            continue
        seen.add(function.program)
        rows.append(
            {
                "id": f"functions-{seed}-{len(rows):04d}",
                "prompt": function.statement,
                "starter_code": function.starter,
                "canonical_solution": function.program,
                "fn_name": "solve",
                "inputs": chosen[0],
                "outputs": chosen[1],
                "difficulty": function.kind,
                "source": "jaxmoe.datasets.small_functions",
                "license": "Apache-2.0",
            }
        )
    if len(rows) < count:
        raise ValueError(f"there are {len(rows)} small functions with {tests} tests each; got count {count}")
    return rows
