"""Damaged files for readers: whatever comes of one is a result, or an error of one line, soon.

`damaged` and `scratched` change JSON values or bytes of a file, by a seed; `check` asks a reader,
`assert_read_or_refused` one whose memory counts too.
"""

import copy
import json
import os
import random
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

INPUTS = int(os.environ.get("FUZZ_INPUTS", "2000"))  # benchmarks/fuzz_readers.py asks for more
SEED = int(os.environ.get("FUZZ_SEED", "0"))
ODD: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    2,
    1e308,
    -0.5,
    float("nan"),
    float("inf"),
    10**20,
    "",
    "x",
    "../../etc/passwd",
    "x" * 3000,
    "\ud800",
    "\x00",
    "NaN",
    [],
    {},
    [[]],
    [None],
    [1, "a"],
    {"a": 1},
    {"": {"": {"": 0}}},
    ["a"] * 40,
]
SNIPPETS = [b"\xef\xbb\xbf", b"\r\n", b"\r", b"\x00", b"\xff\xfe", b"[" * 5000, b"{{{{", b'"', b",", b"\n\n"]
SNIPPETS += ["\u2028".encode(), "\x85".encode(), b"\x0c", b"NaN", b"1e999", b"9" * 5000, b"-", b"\\ud800"]
SECONDS = 5.0  # a reader's answer to a small file; hundreds of times what it takes


def damaged(
    rows: list[Any], count: int, *, seed: int, lines: bool = True, share: float = 0.5
) -> Iterator[bytes]:
    """Files that hold these rows as JSON, each damaged in another way; a row changes with chance `share`."""
    rng = random.Random(f"{SEED} {seed}")
    for _ in range(count):
        changed = [changed_json(row, rng) if rng.random() < share else row for row in rows]
        as_ascii = rng.random() < 0.3
        texts = [json.dumps(row, ensure_ascii=as_ascii) for row in changed]
        whole = "\n".join(texts) if lines and rng.random() < 0.7 else f"[{', '.join(texts)}]"
        data = whole.encode("utf-8", "surrogatepass")
        yield scratch(data, rng) if rng.random() < 0.5 else data


def scratched(data: bytes, count: int, *, seed: int, snippets: Iterable[bytes] = ()) -> Iterator[bytes]:
    """Files like this one with bytes changed, left out, repeated and put in."""
    rng = random.Random(f"{SEED} {seed}")
    for _ in range(count):
        yield scratch(data, rng, [*SNIPPETS, *snippets])


def check(
    read: Callable[[bytes], object], inputs: Iterable[bytes], errors: tuple[type[Exception], ...]
) -> int:
    """How many inputs were read; each other one must be refused in one line of bounded length, and soon."""
    read_well = 0
    for data in inputs:
        start = time.perf_counter()
        try:
            read(data)
            read_well += 1
        except errors as error:
            said = str(error)
            assert said, data[:400]
            assert "\n" not in said, (said, data[:400])
            assert len(said) < 2000, (said[:300], data[:400])
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} for {data[:400]!r}") from error
        assert time.perf_counter() - start < SECONDS, data[:400]
    return read_well


def assert_read_or_refused(read: Callable[[], object], seconds: float = 8.0, mib: int = 256) -> bool:
    """A result, or one ValueError of one short line; in bounded time and memory.

    Returns: whether there was a result.
    """
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    message = None
    try:
        read()
    except ValueError as error:
        message = str(error)
    if message is not None:
        assert "\n" not in message, repr(message)
        assert 0 < len(message) < 3000, message
    assert time.process_time() - start < seconds
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) >> 10 < mib
    return message is None


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 8)):
            yield from _places(value[index], (*path, index))


def changed_json(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one or two of its parts replaced, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 2])):
        *path, last = rng.choice(list(_places(value))) or (None,)
        if last is None:
            return copy.deepcopy(rng.choice(ODD))
        inside = value
        for key in path:
            inside = inside[key]
        act = rng.random()
        if act < 0.6:
            inside[last] = copy.deepcopy(rng.choice(ODD))
        elif act < 0.8:
            del inside[last]
        elif isinstance(inside, dict):
            inside[rng.choice(["extra", "", "type", "\ud800"])] = copy.deepcopy(rng.choice(ODD))
        else:
            inside.append(copy.deepcopy(rng.choice(ODD)))
    return value


def scratch(data: bytes, rng: random.Random, snippets: list[bytes] = SNIPPETS) -> bytes:
    """Bytes changed, left out, put in and cut off."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, act = rng.randrange(len(out) + 1), rng.random()
        if act < 0.3 and at < len(out):
            out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif act < 0.5:
            del out[at : at + rng.choice([1, 2, 8, 60])]
        elif act < 0.65:
            out[at:at] = rng.randbytes(rng.choice([1, 4, 20]))
        elif act < 0.75:
            del out[at:]
        else:
            out[at:at] = rng.choice(snippets)
    return bytes(out)
