"""Python programs in what a model writes: where they begin and end, and what they lack."""

import re

from rl.feedback.code_text import FENCE_LINE, CodeText
from rl.feedback.python_text import CodePart, layout, names_in
from rl.feedback.python_text import defines as at_the_margin


def docstring(statement: str) -> str:
    """A problem's statement as a docstring, whose closing quotes it must not contain."""
    quotes = '"""' if '"""' not in statement else "'''"
    return f"{quotes}\n{statement.replace(quotes, ' '.join(quotes))}\n{quotes}"


class PythonText(CodeText):
    """Python, whose statements can be told from prose (`rl.feedback.python_text`); methods as in CodeText."""

    def is_prose(self, line: str) -> bool:
        """Whether a line is not part of a program."""
        return layout(line).parts[0].kind == "prose"

    def is_program(self, text: str, name: str | None) -> bool:
        """Whether a text begins as code and contains what is asked for.

        Args:
          text: of a response, up to its first fence.
          name: of the function or class that the tests use; None if the program as a whole is run.
        Returns: whether it is a program.
        """
        return layout(text).parts[0].kind not in ("prose", "comment") and (
            name is None or self.defines(text, name)
        )

    def begins_again(self, response: str, given: str, name: str | None) -> bool:
        """Whether a model that was to write the body of a function wrote the whole program again.

        Args:
          response: what the model wrote.
          given: the code that it was to continue.
          name: as for `is_program`.
        Returns: whether the response is a complete program.
        """
        first = response.lstrip("\n").partition("\n")[0]
        if not given.endswith(":") or not first or first[0].isspace():
            return False
        return name is not None and self.defines(response, name)

    def end_of_program(self, text: str, given: int, name: str | None) -> int:
        """Where the program ends in a text whose first `given` characters are our code.

        Args:
          text: the code that was given and the response.
          given: characters of it that were given.
          name: as for `is_program`.
        Returns: characters of the text.
        """
        parts, unfinished = layout(text)
        first = {part.name: i for i, part in reversed([*enumerate(parts)]) if part.name}
        seen: set[str] = {"print", "write"}  # names that write the output
        complete = bool(name) and given > 0 and self.defines(text[:given], name)
        needed = -1  # the last part that defines something which the program uses
        for i, part in enumerate(parts):
            code = text[part.code : part.end]
            if part.start >= given and part.start > 0:
                cut_off = i == len(parts) - 1 and unfinished and part.kind != "definition"
                if FENCE_LINE.match(text, part.code) or (complete and part.kind == "prose"):
                    return part.start
                if complete and i > needed and (_is_beyond(part, code, name) or (name and cut_off)):
                    return part.start
            words = names_in(code)
            needed = max([needed, *(first[word] for word in words if word in first)])
            if name:
                complete = complete or self.defines(code, name)
            elif part.kind in ("statement", "assignment", "guard"):
                complete = complete or bool(words & seen) or part.kind == "guard"
            seen.add(part.name)
        return len(text)

    def code_in_prose(self, text: str, name: str | None) -> tuple[int, int]:
        """The run of code lines in an answer without fences; all of it if nothing looks like code.

        Args:
          text: the answer.
          name: as for `is_program`.
        Returns: start and end, in characters.
        """
        parts = layout(text).parts
        if all(part.kind != "prose" for part in parts):
            return 0, len(text)
        runs: list[tuple[int, int]] = []
        inside = False
        for part in parts:
            inside = part.kind != "prose" and (inside or part.kind not in ("string", "comment"))
            if inside and runs and runs[-1][1] == part.start:
                runs[-1] = (runs[-1][0], part.end)
            elif inside:
                runs.append((part.start, part.end))
        wanted = [run for run in runs if name and self.defines(text[run[0] : run[1]], name)]
        if wanted:
            return wanted[-1]
        return max(runs, key=lambda run: run[1] - run[0]) if runs else (0, len(text))

    def missing(self, starter: str, name: str | None, code: str) -> str:
        """The imports and helper functions of the starter code that a program left out.

        Args:
          starter: the code that was given.
          name: as for `is_program`.
          code: the program.
        Returns: lines of code.
        """
        lacking = []
        for part in layout(starter).parts:
            text = starter[part.code : part.end].rstrip()
            if part.kind == "import":
                lacking += [line for line in text.split("\n") if line.strip() and line not in code]
            elif part.kind == "definition" and part.name != name and not (name and self.defines(text, name)):
                lacking += [] if at_the_margin(code, part.name) else [text]
        return "".join(f"{text}\n" for text in lacking)

    def completed(self, code: str, starter: str, name: str | None) -> tuple[str, str]:
        """A program taken out of an answer, with the parts of the starter code that it lacks.

        Args:
          code: as the model wrote it; possibly only the body of the function that the starter code begins.
          starter: the code that was given.
          name: as for `is_program`.
        Returns: what goes before the code, and the code, indented if it is a body at the margin.
        """
        if not name or not starter:
            return "", code
        if not self.defines(code, name) and (self.defines(starter, name) or starter.rstrip().endswith(":")):
            return starter.rstrip() + "\n", _indented(code)
        return self.missing(starter, name, code), code


def _is_beyond(part: CodePart, code: str, name: str | None) -> bool:
    """Whether a statement after a complete program, which does not need it, is not part of it."""
    if part.kind == "string" or code.startswith("assert"):
        return True
    return name is not None and (part.kind == "definition" or re.match(r"print\b", code) is not None)


def _indented(body: str) -> str:
    """A function's body, indented if it is at the margin."""
    lines = body.split("\n")
    if all(not line.strip() or line.startswith((" ", "\t")) for line in lines):
        return body
    return "\n".join(f"    {line}" if line.strip() else line for line in lines)


PYTHON = PythonText("Python", ("python", "python3", "py", ""), docstring)
