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


def test_johnsons_300_are_told_by_the_words_of_his_item_key(tmp_path):
    """The 120 stand at 3, 5, 7, .. of 300; a person marks the trait with 4 throughout, but 2 at the last."""
    places = {item.id: 2 + 2 * number for number, item in enumerate(NEO.items)}
    digits = ["1"] * 300
    for place in places.values():
        digits[place] = "4"
    digits[places[NEO.items[-1].id]] = "2"
    head = f"{1:6d}2{30:2d}{0:013d}{'Norway':9s}"
    (tmp_path / "IPIP300.dat").write_text(head + "".join(digits) + "\n")
    with pytest.raises(ValueError, match=r"IPIP-NEO-ItemKey.xls .*; save it as CSV: .*ItemKey.csv"):
        read_answers(tmp_path / "IPIP300.dat", NEO)
    rows = [
        {"Full#": places[item.id] + 1, "Short#": "", "Item": f"{item.text.upper()}."} for item in NEO.items
    ]
    rows.append({"Full#": "", "Short#": "", "Item": "a note below the table"})
    pd.DataFrame(rows).to_csv(tmp_path / "IPIP-NEO-ItemKey.csv", index=False)
    found, published = read_answers(tmp_path / "IPIP300.dat", NEO)
    assert published == "Johnson's IPIP-NEO-300"
    assert found.loc[0, ["sex", "country"]].tolist() == ["female", "Norway"]
    for item in NEO.items[:-1]:
        assert found.loc[0, item.id] == (4 if item.key == 1 else 2)
    assert found.loc[0, NEO.items[-1].id] == (2 if NEO.items[-1].key == 1 else 4)
    # what the two have in common, and it is said
    few, published = read_answers(tmp_path / "IPIP300.dat", FFM)
    assert published == "Johnson's IPIP-NEO-300, which has 14 of the 50 items of ipip_50"
    assert len(few.columns) == 3 + 14
    with pytest.raises(ValueError, match="has no items of gad_7"):
        read_answers(tmp_path / "IPIP300.dat", load_instrument("gad_7"))


def test_what_is_no_published_file_is_refused_in_one_line(ffm, tmp_path):
    short = tmp_path / "IPIP120.dat"
    short.write_text("0" * 31 + "4" * 120 + "\n")
    with pytest.raises(ValueError, match="needs --instrument ipip_neo_120"):
        read_answers(short, FFM)
    with pytest.raises(ValueError, match="give --instrument ipip_neo_120"):
        read_answers(short, None)
    broken = tmp_path / "broken.dat"
    broken.write_text("1 2 3\n")
    with pytest.raises(ValueError, match=r"broken.dat: line 1 is none of IPIP120.dat"):
        read_answers(broken, NEO)
    with pytest.raises(ValueError, match="give --instrument ipip_50"):
        read_answers(ffm[0], None)
    with pytest.raises(ValueError, match="has no items of gad_7"):
        read_answers(ffm[0], load_instrument("gad_7"))
