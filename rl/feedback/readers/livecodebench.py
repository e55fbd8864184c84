"""LiveCodeBench (Jain et al. 2024, arXiv:2403.07974), code generation: public tests, then private ones.

The private tests are JSON, or JSON in a pickle in zlib in base64; the pickle is read as data, without running
any of it. Compared, and given imports, as APPS is.
"""

import base64
import binascii
import pickletools
import zlib

from rl.feedback.problems import Problem
from rl.feedback.readers.apps import PREAMBLE
from rl.feedback.readers.listed_tests import loaded, tests_of_list
from rl.feedback.readers.row_format import Row, RowFormat, read_json

_MOST_BYTES = 1 << 30  # of one problem's private tests, unpacked
_TEXTS = ("BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "UNICODE")
_AROUND_TEXT = ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP")


def _private(value: object) -> object:
    if not isinstance(value, str):
        return value or []
    if value.lstrip()[:1] in ("[", ""):
        return read_json(value or "[]")
    try:
        packed = base64.b64decode(value, validate=True)
        unpack = zlib.decompressobj()
        content = unpack.decompress(packed, _MOST_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"private_test_cases are neither JSON nor zlib in base64: {error}") from None
    if unpack.unconsumed_tail:
        raise ValueError(f"private_test_cases unpack to more than {_MOST_BYTES:,} bytes")
    return read_json(_text_of_pickle(content))


def _text_of_pickle(content: bytes) -> str:
    """The one text that a pickle holds. Raises: ValueError for a pickle of anything else."""
    texts = []
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in _TEXTS:
            texts.append(argument)
        elif operation.name not in _AROUND_TEXT:
            raise ValueError(f"private_test_cases hold a pickle of more than text ({operation.name})")
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise ValueError(f"private_test_cases must hold one pickled text; got {len(texts)}")
    return texts[0]


def _read(row: Row, name: str) -> Problem:
    metadata = loaded(row.get("metadata")) or {}
    tests = [*loaded(row["public_test_cases"]), *loaded(_private(row["private_test_cases"]))]
    return Problem(
        id=f"LiveCodeBench/{row.get('question_id', name)}",
        prompt=row["question_content"],
        starter_code=row.get("starter_code") or "",
        difficulty=row.get("difficulty") or "unknown",
        source="LiveCodeBench",
        preamble=PREAMBLE,
        **tests_of_list(tests, metadata.get("func_name")),
    )


FORMAT = RowFormat(
    "LiveCodeBench", frozenset(("question_content", "public_test_cases", "private_test_cases")), _read
)
