"""Problems as token ids, and sampled ids as text with the characters of each token.

For what a prompt says, and which program an answer amounts to, see rl.feedback.prompts.
"""

from typing import TYPE_CHECKING, NamedTuple

from jaxmoe.text.decoding import decode
from jaxmoe.tokenizer import encode_chat_prompt, encode_prompt, plain_ids
from rl.feedback.problems import Problem
from rl.feedback.prompts import PromptForm, code_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Prompt(NamedTuple):
    """A problem as token ids, and the code with which the program begins."""

    ids: list[int]
    given: str


def make_prompt(
    tokenizer: "PreTrainedTokenizerBase", problem: Problem, prefix: str = "", form: PromptForm = "completion"
) -> Prompt:
    """The prompt for a problem.

    Args:
      tokenizer: of the policy.
      prefix: the beginning of the canonical solution; empty for the whole task.
      form: how the problem is put, see rl.feedback.prompts.
    Returns: token ids, and the code with which the program begins.
    Raises: ValueError for chat without a chat template.
    """
    prompt = code_prompt(problem, form, prefix)
    if form == "completion":
        return Prompt(plain_ids(tokenizer, prompt.text), prompt.given)
    if form == "chat":
        ids = encode_chat_prompt(tokenizer, [{"role": "user", "content": prompt.text}])
    else:
        ids = encode_prompt(tokenizer, prompt.text)
    opening = tokenizer(prompt.opening, add_special_tokens=False)["input_ids"] if prompt.opening else []
    return Prompt([*ids, *opening], prompt.given)


class Response(NamedTuple):
    """Sampled tokens as text, and the characters [start, end) of each; special tokens have none."""

    text: str
    offsets: list[tuple[int, int]]


class ResponseDecoder:
    """Turns sampled ids into text with offsets, token by token.

    Sampled ids are not always those that the tokenizer would choose for their text, so offsets cannot come
    from encoding the text again.

    Args:
      context: ids that are decoded before each token, since some tokenizers drop the space before the first.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", context: int = 4):
        self._tokenizer, self._context = tokenizer, context
        self._special = set(tokenizer.all_special_ids)
        self._pieces: dict[tuple[int, ...], str] = {}

    def _decode(self, ids: tuple[int, ...]) -> str:
        if ids not in self._pieces:
            if len(self._pieces) > 200_000:
                self._pieces.clear()
            self._pieces[ids] = decode(self._tokenizer, ids)
        return self._pieces[ids]

    def piece(self, token: int) -> str:
        """The text of one token by itself; it may lack the blank before a word."""
        return self._decode((token,))

    def text(self, prompt_ids: list[int], ids: list[int]) -> str:
        """The text of `ids`, as the continuation of a prompt.

        Args:
          prompt_ids: of the prompt.
          ids: of the response.
        Returns: the response alone.
        """
        start = tuple(prompt_ids[-self._context :])
        return decode(self._tokenizer, [*start, *ids])[len(self._decode(start)) :]

    def __call__(self, prompt_ids: list[int], ids: list[int]) -> Response:
        """Text and offsets of `ids`, as the continuation of a prompt."""
        start = tuple(prompt_ids[-self._context :])
        text = self.text(prompt_ids, ids)
        offsets: list[tuple[int, int]] = []
        place = 0
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
