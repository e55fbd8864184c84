"""The languages of programs: one file and one line here each."""

from collections.abc import Callable
from typing import NamedTuple

from rl.feedback.cpp import CppLanguage
from rl.feedback.language import Language
from rl.feedback.python import PythonLanguage


class LanguageEntry(NamedTuple):
    """What there is to say of a language.

    Attributes:
      make: starts what runs its programs, given the packages that they may import.
      title: its name in a sentence.
      tags: what models write behind a fence of a block in it; "" for nothing.
    """

    make: Callable[[tuple[str, ...]], Language]
    title: str
    tags: tuple[str, ...]


LANGUAGES: dict[str, LanguageEntry] = {
    "python": LanguageEntry(PythonLanguage, "Python", ("python", "python3", "py", "")),
    "cpp": LanguageEntry(lambda packages: CppLanguage(), "C++", ("cpp", "c++", "cc", "cxx", "")),
}
