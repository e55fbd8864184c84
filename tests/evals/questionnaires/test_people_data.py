"""Public answers of people, from files as they are published; the files here are written for the test."""

import numpy as np
import pandas as pd
import pytest

from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.people_data import FFM_PLACES, read_answers

FFM, MINI, NEO = (load_instrument(name) for name in ("ipip_50", "mini_ipip", "ipip_neo_120"))


@pytest.fixture
def ffm(tmp_path):
    names = [f"{scale}{n}" for scale in ("EXT", "EST", "AGR", "CSN", "OPN") for n in range(1, 11)]
    table = pd.DataFrame([[1 + (i + j) % 5 for j in range(50)] for i in range(4)], columns=pd.Index(names))
    table.loc[0, "EXT1"] = 0
    table = table.assign(EXT1_E=1234, country="DE")
    path = tmp_path / "data-final.csv"
    table.to_csv(path, sep="\t", index=False)
    return path, table


def test_openpsychometrics_columns_are_the_items_of_ipip_50(ffm):
    path, table = ffm
    found, published = read_answers(path, FFM)
    assert "openpsychometrics" in published
    assert "EXT1_E" not in found.columns
    # what the published codebook says of some columns
    for column, text in (
        ("EXT2", "Don't talk a lot"),
        ("EST8", "Have frequent mood swings"),
        ("AGR1", "Feel little concern for others"),
        ("CSN5", "Get chores done right away"),
        ("OPN10", "Am full of ideas"),
    ):
        [item] = [item.id for item in FFM.items if item.text == text]
        assert found[item].tolist() == table[column].tolist()
    [first] = [item.id for item in FFM.items if item.text == "Am the life of the party"]
    assert np.isnan(found.loc[0, first])
    assert len([name for name in found.columns if name.startswith("ipip50_")]) == 50
    letters = {"EXT": "E", "AGR": "A", "CSN": "C", "EST": "ES", "OPN": "I"}
    for scale, place in FFM_PLACES.items():
        assert {FFM.items[5 * n + place - 1].scale for n in range(10)} == {letters[scale]}


def test_a_shorter_instrument_takes_its_items_by_their_words(ffm):
    found, _ = read_answers(ffm[0], MINI)
    assert {item.id for item in MINI.items} <= set(found.columns)


def test_johnsons_reversed_items_are_turned_back(tmp_path):
    # a person whose every answer counts 4 towards the trait, and one who left out the first
    head = "{:6d}{}{:2d}" + "0" * 13 + "{:9s}"
    lines = [head.format(1, 1, 30, "USA") + "4" * 120, head.format(2, 2, 41, "Ireland") + "0" + "4" * 119]
    path = tmp_path / "IPIP120.dat"
    path.write_text("\r\n".join(lines) + "\r\n")
    found, published = read_answers(path, NEO)
    assert "Johnson" in published
    assert found[["sex", "age", "country"]].to_numpy().tolist() == [
        ["male", 30, "USA"],
        ["female", 41, "Ireland"],
    ]
    assert np.isnan(found.loc[1, NEO.items[0].id])
    assert {item.key: found.loc[0, item.id] for item in NEO.items} == {1: 4, -1: 2}


def test_what_is_no_published_file_is_refused_in_one_line(ffm, tmp_path):
    with pytest.raises(ValueError, match="needs --instrument ipip_neo_120"):
        read_answers(tmp_path / "IPIP120.dat", FFM)
    broken = tmp_path / "broken.dat"
    broken.write_text("1 2 3\n")
    with pytest.raises(ValueError, match=r"broken.dat: line 1 is none of IPIP120.dat"):
        read_answers(broken, NEO)
    with pytest.raises(ValueError, match="give --instrument ipip_50"):
        read_answers(ffm[0], None)
    with pytest.raises(ValueError, match="has no items of gad_7"):
        read_answers(ffm[0], load_instrument("gad_7"))
