"""samples.html of a PPO run: programs by round, their tokens colored by what the policy learns from.

One file that opens without a network and runs no script. Its contents are hostile text: they are escaped,
control characters and marks that change the direction of writing are spelled out, and the page forbids itself
to load anything. It is rewritten as rounds end and stays below `PAGE_BYTES`.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from jaxmoe.json_values import JsonObject
from rl.stepcoder.prompts import Response
from rl.stepcoder.rollouts import Turn
from training.plots.rows import BLUE, ORANGE
from training.runtime.atomic import write_whole
from training.runtime.metrics import JsonLines, read_lines

PAGE_BYTES = 2_000_000
# of each text: statement, given code, response, message
MOST_CHARACTERS = 4000
# rounds at the beginning that stay when later ones are left out
FIRST_ROUNDS = 3
# C0 and C1 controls except tab and line feed, marks of direction, line separators, lone surrogates
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def token_segments(
    response: Response, response_mask_W: np.ndarray, policy_mask_W: np.ndarray
) -> list[tuple[str, str]]:
    """The text of a response in pieces of one kind: learned, masked, or behind (after the program).

    Args:
      response: text and characters of each token.
      response_mask_W: 1 for tokens of the rollout.
      policy_mask_W: 1 where the policy learns.
    Returns: (text, kind); joined, the texts are the response.

    >>> response = Response("a = 1 # end", [(0, 5), (5, 7), (7, 11)])
    >>> token_segments(response, np.array([1, 1]), np.array([1, 0]))
    [('a = 1', 'learned'), (' #', 'masked'), (' end', 'behind')]
    """
    taken, place = int(response_mask_W.sum()), 0
    pieces: list[tuple[str, str]] = []

    def add(text: str, kind: str) -> None:
        if text and pieces and pieces[-1][1] == kind:
            pieces[-1] = (pieces[-1][0] + text, kind)
        elif text:
            pieces.append((text, kind))

    for number, (_, end) in enumerate(response.offsets):
        kind = "behind" if number >= taken else "learned" if policy_mask_W[number] > 0 else "masked"
        add(response.text[place:end], kind)
        place = max(place, end)
    add(response.text[place:], "behind")
    return pieces


def episode_segments(
    turns: Sequence[Turn], response_mask_W: np.ndarray, policy_mask_W: np.ndarray
) -> list[tuple[str, str]]:
    """The text of an episode in pieces of one kind; what the policy was told between is "told".

    Args:
      turns: of the episode.
      response_mask_W: 1 for tokens of its answers.
      policy_mask_W: 1 where the policy learns.
    Returns: (text, kind), in order.
    """
    pieces: list[tuple[str, str]] = []
    for turn in turns:
        taken = int(np.argmin(np.append(response_mask_W[turn.start :], 0)))
        learned_W = policy_mask_W[turn.start : turn.start + taken]
        told = [(f"\n\n{turn.told}\n\n", "told")] if turn.told else []
        pieces += [*told, *token_segments(turn.row.response, np.ones(taken), learned_W)]
    return pieces


def visible(text: str) -> str:
    """A text with invisible characters spelled out.

    Args:
      text: any.
    Returns: the text, with such characters as Python escapes.

    >>> visible("a\\u202eb\\x00\\n")
    'a\\\\u202eb\\\\x00\\n'
    """
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def _cut(text: str) -> str:
    more = len(text) - MOST_CHARACTERS
    return visible(text) if more <= 0 else f"{visible(text[:MOST_CHARACTERS])}\n[{more} more characters]"


def _cut_tokens(tokens: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    pieces, left = [], MOST_CHARACTERS
    for text, kind in tokens:
        if left > 0:
            pieces.append((visible(text[:left]), kind))
        left -= len(text)
    return pieces if left >= 0 else [*pieces, (f"\n[{-left} more characters]", "behind")]


@cache
def _template(name: str) -> jinja2.Template:
    source = (resources.files("training.ppo") / name).read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)


class Section(NamedTuple):
    """A round's part of the page."""

    step: int
    html: str

    @property
    def bytes(self) -> int:
        """Of the file."""
        return len(self.html.encode())


def _section(step: int, records: Sequence[JsonObject]) -> Section:
    texts = ("problem", "difficulty", "statement", "given", "message")
    samples = [
        record
        | {key: _cut(str(record[key] or "")) for key in texts}
        | {"tokens": _cut_tokens(record["tokens"]), "total": sum(record["rewards"].values())}
        for record in records
    ]
    return Section(step, _template("samples_round.html").render(step=step, samples=samples))


class SamplesPage:
    """The page, held in memory as finished sections.

    Args:
      path: of the file.
      title: of the run.
      records: of earlier rounds, as samples.jsonl has them; those of versions without tokens are left out.
    """

    def __init__(self, path: Path, title: str, records: Iterable[JsonObject] = ()):
        self._path, self._title, self._left_out = path, title, 0
        self._sections: list[Section] = []
        rounds: dict[int, list[JsonObject]] = {}
        for record in records:
            if "tokens" in record:
                rounds.setdefault(record["step"], []).append(record)
        for step, found in rounds.items():
            self._add(_section(step, found))

    def _add(self, section: Section) -> None:
        self._sections.append(section)
        while len(self._sections) > FIRST_ROUNDS + 1 and self._size() > PAGE_BYTES:
            del self._sections[FIRST_ROUNDS]
            self._left_out += 1

    def _size(self) -> int:
        return sum(section.bytes for section in self._sections)

    def write(self, step: int, records: Sequence[JsonObject]) -> None:
        """Puts a round on the page and writes the file.

        Args:
          step: number of the round.
          records: of its samples, as samples.jsonl has them.
        """
        if records:
            self._add(_section(step, records))
        newest = self._sections[::-1]
        page = _template("samples.html").render(
            title=visible(self._title),
            most=MOST_CHARACTERS,
            left_out=self._left_out,
            steps=[section.step for section in newest],
            sections=[Markup(section.html) for section in newest],  # escaped when it was made
            learned=BLUE,
            masked=ORANGE,
        )
        write_whole(self._path, page)


class Samples:
    """samples.jsonl and its page.

    Args:
      file: the JSON lines; the page is written next to it.
      resume_at: round from which the run resumes.
    """

    def __init__(self, file: Path, resume_at: int):
        self._lines = JsonLines(file, resume_at)
        self._page = SamplesPage(file.with_suffix(".html"), file.parent.name, read_lines(file))

    def write(self, number: int, records: list[JsonObject]) -> None:
        """Takes the samples of a round.

        Args:
          number: of the round, from 1.
          records: one per sample.
        """
        for record in records:
            self._lines.write(record)
        self._page.write(number, records)

    def close(self) -> None:
        """Closes the JSON lines."""
        self._lines.close()
