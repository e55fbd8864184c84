"""Python programs: what is right, what is compared how, what is computed apart, which text ran."""
# ruff: noqa: E501 (tables of cases read best one a line)

import textwrap
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rl.feedback.language import CompilerFeedback
from rl.feedback.pool import Limits, Pool
from rl.feedback.problems import Problem
from rl.feedback.readers.apps import PREAMBLE
from rl.sandbox.comparison import Compare

CALL = Problem("call", "", fn_name="f", inputs=[[3], [21]], outputs=[6, 42])
STDIN = Problem("stdin", "", inputs=["3\n", "21\n"], outputs=["6\n", "42\n"])


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(workers=1, limits=Limits(time_s=3.0, output_bytes=1 << 17)) as pool:
        yield pool


def returning(expected: object, *, given: object = 0, **more: object) -> Problem:
    return replace(CALL, inputs=[[given]], outputs=[expected], **more)


def asserting(*tests: str, setup: str = "") -> Problem:
    return Problem("assert", "", fn_name="f", asserts=tests, setup=setup, compare="python")


# name: (problem, program); each passes
RIGHT: dict[str, tuple[Problem, str]] = {
    "True for 1": (returning(1), "def f(n): return True"),
    "0.1 + 0.2 for 0.3": (returning(0.3), "def f(n): return 0.1 + 0.2"),
    "a tuple for a list": (returning([1, [2]]), "def f(n): return (1, (2,))"),
    "a namedtuple for a list": (
        returning([1, 2]),
        "from collections import namedtuple\nT = namedtuple('T', 'a b')\ndef f(n): return T(1, 2)",
    ),
    "an array for a list": (returning([[1, 2]]), "import numpy\ndef f(n): return numpy.array([[1, 2]])"),
    "an array of no dimension": (returning(2.5), "import numpy\ndef f(n): return numpy.array(2.5)"),
    "a range for a list": (returning([0, 1]), "def f(n): return range(2)"),
    "a generator for a list": (returning([0, 1]), "def f(n):\n    yield 0\n    yield 1"),
    "keys for a list": (returning(["a"]), "def f(n): return {'a': 1}.keys()"),
    "a Decimal": (returning(6), "from decimal import Decimal\ndef f(n): return Decimal(6)"),
    "a Fraction": (returning(0.5), "from fractions import Fraction\ndef f(n): return Fraction(1, 2)"),
    "numbers as keys": (returning({"1": 2}), "def f(n): return {1: 2}"),
    "a wrapped value": (returning([6]), "def f(n): return 6"),
    "6,000 digits": (returning(10**6000), "def f(n): return 10 ** 6000"),
    "6,000 digits given": (returning(6000, given=10**6000), "def f(n): return len(str(n)) - 1"),
    "a large answer": (returning(list(range(9000))), "def f(n): return list(range(9000))"),
    "6,000 digits printed": (
        replace(STDIN, inputs=["1\n"], outputs=["1" + "0" * 6000 + "\n"]),
        "print(10 ** 6000)",
    ),
    "a long text printed": (
        replace(STDIN, inputs=["1\n"], outputs=["1.5 \n" * 16000]),
        "print('1.50\\n' * 15999 + '1.5')",
    ),
    "equality": (asserting("assert f(2) == 4"), "def f(n): return 4"),
    "a Decimal asserted": (
        asserting("assert f(2) == 4"),
        "from decimal import Decimal\ndef f(n): return Decimal(4)",
    ),
    "a Fraction asserted": (
        asserting("assert f(2) == 0.5"),
        "from fractions import Fraction\ndef f(n): return Fraction(1, 2)",
    ),
    "a namedtuple asserted": (
        asserting("assert f(2) == (1, 2)"),
        "from collections import namedtuple\nP = namedtuple('P', 'a b')\ndef f(n): return P(1, 2)",
    ),
    "an enum asserted": (
        asserting("assert f(2) == 1"),
        "import enum\nclass E(enum.IntEnum):\n    A = 1\ndef f(n): return E.A",
    ),
    "numbers as keys asserted": (
        asserting("assert f(2) == {1: None, (1, 2): 'x'}"),
        "def f(n): return {1: None, (1, 2): 'x'}",
    ),
    "a map asserted": (
        asserting("assert set(f([2, 1])) == set([1, 2])", "assert sorted(f(['3'])) == [3]"),
        "def f(x): return map(int, x)",
    ),
    "values asserted": (
        asserting("assert list(f({1: 2})) == [2]", "assert len(f({1: 2})) == 1"),
        "def f(x): return x.values()",
    ),
    "an array asserted": (
        asserting("assert f(2) == [2, 2]"),
        "import numpy\ndef f(n): return numpy.full(n, n)",
    ),
    "a power": (asserting("assert f(2) == 10 ** 5000"), "def f(n): return 10 ** 5000"),
    "a long literal": (asserting("assert f(2) == 1" + "0" * 5000), "def f(n): return 10 ** 5000"),
    "a library's answer": (asserting("assert f(3) == math.factorial(3)"), "def f(n): return 6"),
    "a method": (asserting("assert f(3).startswith('ab')"), "def f(n): return 'abc'"),
    "a comprehension of calls": (
        asserting("assert [f(i) for i in range(3)] == [0, 2, 4]"),
        "def f(n): return 2 * n",
    ),
    "a loop of calls": (
        asserting("for i in range(50):\n    assert f(i, k=[i]) == 2 * i"),
        "def f(n, k): return n + k[0]",
    ),
    "tests of all kinds": (
        asserting(
            "assert f(1) == 2",
            "for i in (2, 3):\n    assert f(i) == 2 * i",
            "assert f(4) < 9",
            "assert f(5) == 10",
        ),
        "def f(n): return 2 * n",
    ),
    "an exception that is expected": (
        asserting(
            "try:\n    f(-1)\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'no'"
        ),
        "def f(n): raise ValueError('no')",
    ),
    "a setup that needs the program": (
        asserting("assert f(root) == 7", setup="root = Node(7)"),
        "class Node:\n    def __init__(self, n): self.n = n\ndef f(node): return node.n",
    ),
    "a class": (
        asserting("assert Solution().f(3) == 6", "assert Box(2).f(1).n == 3"),
        "class Solution:\n    def f(self, n): return n * 2\nclass Box:\n    def __init__(self, n): self.n = n\n    def f(self, m): return Box(self.n + m)",
    ),
    "a helper of the setup": (
        asserting("assert close(f(2), 4)", setup="def close(a, b): return abs(a - b) < 0.1"),
        "def f(n): return 4.01",
    ),
    "APPS's imports": (
        replace(CALL, preamble=PREAMBLE),
        "class Solution:\n    def f(self, n: List[int]) -> int:\n        return int(math.fsum([n, n])) + len(Counter()) + int(np.zeros(1)[0])",
    ),
    "APPS's imports on standard input": (
        replace(STDIN, preamble=PREAMBLE),
        "print(floor(sqrt(int(input()) ** 2 * 4)))",
    ),
    "a byte order mark before standard input": (STDIN, "\ufeffprint(int(input()) * 2)"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_programs_pass(name: str, pool: Pool):
    problem, program = RIGHT[name]
    feedback = pool.grade(problem, program)
    assert feedback.verdict == "pass", feedback


FRAME = """
import os, struct
def frame(number, body):
    data = memoryview(struct.pack("=IcI", len(body), b"V", number) + body)
    while data: data = data[os.write(3, data):]
"""
FORGED = FRAME + "def f(*a):\n    for n in range(3): frame(n, b'@')\n    os._exit(0)\n"
# name: (problem, program); each is known not to be right
WRONG: dict[str, tuple[Problem, str]] = {
    "a set for a list": (returning([1, 2]), "def f(n): return {1, 2}"),
    "a generator asserted to be a list": (
        asserting("assert f(2) == [0, 1]"),
        "def f(n): return (i for i in range(n))",
    ),
    "a tuple asserted to be a list": (asserting("assert f(2) == [0, 1]"), "def f(n): return 0, 1"),
    "a large wrong answer": (returning(list(range(9000))), "def f(n): return list(range(9000))[::-1]"),
    "a library that the program changes": (
        asserting("assert f(3) == math.factorial(5)"),
        "import math\nmath.factorial = lambda n: 0\ndef f(n): return 0",
    ),
    "a method forged": (asserting("assert f(3).startswith('ab')"), FORGED.replace("@", "[true]")),
    "a comprehension forged": (
        asserting("assert f(3) == [i * 2 for i in range(3)]"),
        FORGED.replace("@", "[true]"),
    ),
    "a membership forged": (
        asserting("assert all(x in f(3) for x in [1, 2])"),
        FORGED.replace("@", "[true]"),
    ),
    "a lambda forged": (asserting("assert (lambda r: r == 5)(f(1))"), FORGED.replace("@", "[true]")),
    "a loop forged": (asserting("for i in range(3):\n    assert f(i) == 2 * i"), FORGED.replace("@", "null")),
    "a format of a billion blanks": (asserting("assert f(1) % 5 == 0"), "def f(n): return '%999999999d'"),
    "a power without end": (
        asserting("assert f(1) ** 3 == 0", "assert 2 ** f(1) == 0"),
        "def f(n): return 10 ** 9",
    ),
    "a value equal to all": (
        asserting("assert f(1) == 5"),
        "class A(int):\n    __eq__ = lambda s, o: True\n    __hash__ = int.__hash__\ndef f(n): return A(0)",
    ),
    "an object equal to all": (
        asserting("assert f(1) == 5", "assert f(1) in [5]"),
        "class A:\n    __eq__ = lambda s, o: True\ndef f(n): return A()",
    ),
    "unequal to all": (asserting("assert f(1) != 5"), "def f(n): return object()"),
    "a check that the program makes": (
        asserting(
            "check(candidate)",
            setup="def check(candidate):\n    for i in range(3):\n        assert candidate(i) == i",
        ),
        "check = lambda c: None\ndef f(n): return 0",
    ),
    "a value that lies in its place": (
        asserting("assert f(1) == [1, 2]"),
        "class L(list):\n    __iter__ = lambda s: iter([1, 2])\ndef f(n): return L([3])",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_programs_do_not_pass(name: str, pool: Pool):
    problem, program = WRONG[name]
    feedback = pool.grade(problem, program)
    assert feedback.verdict in ("fail", "runtime_error", "timeout"), feedback
    assert feedback.passed == 0


def test_comparisons_of_the_programs_answers_are_weak(pool: Pool):
    feedback = pool.grade(asserting("assert f(2) == f(2)"), "def f(n): return 0")
    assert (feedback.verdict, feedback.weak) == ("pass", True)
    assert not pool.grade(asserting("assert f(2) == 0"), "def f(n): return 0").weak


def test_what_the_program_raises_is_its_own_in_every_kind_of_test(pool: Pool):
    problem = asserting(
        "assert f(1) == 1", "assert f(1) < 1", "for i in (1, 2):\n    f(i)", "assert f(3) == 3"
    )
    feedback = pool.grade(problem, "def f(n):\n    return n if n == 3 else n / 0")
    assert [test.verdict for test in feedback.tests] == ["runtime_error"] * 3 + ["pass"]
    assert {test.message for test in feedback.tests[:3]} == {"ZeroDivisionError: division by zero (line 2)"}


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9) or os.abort()"])
def test_a_process_that_ends_in_a_call_costs_its_own_test_alone(end: str, pool: Pool):
    problem = asserting("assert f(1) == 1", "for i in (2, 3):\n    assert f(i) == i", "assert f(4) == 4")
    program = f"import os\ndef f(n):\n    if n == 3: {end}\n    return n"
    feedback = pool.grade(problem, program)
    assert [test.verdict for test in feedback.tests] == ["pass", "runtime_error", "pass"]


def test_a_faulty_test_is_no_fault_of_the_program(pool: Pool):
    with pytest.raises(ValueError, match="the tests of problem assert do not compile: SyntaxError"):
        pool.grade(asserting("assert f(2) == 4", setup="import ("), "def f(n): return 4")
    feedback = pool.grade(asserting("for"), "def f(n): return 4")
    assert "the problem's own test failed: SyntaxError" in feedback.message


# compare: (of 2.0 for 2, of 0.30000001 for 0.3, of "2.0" for "2")
RULES: dict[Compare, tuple[bool, bool, bool]] = {
    "strict": (False, True, False),
    "python": (True, False, False),
    "numeric": (True, True, True),
}


def passes(feedback: CompilerFeedback) -> bool:
    return feedback.verdict == "pass"


@pytest.mark.parametrize("compare", RULES)
def test_comparison_by_problem_and_for_all(compare: Compare, pool: Pool):
    cases = [
        (returning(2), "def f(n): return 2.0"),
        (returning(0.3), "def f(n): return 0.3 + 1e-8"),
        (replace(STDIN, inputs=[""], outputs=["2\n"]), "print(2.0)"),
    ]
    by_problem = [passes(pool.grade(replace(p, compare=compare), program)) for p, program in cases]
    assert tuple(by_problem) == RULES[compare]
    with Pool(1, compare=compare) as other:
        assert tuple(passes(f) for f in other.grade_many(cases)) == RULES[compare]


def test_the_tolerance_is_a_setting_and_a_problem_has_its_own():
    case = (returning(3.14159), "def f(n): return 3.14")
    with Pool(1, tolerance=0.01) as lenient:
        assert passes(lenient.grade(*case))
        assert not passes(lenient.grade(replace(case[0], tolerance=1e-9), case[1]))
    with Pool(1) as strict:
        assert not passes(strict.grade(*case))
        assert passes(strict.grade(replace(case[0], tolerance=0.01), case[1]))


CHECKER = """
def check(given, answer, expected):
    numbers = [int(word) for word in answer.split()] if isinstance(answer, str) else answer
    goal = int(given) if isinstance(given, str) else given[0]
    return len(numbers) == 2 and sum(numbers) == goal
"""


def test_a_problems_own_checker_decides(pool: Pool):
    call = returning([1, 9], given=10, checker=CHECKER)
    stdin = replace(STDIN, inputs=["10\n"], outputs=["1 9\n"], checker=CHECKER)
    assert passes(pool.grade(call, "def f(n): return [4, 6]"))
    assert not passes(pool.grade(call, "def f(n): return [4, 7]"))
    assert passes(pool.grade(stdin, "print(3, 7)"))
    assert not passes(pool.grade(stdin, "print(3)"))
    spoiled = pool.grade(stdin, "print('x')")
    assert "the problem's own test failed: ValueError" in spoiled.message
    hangs = replace(call, checker="def check(given, answer, expected):\n    while answer: pass")
    with Pool(1, Limits(time_s=0.3, compile_s=0.5)) as quick:
        assert quick.grade(hangs, "def f(n): return 1").verdict == "timeout"
        assert passes(quick.grade(CALL, "def f(n): return n * 2"))


def test_packages_are_those_that_are_named():
    program = "import numpy\ndef f(n): return n * 2"
    with Pool(1, packages=()) as bare:
        assert "No module named 'numpy'" in bare.grade(CALL, program).message
    with Pool(1, packages=("numpy", "scipy")) as more:
        assert passes(
            more.grade(CALL, "import scipy.special\ndef f(n): return n * int(scipy.special.factorial(2))")
        )
    with pytest.raises(ValueError, match="may import 'nimpy', but it is not installed"):
        Pool(1, packages=("nimpy",))


def executed(feedback: CompilerFeedback, program: str) -> str:
    assert feedback.executed is not None
    return "".join(program[start:end] for start, end in feedback.executed.spans)


def test_a_program_cannot_say_that_it_ran(pool: Pool):
    program = textwrap.dedent("""\
        import mmap, sys, types
        def shared(code):
            for c in code.co_consts:
                if type(c) is mmap.mmap: return c
                if type(c) is types.CodeType and shared(c): return shared(c)
        def f(n):
            flags = shared(sys._getframe().f_code)
            if flags: flags[:] = bytes([@]) * len(flags)
            return 7
        def never():
            return 'UNREACHED CODE'
        """)
    for value in ("1", "0", "255"):
        source = program.replace("@", value)
        feedback = pool.grade(CALL, source)
        assert feedback.verdict == "fail"
        assert "UNREACHED" not in executed(feedback, source)
    honest = "def f(n):\n    return 2 * n\ndef never():\n    return 'UNREACHED CODE'\n"
    assert "return 2 * n" in executed(pool.grade(CALL, honest), honest)
    assert "UNREACHED" not in executed(pool.grade(CALL, honest), honest)


def test_text_that_ran_is_joined_over_the_processes_of_standard_input(pool: Pool):
    program = "n = int(input())\nif n == 3:\n    print(6)\nelif n == 4:\n    print(8)\nelse:\n    print(42)\n"
    feedback = pool.grade(STDIN, program)
    assert feedback.verdict == "pass"
    assert executed(feedback, program) == program.replace("    print(8)\n", "")


def test_positions_are_those_of_the_text_with_its_byte_order_mark(pool: Pool):
    program = "\ufeffdef f(n):\n    if n == 0:\n        return 1\n    return 2 * n\n"
    assert executed(pool.grade(CALL, program), program) == program.replace("        return 1\n", "")
