"""Which lines of a C++ program ran: counters of g++, which are in the program's own memory.

Tampering by a program is made hard, and detected if it happens:

    names      a program that moves its lines (#line), writes assembler, names a section or symbol by a
               string, or mentions gcov is taken to mark its own text; its file has a random name
    decoys     functions that nothing calls stand before and behind it: a program that writes to all the
               counters it can find also writes to theirs
    sense      no count is negative, and nothing runs in a function that was never entered

If a program marks its own text, none of it counts. Unlike Python's flags these counters cannot be made safe:
a program written to find its own among them, and to leave the decoys alone, would succeed.
"""

import json
import re
from typing import Any

COUNTERS_BYTES = 1 << 20  # each of two copies, of which one is always whole
_DECOYS = 3
# Strings, characters and comments; a raw string's end is found by its delimiter.
_LITERALS = re.compile(
    r'R"([^\s()\\]{0,16})\((?:.*?)\)\1"|"(?:[^"\\\n]|\\.)*"|' + r"(?<![0-9a-fA-F])'(?:[^'\\\n]|\\.)*'"
    r"|//[^\n]*|/\*.*?\*/",
    re.DOTALL,
)
_LINE_DIRECTIVE = re.compile(r"^[ \t\v\f]*(?:#|%:)[ \t\v\f]*(?:line\b|\d)", re.MULTILINE)
_MARKER = re.compile(r'# \d+ "([^"\n]*)"')
_TELLING = re.compile(
    r"\b(?:asm|__asm|__asm__|\w*gcov\w*)\b"
    r"|\b(?:__)?(?:alias|weakref|ifunc|section|symver)(?:__)?\s*\(\s*\""
)


def flags(section: str) -> tuple[str, ...]:
    """The compiler's options for a program. `section`: a random name, for the table of its counters."""
    return (
        # atomic: otherwise a loop would keep its counters in registers to its end, and a kill would lose them
        "-fprofile-update=atomic",
        "-fprofile-arcs",
        "-ftest-coverage",
        f"-fprofile-info-section={section}",
    )


def runtime(section: str) -> str:
    """What is linked to a program: copies its counters to shared memory (descriptor 5) every 50 ms, at exit
    and on fatal signals.
    """
    return f"""
#include <csignal>
#include <cstdlib>
#include <initializer_list>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>
extern "C" {{
#include <gcov.h>
extern const struct gcov_info *const __start_{section}[];
extern const struct gcov_info *const __stop_{section}[];
}}
namespace {{
// active copy (1 or 2), their lengths, the copies
struct Shared {{ unsigned active, length[2]; char copy[2][{COUNTERS_BYTES}]; }};
Shared *shared;
void name(const char *, void *) {{}}
void put(const void *data, unsigned size, void *target) {{
  unsigned which = *static_cast<unsigned *>(target), at = shared->length[which];
  if (at + size <= {COUNTERS_BYTES})
    for (unsigned i = 0; i < size; i++) shared->copy[which][at + i] = static_cast<const char *>(data)[i];
  shared->length[which] = at + size;
}}
void *allocate(unsigned size, void *) {{ return std::malloc(size); }}
void save() {{
  unsigned which = shared->active == 1 ? 1 : 0;
  shared->length[which] = 0;
  for (auto table = __start_{section}; table != __stop_{section}; ++table)
    __gcov_info_to_gcda(*table, name, put, allocate, &which);
  shared->active = which + 1;
}}
void tick(int) {{ save(); }}
void fatal(int number) {{ save(); std::signal(number, SIG_DFL); }}
__attribute__((constructor(101))) void start() {{
  void *place = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, 5, 0);
  close(5);
  if (place == MAP_FAILED) return;
  shared = static_cast<Shared *>(place);
  struct sigaction action = {{}};
  action.sa_handler = tick;
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, nullptr);
  for (int number : {{SIGSEGV, SIGFPE, SIGABRT, SIGILL, SIGBUS}}) std::signal(number, fatal);
  struct itimerval often = {{{{0, 50000}}, {{0, 50000}}}};
  setitimer(ITIMER_REAL, &often, nullptr);
  std::atexit(save);
}}
}}
"""


def with_decoys(preprocessed: str, name: str) -> str:
    """A preprocessed program between functions that nothing calls, in a file with this name.

    Args:
      preprocessed: what the preprocessor made of the program, with its line markers.
      name: of the file and, with a number appended, of the functions; random, so that no program can know it.
    Returns: the text to compile.
    """

    def decoy(number: int) -> str:
        head = f"static __attribute__((used, noinline)) int {name}_{number}(int n)"
        return head + " { for (int i = 0; i < n; i++) if (i * i > n) return i; return -n; }\n"

    before, after = (
        "".join(map(decoy, numbers)) for numbers in (range(_DECOYS), range(_DECOYS, 2 * _DECOYS))
    )
    return f'# 1 "{name}.cpp"\n{before}{preprocessed}\n# 9 "{name}.cpp"\n{after}'


def marks_itself(program: str, preprocessed: str, file: str) -> bool:
    """Whether a program does something that lets it mark its own lines.

    Args:
      program: its text.
      preprocessed: what the preprocessor made of it.
      file: the name under which it was preprocessed.
    Returns: True also for programs that only look like it; none of their lines then count.
    """
    text = _LITERALS.sub(_without, program.replace("\\\n", ""))
    if _LINE_DIRECTIVE.search(text):
        return True
    own, inside = [], False
    for line in preprocessed.split("\n"):
        marker = _MARKER.match(line)
        if marker:
            inside = marker[1] == file
        elif inside:
            own.append(line)
    return _TELLING.search(_LITERALS.sub(_without, "\n".join(own))) is not None


def _without(literal: re.Match[str]) -> str:
    return " " if literal[0].startswith("/") else '""'


def line_counts(report: bytes, file: str, decoys: str) -> dict[int, int] | None:
    """How often each line with code ran, from gcov's JSON; None if something else wrote to the counters.

    Args:
      report: what gcov printed.
      file: the program's name in it.
      decoys: the name of the functions that nothing calls, see `with_decoys`.
    Returns: counts by line number, from 1; None also for a report that cannot be read.
    """
    try:
        files = json.loads(report[report.index(b"{") :].split(b"\n")[0])["files"]
        rows = [row for part in files if part["file"] == file for row in part["lines"]]
        if any(map(_is_impossible, files)) or not _are_untouched(files, f"{decoys}.cpp"):
            return None
        return {int(row["line_number"]): int(row["count"]) for row in rows}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_impossible(part: dict[str, Any]) -> bool:
    """Whether a count is negative, or something ran in a function that was never entered."""
    entered = {one["name"]: one["execution_count"] for one in part["functions"]}
    negative = any(row["count"] < 0 for row in part["lines"]) or any(n < 0 for n in entered.values())
    idle = any(one["blocks_executed"] and not one["execution_count"] for one in part["functions"])
    return (
        negative
        or idle
        or any(row["count"] and entered.get(row.get("function_name")) == 0 for row in part["lines"])
    )


def _are_untouched(files: list[dict[str, Any]], decoys: str) -> bool:
    counts = [one["execution_count"] for part in files if part["file"] == decoys for one in part["functions"]]
    return len(counts) == 2 * _DECOYS and not any(counts)
