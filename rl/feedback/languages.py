"""The languages of programs: one file and one line here for each."""

from collections.abc import Callable
from typing import NamedTuple

from rl.feedback.code_text import CodeText
from rl.feedback.cpp import CPP, CppLanguage
from rl.feedback.language import Language
from rl.feedback.python import PythonLanguage
from rl.feedback.python_answers import PYTHON
from rl.feedback.tool_language import ToolLanguage
from rl.feedback.toolchain import Toolchain
from rl.feedback.toolchains import go, java, javascript, rust


class LanguageEntry(NamedTuple):
    """What must be known about a language.

    Attributes:
      make: starts what runs its programs, given the packages that they may import.
      text: how its programs look in what a model reads and writes.
    """

    make: Callable[[tuple[str, ...]], Language]
    text: CodeText


def _by_tools(chain: Toolchain) -> LanguageEntry:
    return LanguageEntry(lambda packages: ToolLanguage(chain), chain.text)


LANGUAGES: dict[str, LanguageEntry] = {
    "python": LanguageEntry(PythonLanguage, PYTHON),
    "cpp": LanguageEntry(lambda packages: CppLanguage(), CPP),
    "go": _by_tools(go.TOOLCHAIN),
    "java": _by_tools(java.TOOLCHAIN),
    "javascript": _by_tools(javascript.TOOLCHAIN),
    "rust": _by_tools(rust.TOOLCHAIN),
}
