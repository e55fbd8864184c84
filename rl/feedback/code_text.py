"""How programs of a language look in what a model reads and writes."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from rl.feedback.grammar import Grammar
from rl.feedback.python_text import defines as at_the_margin

# a line that opens or closes a block of code
FENCE_LINE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)


def block_comment(statement: str) -> str:
    """A problem's statement as a comment in languages like C, whose end marker it must not contain."""
    return f"/*\n{statement.replace('*/', '* /')}\n*/"


@dataclass(frozen=True)
class CodeText:
    """What prompts need to know about a language.

    In this base class only fences tell code from prose: enough for any language. A language whose text can be
    recognized without fences overrides more (`rl.feedback.python_answers`).

    Attributes:
      title: the language's name in a sentence.
      tags: what models write after the fence that opens a block in it; "" for nothing.
      comment: makes a comment of a problem's statement, one that the statement cannot end itself.
      grammar: tells a curriculum where conditionals are; Python parses itself.
    """

    title: str
    tags: tuple[str, ...]
    comment: Callable[[str], str]
    grammar: Grammar | None = None

    def is_prose(self, line: str) -> bool:
        """Whether a line is not part of a program."""
        return False

    def is_program(self, text: str, name: str | None) -> bool:
        """Whether a text begins as code and contains what is asked for.

        Args:
          text: of a response, up to its first fence.
          name: of the function or class that the tests use; None if the program as a whole is run.
        Returns: False if that cannot be told.
        """
        return False

    def begins_again(self, response: str, given: str, name: str | None) -> bool:
        """Whether a model that was to continue code wrote the whole program again.

        Args:
          response: what the model wrote.
          given: the code that it was to continue.
          name: as for `is_program`.
        Returns: False if that cannot be told.
        """
        return False

    def defines(self, code: str, name: str) -> bool:
        """Whether code defines a name at the margin, or in a `class Solution` that the problem does not name.

        Args:
          code: any text.
          name: an identifier, without dots.
        Returns: False also for names that are only mentioned.
        """
        if at_the_margin(code, name):
            return True
        method = re.search(rf"^[ \t]+(?:async +)?def +{re.escape(name)}\b", code, re.MULTILINE)
        return method is not None and at_the_margin(code, "Solution")

    def end_of_program(self, text: str, given: int, name: str | None) -> int:
        """Where a program ends that a model continues: before a fence.

        Args:
          text: the code that was given and the response.
          given: characters of it that were given.
          name: as for `is_program`.
        Returns: characters of the text.
        """
        closed = FENCE_LINE.search(text, given)
        return closed.start() if closed else len(text)

    def code_in_prose(self, text: str, name: str | None) -> tuple[int, int]:
        """The code in an answer without fences: all of it.

        Args:
          text: the answer.
          name: as for `is_program`.
        Returns: start and end, in characters.
        """
        return 0, len(text)

    def missing(self, starter: str, name: str | None, code: str) -> str:
        """What a program left out of the starter code, to be put before it: nothing.

        Args:
          starter: the code that was given.
          name: as for `is_program`.
          code: the program.
        Returns: lines of code.
        """
        return ""

    def completed(self, code: str, starter: str, name: str | None) -> tuple[str, str]:
        """A program taken out of an answer, with the parts of the starter code that it lacks.

        Args:
          code: as the model wrote it.
          starter: the code that was given.
          name: as for `is_program`.
        Returns: what goes before the code, and the code as it follows that.
        """
        return "", code
