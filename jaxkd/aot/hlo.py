"""What a compiled program sends between devices, read from its text.

A compiler's own analysis does not list collectives, so they are counted in the
optimised HLO: each as often as the loops around it turn, where their number of turns is
known, and once where it is not (the training call's loop over steps).
"""

import math
import re
from collections import Counter
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
_BITS = re.compile(r"[a-z]+(\d+)")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (.+?) ([a-z][\w-]*)\(")
_CALLED = re.compile(
    r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_LIMIT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_ARRAY = re.compile(r"([a-z]\w*?)\[([\d,]*)\]")


class Sent(NamedTuple):
    """Collectives of one kind: their number, and the size of their results."""

    number: int
    bytes: int


def collectives(text: str) -> dict[str, Sent]:
    """Counts the collectives of a program.

    Args:
      text: optimised HLO, ``compiled.as_text()``.

    Returns:
      kind -> how many a device takes part in, and the bytes of their results on one
      device; of a conditional, all branches.
    """
    program, entry = _parse(text)
    turns = _turns(program, entry)
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name, computation in program.items():
        for kind, size in computation.sends:
            counts[kind] += turns[name]
            sizes[kind] += turns[name] * size
    return {
        kind: Sent(counts[kind], sizes[kind]) for kind in sorted(counts) if counts[kind]
    }


class _Computation(NamedTuple):
    sends: list[tuple[str, int]]
    calls: list[tuple[str, int | str]]  # with the turns, or the loop's condition
    limits: list[int]  # constants that a loop's condition compares with


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    program: dict[str, _Computation] = {}
    entry = ""
    here = _Computation([], [], [])
    for line in text.splitlines():
        if head := _HEAD.match(line):
            here = program[head[1]] = _Computation([], [], [])
            if line.startswith("ENTRY"):
                entry = head[1]
        elif found := _INSTRUCTION.match(line):
            kind = found[2].removesuffix("-start")
            if kind in COLLECTIVES:
                here.sends.append((kind, _result_bytes(found[1], found[2])))
                continue  # what it calls adds two numbers
            here.limits.extend(int(limit) for limit in _LIMIT.findall(line))
            turns = _turns_of(line)
            names = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                names += [name.strip(" %") for name in branches.split(",")]
            here.calls.extend((name, turns) for name in names)
    return program, entry


def _turns_of(line: str) -> int | str:
    """Returns how often an instruction runs what it calls, or its condition's name."""
    if known := _TURNS.search(line):
        return int(known[1])
    condition = _CONDITION.search(line)
    return condition[1] if condition else 1


def _result_bytes(shape: str, operation: str) -> int:
    """Returns the bytes of a result; what starts an operation returns its input too."""
    arrays = _ARRAY.findall(shape)
    if operation == "all-gather-start" or operation == "collective-permute-start":
        arrays = arrays[len(arrays) // 2 :] if len(arrays) == 2 else arrays[1:2]
    total = 0
    for kind, sizes in arrays:
        bits = 8 if kind == "pred" else int(_BITS.match(kind)[1])  # type: ignore[index]
        total += bits * math.prod(int(n) for n in sizes.split(",") if n) // 8
    return total


def _turns(program: dict[str, _Computation], entry: str) -> Counter[str]:
    """Counts how often each computation runs, from the callers down."""
    turns: Counter[str] = Counter()

    def repeats(loop: int | str) -> int:
        if isinstance(loop, int):
            return loop
        # A scan counts from 0 up to the one constant of its condition.
        limits = program[loop].limits if loop in program else []
        return limits[0] if len(limits) == 1 else 1

    def visit(name: str, times: int) -> None:
        turns[name] += times
        for called, loop in program[name].calls:
            if called in program:
                visit(called, times * repeats(loop))

    visit(entry, 1)
    return turns
