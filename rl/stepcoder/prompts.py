"""How a problem is put to the policy, and the program that its answer amounts to.

    completion   the statement as a docstring, then code that the policy goes on with
    chat         the statement as a user's message; the assistant's answer opens a code block and goes on

The code that is given (the starter code, or with the curriculum the beginning of the canonical solution)
loses its trailing white space: a tokenizer joins line breaks to the indentation after them, so a prompt that
ended in one would end in a token that running text does not have there.
"""

from typing import Any, Literal, NamedTuple

from jaxmoe.tokenizer import encode_chat_prompt, plain_ids
from rl.feedback.problems import Problem

PromptForm = Literal["completion", "chat"]
FENCE = "```"
# What a plain language model writes when the program is over and it goes on to something else.
AFTER_PROGRAM = (f"\n{FENCE}", '\n"""', "\nassert ", "\nif __name__")


class Prompt(NamedTuple):
    """A problem as token ids, and the code with which the program begins."""

    ids: list[int]
    given: str


def make_prompt(
    tokenizer: Any, problem: Problem, prefix: str = "", form: PromptForm = "completion"
) -> Prompt:
    """The prompt for a problem.

    Args:
      prefix: the beginning of the canonical solution; empty for the whole task, which begins with the
        problem's starter code.
    """
    given = (prefix or problem.starter_code).rstrip()
    statement = problem.prompt.strip()
    if form == "chat":
        ids = encode_chat_prompt(tokenizer, [{"role": "user", "content": statement}])
        opening = f"{FENCE}{problem.language}\n{given}".rstrip()
        return Prompt([*ids, *tokenizer(opening, add_special_tokens=False)["input_ids"]], given)
    told = statement in given or problem.prompt.strip() == problem.starter_code.strip()
    text = given if told else f'"""\n{statement}\n"""\n{given}'
    return Prompt(plain_ids(tokenizer, text.rstrip()), given)


def completion(response: str) -> str:
    """The part of a response that belongs to the program: up to the end of the code block, or of the code."""
    ends = [place for stop in AFTER_PROGRAM if (place := response.find(stop)) >= 0]
    return response[: min(ends)] + "\n" if ends else response


class Response(NamedTuple):
    """Sampled tokens as text, and the characters [start, end) of each; special tokens have none."""

    text: str
    offsets: list[tuple[int, int]]


class ResponseDecoder:
    """Turns sampled ids into text with offsets, token by token.

    Sampled ids are not always those that the tokenizer would choose for their text, so offsets cannot come
    from encoding the text again.

    Args:
      context: ids that are decoded with each token, since some tokenizers drop the space before the first.
    """

    def __init__(self, tokenizer: Any, context: int = 4):
        self._tokenizer, self._context = tokenizer, context
        self._special = set(tokenizer.all_special_ids)
        self._pieces: dict[tuple[int, ...], str] = {}

    def _decode(self, ids: tuple[int, ...]) -> str:
        if ids not in self._pieces:
            if len(self._pieces) > 200_000:
                self._pieces.clear()
            self._pieces[ids] = self._tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return self._pieces[ids]

    def __call__(self, prompt_ids: list[int], ids: list[int]) -> Response:
        """Text and offsets of `ids`, as the continuation of a prompt."""
        start = tuple(prompt_ids[-self._context :])
        whole = self._tokenizer.decode(
            [*start, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        text = whole[len(self._decode(start)) :]
        offsets, place = [], 0
        history = [*start]
        for token in ids:
            if token in self._special:
                offsets.append((place, place))
                continue
            before = tuple(history[-self._context :])
            grown = len(self._decode((*before, token))) - len(self._decode(before))
            end = min(place + max(grown, 0), len(text))
            offsets.append((place, end))
            place = end
            history.append(token)
        return Response(text, offsets)
