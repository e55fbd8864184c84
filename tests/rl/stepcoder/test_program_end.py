"""Where a response is over: tokens that count, and texts that may still go on."""

import pytest

from rl.feedback.problems import Problem
from rl.feedback.prompts import extract
from rl.stepcoder.program_end import answer_end, answer_tokens, is_over
from rl.stepcoder.prompts import Response

GIVEN = "def f(n):"
PROBLEM = Problem("p", "Double n.", GIVEN, fn_name="f", inputs=[[3]], outputs=[6])
BODY = "\n    return 2 * n\n"


def characters(text: str, *, end_token: bool = False) -> Response:
    """A token a character, and an end token without any."""
    offsets = [(i, i + 1) for i in range(len(text))]
    return Response(text, offsets + [(len(text), len(text))] * end_token)


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        (BODY, len(BODY)),
        (BODY + "```\n", len(BODY) + 4),  # the fence that closes it, and white space
        (BODY + "```\nThat is all.", len(BODY)),
        (BODY + "\nprint(f(3))\n", len(BODY) + 1),
        (BODY + "\nif __name__ == '__main__':\n    print(f(3))\n", None),  # a guard is of the program
    ],
)
def test_tokens_behind_the_program_do_not_count(text: str, counted: int | None):
    end = extract(PROBLEM, text, "completion", given=GIVEN).end
    assert answer_tokens(characters(text), end) == (len(text) if counted is None else counted)


def test_an_end_token_counts_right_behind_the_program_alone():
    assert answer_tokens(characters(BODY, end_token=True), len(BODY)) == len(BODY) + 1
    assert answer_tokens(characters(BODY + "So.", end_token=True), len(BODY)) == len(BODY)


def test_a_token_that_is_half_program_counts_and_so_does_the_first_of_all():
    straddling = Response("x = 1\nSo", [(0, 4), (4, 7), (7, 8)])
    assert answer_tokens(straddling, 6) == 2
    assert answer_tokens(characters("So it is."), 0) == 1


def test_the_fence_is_part_of_the_answer():
    assert answer_end("x = 1\n```\nSo", 6) == 9
    assert answer_end("x = 1\nSo", 6) == 6


@pytest.mark.parametrize(
    ("more", "over"),
    [
        ("", False),
        ("So", False),  # half a line may become anything
        ("So it is.\n", True),
        ("```\n", True),
        ("assert f(1) == 2\n", True),
        ("def g(n):\n", False),  # what follows may use it
        ("class A:\n", False),
        ("if __name__ == '__main__':\n", False),
    ],
)
def test_sampling_stops_only_where_the_program_cannot_go_on(more: str, over: bool):
    assert is_over(PROBLEM, BODY + "\n" + more, "completion", GIVEN) is over


def test_an_answer_in_words_is_never_over_by_itself():
    text = f"Here:\n```python\n{GIVEN}{BODY}```\nThat is all.\n"
    assert not is_over(PROBLEM, text, "chat", "")
    assert is_over(PROBLEM, BODY + "```\nThat is all.\n", "chat", GIVEN)
