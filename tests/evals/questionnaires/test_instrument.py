"""Shipped instruments are complete; a user's own are checked, and every mistake is named."""

import json
import math
from pathlib import Path

import pytest

from evals.questionnaires.instrument import load_instrument, shipped_instruments

SIZES = {
    "crt_2": (4, 1),
    "gad_7": (7, 1),
    "ipip_50": (50, 5),
    "ipip_neo_120": (120, 35),
    "ipip_single_constructs": (70, 6),
    "llm_native": (30, 5),
    "mini_ipip": (20, 5),
    "phq_9": (8, 1),
    "planned_behavior": (32, 16),
    "portrait_values": (30, 10),
}

OWN = {
    "name": "own",
    "title": "My scale",
    "source": "me",
    "license": "CC0",
    "validated": False,
    "options": [{"value": 1, "label": "No"}, {"value": 2, "label": "Partly"}, {"value": 3, "label": "Yes"}],
    "scales": [{"name": "Calm", "measures": "anxiety", "direction": -1}],
    "items": [
        {"id": "a", "text": "Stay calm", "scale": "Calm"},
        {"id": "b", "text": "Panic easily", "scale": "Calm", "key": -1},
    ],
}


def write(folder: Path, **changes) -> Path:
    path = folder / "own.json"
    path.write_text(json.dumps({**OWN, **changes}))
    return path


def test_everything_shipped_is_listed():
    assert set(shipped_instruments()) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_shipped_instruments(name):
    instrument = load_instrument(name)
    assert instrument.name == name
    assert (len(instrument.items), len(instrument.scales)) == SIZES[name]
    assert instrument.source
    assert instrument.license
    assert all(scale.measures for scale in instrument.domains)
    assert len({item.text for item in instrument.items if item.scale == instrument.scales[0].name}) > 1


def test_unvalidated_items_say_so():
    values = load_instrument("portrait_values")
    assert not values.validated
    assert "Not validated" in values.note
    # each value has items of both keys, so that acquiescence shows
    assert all({i.key for i in values.items_of(s.name)} == {1, -1} for s in values.scales)


def test_self_harm_item_is_left_out_unless_asked_for():
    assert all("dead" not in item.text for item in load_instrument("phq_9").items)
    assert len(load_instrument("phq_9", include=["self_harm"]).items) == 9
    with pytest.raises(ValueError, match="unknown flag"):
        load_instrument("phq_9", include=["self_hram"])


def test_facets_and_norms_of_the_neo():
    neo = load_instrument("ipip_neo_120")
    assert len(neo.domains) == 5
    assert len(neo.facets) == 30
    assert all(len(neo.items_of(f.name)) == 4 for f in neo.facets)
    assert all(len(neo.items_of(d.name)) == 24 for d in neo.domains)
    assert len(neo.groups) == 8
    assert len(neo.norms) == 8 * 35
    norm = next(n for n in neo.norms if n.group == "men under 21" and n.scale == "N")
    assert (norm.mean, norm.sd, norm.n_items) == (67.84, 15.83, 24)
    assert neo.scale("Anxiety").parent == "N"
    assert neo.scale("Anxiety").measures == load_instrument("gad_7").scale("GAD").measures


def test_keys_agree_with_the_published_ones(shared):
    import csv

    for name in ("ipip_50", "mini_ipip", "ipip_neo_120", "ipip_single_constructs"):
        with (shared / f"instruments/{name}.csv").open() as file:
            rows = {row["item_id"]: row for row in csv.DictReader(file)}
        items = {item.id: item for item in load_instrument(name).items}
        assert items.keys() == rows.keys()
        for key, row in rows.items():
            assert (items[key].text, items[key].key) == (row["text"], int(row["key"]))


def test_an_instrument_of_ones_own(tmp_path):
    own = load_instrument(write(tmp_path))
    assert (own.low, own.high, own.midpoint) == (1, 3, 2)
    assert [own.reverse(1, item.key) for item in own.items] == [1, 3]
    assert own.item("b").key == -1


def test_items_and_norms_may_lie_in_csv_files(tmp_path):
    (tmp_path / "items.csv").write_text(
        "id,text,scale,facet,key\na,Stay calm,Calm,Nerves,1\nb,Panic,Calm,Nerves,-1\nc,Hum,Calm,,1\n"
    )
    (tmp_path / "norms.csv").write_text("group,scale,mean,sd,metric,n_items\nall,Calm,2.1,0.5,mean,\n")
    own = load_instrument(write(tmp_path, items="items.csv", norms="norms.csv"))
    assert [item.facet for item in own.items] == ["Nerves", "Nerves", None]
    assert [scale.name for scale in own.scales] == ["Calm", "Nerves"]
    assert own.norms[0].mean == 2.1
    assert own.norms[0].n_items is None


def changed(part: str, **changes) -> dict:
    first, *rest = OWN[part]
    return {part: [{**first, **changes}, *rest]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": ""}, "title"),
        ({"license": None}, "license"),
        ({"vlidated": True}, "unknown entry vlidated; did you mean 'validated'"),
        (changed("items", kee=1), r"unknown entry items\[0\].kee; did you mean 'key'"),
        (changed("items", key=2), r"items\[0\].key"),
        (changed("items", id="b"), "every item id must be given once; 'b'"),
        (changed("items", scale="Clam"), "did you mean 'Calm'"),
        (changed("items", facet="Calm"), "must have parent 'Calm'"),
        (changed("options", value=2), "every option value must be given once"),
        (changed("options", label="yes"), "every option label must be given once"),
        (changed("options", value="one"), r"options\[0\].value"),
        ({"options": []}, "needs right answers"),
        ({"options": OWN["options"][:1]}, "at least 2 options"),
        ({"items": []}, "items"),
        ({"scales": [*OWN["scales"], {"name": "Empty"}]}, "scale 'Empty' has no items"),
        (
            {"norms": [{"group": "all", "scale": "Calm", "mean": math.inf, "sd": 1}]},
            "mean: input should be a",
        ),
        ({"norms": [{"group": "all", "scale": "Calm", "mean": 1, "sd": math.inf}]}, "sd: input should be a"),
        ({"norms": [{"group": "all", "scale": "Clam", "mean": 1, "sd": 1}]}, "did you mean 'Calm'"),
        ({"norms": [{"group": "all", "scale": "Calm", "mean": 1, "sd": 0}]}, r"norms\[0\].sd"),
        ({"items": "absent.csv"}, "not beside it"),
        ({"items": "i" * 5000}, "not beside it"),
        ({"scales": [*OWN["scales"], {"name": []}]}, r"scales\[1\].name"),
        (changed("items", scale=[]), r"items\[0\].scale"),
        (changed("items", scale=[], facet="Nerves"), r"items\[0\].scale"),
        (changed("items", facet=[1]), r"items\[0\].facet"),
        (changed("items", key="9" * 1000), r"items\[0\].key.* got '9{79} \.\.$"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, message):
    if "license" in changes:
        changes = {k: v for k, v in {**OWN}.items() if k != "license"}
        path = tmp_path / "own.json"
        path.write_text(json.dumps(changes))
    else:
        path = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_instrument(path)
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'ipip_50'"):
        load_instrument("ipip50")
    with pytest.raises(ValueError, match="no instrument or file"):
        load_instrument(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_instrument(tmp_path / "broken.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        load_instrument(tmp_path / "list.json")
    (tmp_path / "items.csv").write_text("id,text\n")
    with pytest.raises(ValueError, match="must be a JSON file"):
        load_instrument(tmp_path / "items.csv")


DEEP, LONG = "[" * 100_000 + "]" * 100_000, "9" * 5000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'{{"items": {DEEP}}}', r"own\.json is nested too deeply"),
        (f'{{"items": {LONG}}}', r"own\.json .*an integer has more than 4,300 digits"),
        (b"\xff\xfe\x00", r"own\.json is not valid JSON"),
    ],
    ids=["deep", "digits", "bytes"],
)
def test_hostile_json_is_refused(tmp_path, text, message):
    path = tmp_path / "own.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        load_instrument(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("part", ["items", "norms"])
@pytest.mark.parametrize("content", [b"id,text\na," + b"x" * 200_000 + b"\n", b"id,text\na,caf\xe9\n"])
def test_csv_files_that_cannot_be_read_are_named(tmp_path, part, content):
    (tmp_path / "part.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"part\.csv is not a valid CSV file in UTF-8") as error:
        load_instrument(write(tmp_path, **{part: "part.csv"}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["items", "norms"])
@pytest.mark.parametrize("where", ["../secret.csv", "{root}/secret.csv", "below/secret.csv"])
def test_files_elsewhere_are_not_read(tmp_path, part, where):
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    for place in (tmp_path, folder / "below"):
        (place / "secret.csv").write_text("id,secret\nme,hunter2\n")
    with pytest.raises(ValueError, match="not beside it; name a file of the same folder"):
        load_instrument(write(folder, **{part: where.format(root=tmp_path)}))
