"""What users import: every name is there and documented, and the examples run as they stand."""

import doctest
import inspect

import pytest

from evals import faithfulness, psychometrics, questionnaires

FACES = (psychometrics, questionnaires, faithfulness)
EXPORTED = [(face, name) for face in FACES for name in face.__all__]
FUNCTIONS = [(face, name) for face, name in EXPORTED if inspect.isfunction(getattr(face, name))]
# other programs call these
PROMISED = {
    psychometrics: {
        "cronbach_alpha",
        "omega",
        "guttman_lambda6",
        "split_half",
        "icc",
        "krippendorff_alpha",
        "variance_components",
        "efa",
        "cfa",
        "mtmm",
    },
    questionnaires: {"load_instrument", "score", "administer"},
    faithfulness: {"assess"},
}


def named(value) -> str:
    return value if isinstance(value, str) else value.__name__


@pytest.mark.parametrize("face", FACES, ids=named)
def test_promised_names_are_there(face):
    assert PROMISED[face] <= set(face.__all__)
    assert all(inspect.isfunction(getattr(face, name)) for name in PROMISED[face])


@pytest.mark.parametrize(("face", "name"), EXPORTED, ids=named)
def test_names_are_documented(face, name):
    assert inspect.getdoc(getattr(face, name))


@pytest.mark.parametrize(("face", "name"), FUNCTIONS, ids=named)
def test_examples_of_functions_run(face, name):
    _run(getattr(face, name), name)


@pytest.mark.parametrize("face", FACES, ids=named)
def test_examples_of_faces_run(face):
    _run(face, face.__name__)


@pytest.mark.parametrize(("face", "name"), FUNCTIONS, ids=named)
def test_docstrings_tell_arguments_results_and_errors(face, name):
    text = inspect.getdoc(getattr(face, name)) or ""
    arguments = inspect.signature(getattr(face, name)).parameters
    assert "Args:" in text or not arguments
    assert "Returns:" in text
    assert "Raises:" in text
    told = text.partition("Args:")[2]
    assert [argument for argument in arguments if argument not in told] == []


def _run(thing, name: str) -> None:
    found = [test for test in doctest.DocTestFinder(recurse=False).find(thing, name) if test.examples]
    assert found, f"{name} has no example"
    for test in found:
        failed = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
        assert failed.failed == 0
