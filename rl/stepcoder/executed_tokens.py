"""FGO: from the parts of a program that ran to a 0/1 mask over its tokens.

Reward for code that no test ran is noise: the policy loss leaves such tokens out (the value loss,
advantages and KL keep them). Reference: Dou et al. 2024, arXiv:2402.01391, section 3.2.
"""

from collections.abc import Callable, Mapping, Sequence

from rl.feedback.language import Executed
from rl.sandbox.execution_trace import overlaps

TokenOffsets = Sequence[tuple[int, int]]


def mask(
    program: str,
    executed: Executed | None,
    offsets: TokenOffsets,
    *,
    shift: int = 0,
    keep_if_incomplete: bool = False,
) -> list[int]:
    """1 for each token of which any character ran in any test, else 0.

    Tokens outside the program (end of sequence, code fences, text around it) and tokens without
    characters are kept. Nothing is masked if nothing compiled or nothing was traced.

    Args:
      program: the text that was graded.
      executed: `feedback.executed`.
      offsets: [start, end) of each token in characters, as fast tokenizers give them.
      shift: what to add to an offset to get a position in `program`: len(prefix) if the tokens are those of a
        completion; minus the program's position if it was cut out of a response.
      keep_if_incomplete: keep every token unless all tests have run. Otherwise, with early stop, code that
        only a later test would reach counts as not executed.
    Returns: a list as long as `offsets`.
    """
    incomplete = executed is not None and executed.tests_run < executed.tests_total
    if executed is None or (incomplete and keep_if_incomplete):
        return [1] * len(offsets)
    spans = executed.spans
    kept: list[int] = []
    for start, end in offsets:
        start, end = start + shift, end + shift
        inside = start < end and end > 0 and start < len(program)
        kept.append(int(not inside or overlaps(spans, start, end)))
    return kept


Encoded = Mapping[str, Sequence[tuple[int, int]]]  # what a tokenizer returns, by name


def token_offsets(tokenizer: Callable[..., Encoded], text: str) -> list[tuple[int, int]]:
    """The [start, end) of each token of a text, without special tokens.

    Args:
      tokenizer: a fast one from transformers.
    Returns: offsets in characters.
    Raises: ValueError for a tokenizer that cannot tell (a "slow" one).
    """
    try:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [(start, end) for start, end in encoded["offset_mapping"]]
    except (NotImplementedError, KeyError, TypeError) as error:
        raise ValueError(
            f"executed-token masks need character offsets; {type(tokenizer).__name__} has none "
            "(load its fast version, or set the mask to `response`)"
        ) from error
