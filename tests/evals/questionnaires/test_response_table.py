"""Tables of responses that others wrote: read as they stand, or refused in one line."""

import json
from pathlib import Path

import pandas as pd
import pytest

from evals.questionnaires import Design, administer, composed_personas, score, simulated_respondent
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.response_table import read_responses
from evals.questionnaires.scoring import tabulate

GAD = load_instrument("gad_7")
IDS = [item.id for item in GAD.items]
HEADER = ",".join(["respondent", *IDS])
ROW = "p,0,1,2,3,0,1,2"
ANSWER = {"respondent": "p", "item": IDS[0], "response": 1}


def refused(path: Path) -> str:
    """The one line that says why the file is refused."""
    with pytest.raises(ValueError) as error:
        read_responses(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n", "  \n"])
def test_wide_tables_are_read_as_they_stand(tmp_path, separator, start):
    path = tmp_path / ("r.csv" if separator == "," else "r.tsv")
    path.write_text(start + f"{HEADER}\n{ROW}\nq,,NA,2,3,0,1,2\n".replace(",", separator), encoding="utf-8")
    table = tabulate(read_responses(path), GAD).table
    assert table.index.tolist() == ["p", "q"]
    assert table.loc["p"].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert table.loc["q"].isna().tolist() == [True, True] + 5 * [False]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{HEADER}\n{ROW},\n", "line 2 has 9"),
        (f"{HEADER}\n{ROW},\n{ROW},\n", "line 2 has 9"),
        (f"{HEADER}\n{ROW},3\n", "line 2 has 9"),
        (f"{HEADER}\n{ROW}\n{ROW},\n", "line 3 has 9"),
        (f"res\npondent,{','.join(IDS)}\n{ROW}\n", "line 2 has 8"),
        (f"respondent,{IDS[0]}\n{ROW}\n", "line 2 has 8"),
    ],
)
@pytest.mark.parametrize("separator", [",", "\t"])
def test_rows_longer_than_the_header_are_refused(tmp_path, text, line, separator):
    path = tmp_path / ("r.csv" if separator == "," else "r.tsv")
    path.write_text(text.replace(",", separator))
    message = refused(path)
    assert "no row may have more cells than the header" in message
    assert line in message


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ([{**ANSWER, "respondent": ["x"]}], "column 'respondent' holds ['x']"),
        ([ANSWER, {**ANSWER, "item": {"a": 1}}], "column 'item' holds {'a': 1}"),
        ([{**ANSWER, "item": [1]}], "column 'item' holds [1]"),
        ([{**ANSWER, "response": [1]}], "column 'response' holds [1]"),
        ([{"respondent": "p"}, 1], "a list of objects"),
        ([1, [2]], ""),
        (1, ""),
        (None, ""),
        ("x", ""),
    ],
)
def test_json_that_is_no_table_is_refused(tmp_path, value, rule):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(value))
    assert rule in refused(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".parquet"])
def test_bytes_that_are_no_text_are_refused(tmp_path, suffix):
    path = tmp_path / f"r{suffix}"
    path.write_bytes(b"respondent\titem\tresponse\n\xff\xfe\t\x00\t1\n")
    assert "cannot be read" in refused(path)


def test_an_enormous_cell_is_refused(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(f"{HEADER}\n{'x' * 200_000},0,1,2,3,0,1,2\n")
    assert "field larger than field limit" in refused(path)


def test_lists_in_a_frame_are_refused():
    with pytest.raises(ValueError, match=r"column 'respondent' holds \['x'\]"):
        tabulate(pd.DataFrame([{**ANSWER, "respondent": ["x"]}]), GAD)


def test_what_a_model_answered_is_read_with_all_that_it_brings(tmp_path: Path):
    """Its probabilities are lists, in a column that no score reads."""
    mini = load_instrument("mini_ipip")
    design = Design(personas=tuple(composed_personas(2)))
    answers = administer(simulated_respondent("random"), mini, design)
    answers["probabilities"] = [[0.5, 0.5]] * len(answers)
    answers.to_parquet(tmp_path / "responses.parquet")
    read = read_responses(tmp_path / "responses.parquet")
    one = read[(read["template"] == read["template"][0]) & (read["option_order"] == "forward")]
    assert len(score(one, mini, respondent="persona")) == 10
