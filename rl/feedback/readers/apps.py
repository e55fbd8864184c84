"""APPS (Hendrycks et al. 2021, arXiv:2105.09938) and TACO, which has its fields: rows and folders.

Their grader imports a preamble before each solution, compares values with ==, lists and tuples alike, and
printed numbers with numpy.allclose; here the comparison is `numeric`. Their grader also accepts lines in any
order, which is not done here.
"""

from pathlib import Path

from rl.feedback.problems import Problem
from rl.feedback.readers.row_format import Row, RowFormat, read_json, tests_of

# apps/eval/testing_util.py
PREAMBLE = """\
import sys
import time
import itertools
from itertools import accumulate, product, permutations, combinations
import collections
from collections import Counter, OrderedDict, deque, defaultdict, ChainMap
from functools import lru_cache
import math
from math import sqrt, sin, cos, tan, ceil, fabs, floor, gcd, exp, log, log2
import fractions
from typing import List, Tuple, Optional, Dict, Set
import numpy as np
import random
import heapq
from heapq import *
"""


def _first_solution(value: object) -> str:
    solutions = read_json(value) if isinstance(value, str) and value.lstrip().startswith("[") else value
    first = (solutions[0] if solutions else "") if isinstance(solutions, list) else solutions or ""
    if not isinstance(first, str):
        raise TypeError(f"a solution must be text; got a {type(first).__name__}")
    return first


def _read(row: Row, name: str) -> Problem:
    tests = row["input_output"]
    if isinstance(tests, str):
        tests = read_json(tests) if tests else None
    return Problem(
        id=str(row.get("problem_id", row.get("id", name))),
        prompt=row["question"],
        starter_code=row.get("starter_code") or "",
        canonical_solution=_first_solution(row.get("solutions")),
        difficulty=row.get("difficulty") or "unknown",
        source="APPS",
        preamble=PREAMBLE,
        **tests_of(tests or {"inputs": [], "outputs": []}),
    )


def read_folder(folder: Path) -> Problem:
    """The problem of a folder with question.txt, input_output.json, and perhaps solutions.json,
    starter_code.py and metadata.json. Raises: as RowFormat.read."""

    def read(name: str, default: str = "") -> str:
        path = folder / name
        return path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else default

    metadata = read_json(read("metadata.json", "{}"))
    row = {
        "id": folder.name,
        "question": read("question.txt"),
        "starter_code": read("starter_code.py"),
        "solutions": read("solutions.json", "[]"),
        "input_output": read("input_output.json"),
        "difficulty": metadata.get("difficulty") if isinstance(metadata, dict) else None,
    }
    return _read(row, folder.name)


FORMAT = RowFormat("APPS", frozenset(("question", "input_output")), _read)
