"""Damaged and hostile files for readers: changes of good ones, and what every outcome must be."""

import json
import random
import resource
import time
from collections.abc import Callable
from typing import Any

NUMBERS: list[Any] = [0, 1, -1, 2**31, 2**63, 10**20, -(10**20), 0.5, -0.5, 1e308, float("inf"), float("nan")]
TEXTS: list[Any] = ["", "x", "\0", "../x", "/etc/passwd", "NaN", "LORA", "(.*){1,30}x", "[" * 50, "\ud800"]
VALUES: list[Any] = [
    *NUMBERS,
    *TEXTS,
    None,
    True,
    False,
    [],
    [[]],
    [None],
    [1, [2]],
    {},
    {"": {}},
    {"a": [1]},
]


def changed_json(value: Any, rng: random.Random, changes: int = 2) -> Any:
    """A copy of a JSON value with some of its parts replaced, removed, moved or added."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, changes)):
        place = value
        while isinstance(place, dict | list) and place and rng.random() < 0.5:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            inner = place[rng.choice(keys)]
            if not isinstance(inner, dict | list):
                break
            place = inner
        if isinstance(place, dict) and place:
            key = rng.choice(list(place))
            match rng.randrange(4):
                case 0:
                    place.pop(key)
                case 1:
                    place[str(rng.choice(VALUES))] = place[key]
                case _:
                    new = rng.choice([*VALUES, value if rng.random() < 0.2 else 1])
                    place[key] = json.loads(json.dumps(new))
        elif isinstance(place, list):
            place.insert(rng.randint(0, len(place)), rng.choice(VALUES))
    return value


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flipped, cut, doubled and inserted bytes."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randrange(1, 40)]
            case 2:
                data[at:at] = rng.choice(
                    [b"\xff" * 4, b"\x00" * 8, b"(", b"]" * 9, b"\x7f\xff\xff\xff", b"9" * 30]
                )
            case 3:
                start = rng.randrange(len(data) + 1)
                data[at:at] = data[start : start + rng.randrange(1, 60)]
            case _:
                data = data[: max(at, 1)] if rng.random() < 0.2 else data
    return bytes(data)


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
        assert 0 < len(message) < 3000, len(message)
    assert time.process_time() - start < seconds
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) >> 10 < mib
    return message is None
