"""From the lines of a program that ran to the spans of its text."""

import re


def line_spans(program: str, counts: dict[int, int]) -> tuple[tuple[int, int], ...]:
    """The character spans of the lines that ran; a line without code goes with the next one that has some.

    Args:
      program: its text, as it was compiled.
      counts: how often each line with code ran, by number from 1.
    Returns: [start, end) of each span in characters, in order, joined where they touch.

    >>> line_spans("f() {\\n  a();\\n}\\n", {2: 1})
    ((0, 15),)
    """
    spans: list[tuple[int, int]] = []
    start = position = 0
    last = max(counts, default=0)
    # a compiler counts line feeds; splitlines would also count form feeds and U+2028 in strings
    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+", program), start=1):
        position += len(line)
        if number not in counts and number < last:
            continue
        if counts.get(min(number, last), 0) > 0:
            if spans and spans[-1][1] == start:
                spans[-1] = (spans[-1][0], position)
            else:
                spans.append((start, position))
        start = position
    return tuple(spans)
