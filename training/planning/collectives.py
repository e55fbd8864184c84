"""What a compiled program sends between devices, read from its HLO text."""

import re
from collections import defaultdict
from typing import NamedTuple

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "f8": 8, "bf16": 16, "f16": 16, "s16": 16, "u16": 16}
BITS |= {"f32": 32, "s32": 32, "u32": 32, "f64": 64, "s64": 64, "u64": 64}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(
    r"= (.+?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_SHAPE = re.compile(r"(pred|bf16|[fsu]\d+)\[([\d,]*)\]")
_CALL = re.compile(r"(body|calls|to_apply|condition|called_computations)=\{?%?([\w.\-]+)")
_TRIPS = re.compile(r'"?known_trip_count"?[:=]\{"n":"(\d+)"\}')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_COUNTER = re.compile(r"[su]32\[\]\S* constant\((\d+)\)")


def sent_bytes(hlo: str, devices: int) -> dict[str, float]:
    """Bytes that one device sends in one run, by kind of collective; loops count as often as they run.

    A ring over n devices sends (n − 1)/n of the result to gather it, of the operand to scatter its sum, and
    twice that to reduce everywhere. n is read from each operation's groups. An operation that the compiler
    split into a start and an end appears twice under one channel and counts once.

    Args:
      hlo: text of a compiled program.
      devices: that run it; n if an operation names no groups.
    Returns: bytes by kind, such as all-gather, in alphabetical order.
    """
    program = _read(hlo, devices)
    runs: dict[str, int] = defaultdict(int)

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for called, trips in program.calls[name]:
            visit(called, times * trips)

    visit(program.entry, 1)
    by_channel: dict[tuple[str, str], float] = defaultdict(float)
    for name, found in program.collectives.items():
        for kind, channel, size in found:
            key = (kind, channel)
            by_channel[key] = max(by_channel[key], runs[name] * size)
    total: dict[str, float] = defaultdict(float)
    for (kind, _), size in by_channel.items():
        total[kind] += size
    return {kind: total[kind] for kind in sorted(total)}


class _Program(NamedTuple):
    """Collectives (kind, channel, bytes) and calls (computation, times) of each computation."""

    entry: str
    collectives: dict[str, list[tuple[str, str, float]]]
    calls: dict[str, list[tuple[str, int]]]


def _read(hlo: str, devices: int) -> _Program:
    collectives: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    loops: list[tuple[str, str, str]] = []  # caller, body, condition, where the text does not say how often
    counters: dict[str, int] = {}
    current = entry = ""
    for number, line in enumerate(hlo.splitlines()):
        if match := _COMPUTATION.match(line):
            current = match[2]
            entry = current if match[1] else entry
            continue
        if match := _COUNTER.search(line):
            counters[current] = max(counters.get(current, 0), int(match[1]))
        if match := _COLLECTIVE.search(line):
            size = _on_the_wire(match[2], _size(match[1], bool(match[3])), _group(line, devices))
            channel = found[1] if (found := _CHANNEL.search(line)) else f"line {number}"
            collectives[current].append((match[2], channel, size))
        called = {role: name for role, name in _CALL.findall(line)}
        body = called.pop("body", None)
        calls[current] += [(name, 1) for name in called.values()]
        if body is not None:
            known = _TRIPS.search(line)
            if known is None:
                loops.append((current, body, called["condition"]))
            else:
                calls[current].append((body, int(known[1])))
    for caller, body, condition in loops:  # counts up to a constant that its condition holds
        calls[caller].append((body, counters.get(condition, 1)))
    return _Program(entry, collectives, calls)


def _size(shapes: str, started: bool) -> float:
    """Bytes of a result; an asynchronous start also lists its operands, smaller or equal: take the
    largest."""
    sizes = []
    for kind, extent in _SHAPE.findall(shapes):
        count = 1
        for n in filter(None, extent.split(",")):
            count *= int(n)
        sizes.append(count * BITS.get(kind, 32) / 8)
    if not sizes:
        return 0.0
    return max(sizes) if started else sum(sizes)


def _group(line: str, devices: int) -> int:
    """Devices in one group of a collective."""
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):  # named axes of a mesh
        sizes = dict(part.split("=") for part in match[1].replace("'", "").split(","))
        group = 1
        for axis in match[2].replace("'", "").split(","):
            group *= int(sizes.get(axis.strip(), 1))
        return group
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(match[2])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return match[1].count(",") + 1
    return devices


def _on_the_wire(kind: str, result: float, group: int) -> float:
    if group <= 1:
        return 0.0
    ring = (group - 1) / group
    match kind:
        case "all-reduce":
            return 2 * ring * result
        case "reduce-scatter":
            return ring * result * group
        case "collective-permute":
            return result
    return ring * result
