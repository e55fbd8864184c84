"""Filed results are those of today's code, or say that they are not; and what counts as a change."""

import json
import runpy
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2] / "docs" / "results"
PROVENANCE = runpy.run_path(str(HERE / "provenance.py"))
RESULTS, parse, Depends = (PROVENANCE[name] for name in ("RESULTS", "parse", "Depends"))


def test_filed_results_are_current_or_say_that_they_are_not():
    problems = [problem for name in RESULTS if (problem := PROVENANCE["problem"](name))]
    assert not problems, "\n" + "\n".join(problems)


def test_every_filed_result_is_watched():
    # a study's cells carry their own commit, and their settings' digest in their names
    results = [path for path in HERE.rglob("*.json") if "cells" not in path.relative_to(HERE).parts]
    filed = {str(path.relative_to(HERE)) for path in results} - {"provenance.json"}
    assert filed == RESULTS.keys() == PROVENANCE["record"]().keys()


MAIN = '''
import math
from other import helper as used, constant
def main(x: int) -> int:
    """Doubles."""
    if x < 0:
        raise ValueError(f"no {x}")
    return inner(x) * constant + used.scale(x)
def inner(x):
    return math.floor(2 * x)
def unused():
    return 1
'''
OTHER = "from helper import scale\nconstant = 3\n"
HELPER = "def scale(x):\n    return 5 * x\n"


def fingerprint(tmp_path: Path, main=MAIN, other=OTHER, helper=HELPER, config="a: 1\n"):
    (tmp_path / "config.yaml").write_text(config)
    modules = {
        "main": parse(main),
        "other": parse(other),
        "helper": parse(helper),
        "other.helper": parse(helper),
    }
    return PROVENANCE["fingerprint"](Depends("", ("main:main",), ("*.yaml",)), modules, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"main": MAIN.replace("2 * x", "2 * (\n        x  # twice\n    )")},
        {"main": MAIN.replace("Doubles.", "Doubles it.").replace("x: int) -> int", "x)")},
        {"main": MAIN.replace("return 1", "return 2")},
        {"main": MAIN.replace('f"no {x}"', '"no such number"')},
        {"config": "a:   1  # the first\n"},
        {"helper": HELPER + "def unused(): ...\n"},
    ],
    ids=["layout", "words", "not reached", "error", "config's layout", "another module's"],
)
def test_what_changes_no_number_changes_no_hash(tmp_path: Path, change):
    assert fingerprint(tmp_path, **change) == fingerprint(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"main": MAIN.replace("2 * x", "3 * x")},
        {"main": MAIN.replace("math.floor", "math.ceil")},
        {"other": OTHER.replace("3", "4")},
        {"helper": HELPER.replace("5", "6")},
        {"config": "a: 2\n"},
    ],
    ids=["a function", "a library's", "a constant", "a module's function", "the config"],
)
def test_what_may_change_a_number_changes_the_hash(tmp_path: Path, change):
    assert fingerprint(tmp_path, **change) != fingerprint(tmp_path)


def test_a_definition_may_move(tmp_path: Path):
    moved = MAIN.replace(
        "from other import helper as used, constant", "from helper import constant\nimport helper as used"
    )
    assert fingerprint(tmp_path, main=moved, helper=HELPER + "constant = 3\n") == fingerprint(tmp_path)


def test_faces_that_import_their_own_modules_lead_in_no_circle():
    face = parse("from main import inner\nfrom face import part\n")
    part = parse("from face import inner\nimport face\ndef start():\n    return face.part.start, inner\n")
    found = PROVENANCE["reached"](
        ("face.part:start",), {"face": face, "face.part": part, "main": parse(MAIN)}
    )
    assert found.keys() == {"face.part.start", "main.inner"}


def test_a_start_that_is_nowhere_is_an_error():
    with pytest.raises(ValueError, match="nothing is reached from"):
        PROVENANCE["fingerprint"](Depends("", ("main:gone",)), {"main": parse(MAIN)})


def test_pages_say_what_is_stale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    record = tmp_path / "provenance.json"
    record.write_text(json.dumps({"demo.json": {"hash": "", "stale": "the data changed"}}))
    monkeypatch.setitem(PROVENANCE["note"].__globals__, "RECORD", record)
    assert PROVENANCE["notes"]("demo.json") == "*Not measured with the current code: the data changed.*"
    assert PROVENANCE["notes"]("speed*.json") == ""
