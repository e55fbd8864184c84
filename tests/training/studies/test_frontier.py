"""Knowledge at equal accuracy and at equal divergence; the test of rows, on data whose answer is known."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from training.studies import reproduce
from training.studies.loramoe import frontier
from training.studies.loramoe.contrasts import (
    Best,
    Facts,
    accuracy,
    contrast,
    contrasts,
    divergence,
    half_width,
    kept_at,
)
from training.studies.loramoe.frontier import path, read_off, row_test, summarize
from training.studies.loramoe.frontier_runs import FrontierRun, FrontierRuns

BASE = {"tasks": 0.0}


def run(row: str, seed: int, points: list[tuple[float, float, float]], rate: float = 1.0) -> FrontierRun:
    """Points are kept, tasks, KL."""
    snapshots = [
        {
            "volume": n + 1,
            "completed": kept,
            "kept": "1" * round(10 * kept) + "0" * (10 - round(10 * kept)),
            "tasks": tasks,
            "kl": {w: {"forward": kl, "backward": kl} for w in ("own", "answers", "prompts")},
        }
        for n, (kept, tasks, kl) in enumerate(points)
    ]
    result = {"snapshots": snapshots, "dev_tasks": points[-1][1], "trained_weights": 1}
    return FrontierRun(row, seed, rate, result, final=rate >= 1.0)


def simulated(effect: float, seed: int) -> list[FrontierRun]:
    """Three rows of four runs; kept = 1 − KL² / 2 − tasks / 10 + effect of row b + noise of the run."""
    rng = np.random.default_rng(seed)
    runs = []
    for name in "abc":
        for number in range(4):
            noise, points = rng.normal(0, 0.01), []
            for kl, tasks in zip(np.cumsum(rng.uniform(0.1, 0.3, 3)), rng.uniform(0, 1, 3), strict=True):
                kept = 1 - kl**2 / 2 - tasks / 10 + effect * (name == "b") + noise + rng.normal(0, 0.002)
                points.append((float(kept), float(tasks), float(kl)))
            runs.append(run(name, number % 2, points))
    return runs


def test_a_path_has_the_divergence_on_plain_statements_where_it_was_measured():
    one = run("a", 0, [(0.9, 0.4, 0.2), (0.7, 0.8, 0.6)])
    assert all("kl_plain" not in point for point in path(BASE, one))
    for number, snapshot in enumerate(one.result["snapshots"]):
        snapshot["kl"]["plain"] = {"forward": 0.01 * (number + 1), "backward": 9.0}
    assert [point["kl_plain"] for point in path(BASE, one)] == [0.0, 0.01, 0.02]


def test_levels_reach_as_far_as_all_rows_do():
    usual = (0.5, 0.55, 0.6, 0.65)
    assert frontier._levels(None) == frontier._levels(0.6) == frontier._levels(0.65) == usual
    assert frontier._levels(0.75) == (*usual, 0.75)
    assert frontier._levels(0.25) == (0.1, 0.15, 0.2, 0.25)
    assert frontier._levels(0.1) == (0.05, 0.1)


def test_a_measure_is_read_off_on_the_line_between_two_points():
    points = path(BASE, run("a", 0, [(0.9, 0.4, 0.2), (0.7, 0.8, 0.6)]))
    assert read_off(points, "tasks", 0.6, "completed") == pytest.approx(0.8)
    assert read_off(points, "tasks", 0.2, "kl") == pytest.approx(0.1)
    assert read_off(points, "kl", 0.4, "completed") == pytest.approx(0.8)
    assert math.isnan(read_off(points, "tasks", 0.9, "completed"))


def test_an_effect_at_equal_divergence_and_accuracy_is_found():
    found = row_test(simulated(0.08, 0), BASE)
    assert found["p"] < 0.01
    # sum-to-zero: 0.08 over the mean of all three is 2/3 of it
    assert found["effects"]["b"]["mean"] == pytest.approx(0.08 * 2 / 3, abs=0.015)
    assert found["effects"]["b"]["low"] > 0 > found["effects"]["a"]["high"]
    assert sum(effect["mean"] for effect in found["effects"].values()) == pytest.approx(0, abs=1e-9)
    assert found["explained"]["KL, tasks and row"] > found["explained"]["KL and tasks"]


def test_another_divergence_can_be_held_equal():
    """What hangs on the divergence of prompts alone is no effect of rows where that is held equal."""
    runs = simulated(0.0, 0)
    for number, one in enumerate(runs):
        for snapshot in one.result["snapshots"]:
            snapshot["kl"]["own"] = {"forward": 0.1 * number, "backward": 0.1 * number}
    own, prompts = row_test(runs, BASE), row_test(runs, BASE, kl=("prompts", "forward"))
    assert own is not None
    assert prompts is not None
    assert prompts["explained"]["KL and tasks"] > 0.9 > own["explained"]["KL and tasks"]


def test_without_an_effect_p_is_seldom_small(monkeypatch):
    """Noise is of whole runs, so that snapshots taken for independent would be significant far too often."""
    monkeypatch.setattr(frontier, "PERMUTATIONS", 99)
    found = [row_test(simulated(0.0, seed), BASE)["p"] for seed in range(30)]
    assert sum(p <= 0.1 for p in found) <= 8  # of 30 at .1: 3 expected, more than 8 with probability .003
    assert max(found) > 0.5


def test_too_little_is_no_test():
    assert row_test([run("a", 0, [(0.9, 0.5, 0.1)])], BASE) is None
    assert row_test([run(name, 0, [(0.9, 0.5, 0.1)]) for name in "ab"], BASE) is None


def test_seeds_may_differ_without_an_effect_of_rows():
    """Row b has seed 1 alone, in which everything is kept less: that is no effect of the row."""
    runs = [
        run(one.row, number % 2, [(p["completed"], p["tasks"], p["kl"]) for p in path(BASE, one)[1:]])
        for number, one in enumerate(simulated(0.0, 3))
        if one.row != "b" or number % 2
    ]
    low = [
        run(
            one.row,
            one.seed,
            [(p["completed"] - 0.2 * one.seed, p["tasks"], p["kl"]) for p in path(BASE, one)[1:]],
        )
        for one in runs
    ]
    plain, shifted = row_test(runs, BASE), row_test(low, BASE)
    assert plain is not None
    assert shifted is not None
    for name in "abc":
        assert shifted["effects"][name]["mean"] == pytest.approx(plain["effects"][name]["mean"], abs=1e-9)


def test_a_fit_that_nothing_is_left_of_is_no_test():
    """Six ends of six runs and six coefficients: R² is 1 whatever the rows do."""
    rng = np.random.default_rng(0)
    runs = [run(name, seed, [tuple(rng.uniform(0.2, 0.9, 3))]) for name in "abc" for seed in (0, 1)]
    assert row_test(runs, BASE) is None


# pairs at equal accuracy


def marked(row: str, seed: int, snapshots: list[tuple[float, str]], rate: float = 1.0) -> FrontierRun:
    """Snapshots are tasks and the facts kept."""
    points = [{"tasks": tasks, "kept": kept, "completed": 0.0} for tasks, kept in snapshots]
    return FrontierRun(row, seed, rate, {"snapshots": points}, final=True)


def test_what_is_kept_is_read_off_fact_by_fact():
    one = marked("full", 0, [(0.4, "1110"), (0.8, "0101")])
    assert kept_at(BASE, one, 0.2) == pytest.approx([1, 1, 1, 0.5])
    assert kept_at(BASE, one, 0.5) == pytest.approx([0.75, 1, 0.75, 0.25])
    assert kept_at(BASE, one, 0.9) is None


def test_what_is_kept_is_read_off_at_equal_divergence_too():
    """From 0 of the base to .2 and .6: .1 is halfway to the first snapshot, .4 halfway to the second."""
    one = run("full", 0, [(0.8, 0.3, 0.2), (0.4, 0.9, 0.6)])
    assert kept_at(BASE, one, 0.1, divergence) == pytest.approx([1] * 8 + [0.5] * 2)
    assert kept_at(BASE, one, 0.4, divergence) == pytest.approx([1] * 4 + [0.5] * 4 + [0] * 2)


def test_families_of_tasks_can_be_left_out_of_accuracy():
    """Without `easy`, which is 1 from the base on, .5 is reached halfway to the second snapshot."""
    one = marked("full", 0, [(0.6, "11"), (0.9, "01")])
    for snapshot, hard in zip(one.result["snapshots"], (0.2, 0.8), strict=True):
        snapshot["families"] = {"easy": 1.0, "hard": hard}
    base = {"tasks": 0.5, "families": {"easy": 1.0, "hard": 0.0}}
    assert kept_at(base, one, 0.5, partial(accuracy, without=["easy"])) == pytest.approx([0.5, 1])
    assert kept_at(base, one, 0.5) is None  # there before anything was learned
    facts = Facts(np.array(["a", "b"]), np.ones(2, np.int32))
    found = contrasts(base, [one], facts, levels=[0.5], measure=partial(accuracy, without=["easy"]))
    assert found["kept"]["full"] == [{"mean": 0.75, "n": 1, "rates": [1.0], "early": 0}]


def kept(shares) -> Best:
    return Best(np.asarray(shares, float), 1.0)


def test_a_difference_counts_seeds_and_relations():
    """d: seed 0 gives (.5, .5, 0, 0), seed 1 (1, 0, .5, 0); facts (.75, .25, .25, 0), mean .3125.

    Relations {0, 1} and {2, 3}: sums of d − d̄ are ±.375, so 2/1 · 2 · .375² / 16; seeds: means .25 and .375,
    s² / 2 = .00390625.
    """
    before = {0: kept([0, 0, 0, 0]), 1: kept([0, 0, 0, 0]), 2: kept([1, 1, 1, 1])}
    after = {0: kept([0.5, 0.5, 0, 0]), 1: kept([1, 0, 0.5, 0])}
    found = contrast(before, after, np.array(["a", "a", "b", "b"]))
    facts, seeds = 2 * 2 * 0.375**2 / 16, 0.00390625
    freedom = (facts + seeds) ** 2 / (facts**2 + seeds**2)
    assert found is not None
    assert (found["mean"], found["n"]) == (0.3125, 2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(facts + seeds)
    assert (found["low"], found["high"]) == pytest.approx((0.3125 - half, 0.3125 + half))
    assert contrast({0: kept([1, 1])}, {1: kept([1, 1])}, np.array(["a", "b"])) is None
    same = contrast({0: kept([1, 1])}, {0: kept([1, 1])}, np.array(["a", "b"]))
    assert same == {"mean": 0.0, "low": None, "high": None, "n": 1}


def test_intervals_of_differences_hold_the_truth():
    """Facts of one relation share their luck, seeds have theirs: 95 % intervals hold 0 in 90 to 99 %."""
    rng, covered = np.random.default_rng(0), 0
    relations = np.repeat(np.arange(20), 8)
    for _ in range(300):
        luck = rng.normal(0, 0.1, 20)[relations]
        sides = [
            {s: kept(luck * side + rng.normal(0, 0.02) + rng.normal(0, 0.3, 160)) for s in range(3)}
            for side in (0, 1)
        ]
        found = contrast(*sides, relations)
        assert found is not None
        covered += found["low"] < 0 < found["high"]
    assert 270 <= covered <= 297


def test_pairs_are_compared_at_the_best_of_their_rates_without_facts_that_are_taught():
    facts = Facts(np.array(["a", "b", "b", "c"]), np.array([1, 1, 1, 0]))
    runs = [
        marked("lora", 0, [(0.6, "1100")], 1.0),
        marked("lora", 0, [(0.8, "1110")], 2.0),
        marked("loramoe_lbc", 0, [(0.6, "1111")]),
    ]
    found = contrasts({"tasks": 0.0}, runs, facts)
    assert (found["facts"], found["left out"]) == (4, 1)
    at = found["levels"].index(0.6)
    # at .6 the second rate has kept 1, 1, 1 of three (3/4 of the way), the first 1, 1, 0
    assert found["kept"]["lora"][at] == {"mean": 1.0, "n": 1, "rates": [2.0], "early": 2}
    (pair,) = found["pairs"]
    # of the pair the first rate alone counts, with which both ran
    assert (pair["a"], pair["b"]) == ("lora", "loramoe_lbc")
    assert pair["at"][at]["mean"] == pytest.approx(1 / 3)
    beyond = found["kept"]["loramoe_lbc"][found["levels"].index(0.65)]
    assert beyond == {"mean": None, "n": 0, "rates": [], "early": 0}


def test_a_row_with_more_rates_has_no_more_to_choose_from():
    """Row loramoe ran at rate 1 alone, where both keep half; at rate 2 the other would keep all."""
    facts = Facts(np.array(["a", "b"]), np.ones(2, np.int32))
    runs = [
        marked("loramoe", 0, [(0.8, "10")], 1.0),
        marked("loramoe_lbc", 0, [(0.8, "01")], 1.0),
        marked("loramoe_lbc", 0, [(0.8, "11")], 2.0),
    ]
    (pair,) = contrasts({"tasks": 0.0}, runs, facts)["pairs"]
    assert pair["at"][0]["mean"] == 0.0


def test_a_rate_counts_where_all_seeds_get_there_with_it():
    """At .6 only seed 1 arrives at rate 1, where all is kept: both stand at rate 2, where half is kept."""
    facts = Facts(np.array(["a", "b"]), np.ones(2, np.int32))
    full = [marked("full", seed, [(0.8, "11")], 9.0) for seed in (0, 1)]
    slow = [marked("lora", 0, [(0.55, "11")], 1.0), marked("lora", 1, [(0.8, "11")], 1.0)]
    fast = [marked("lora", seed, [(0.8, "10")], 2.0) for seed in (0, 1)]
    found = contrasts({"tasks": 0.0}, [*full, *slow, *fast], facts, levels=[0.5, 0.6])
    assert found["rates"] == {"full": [9.0], "lora": [1.0, 2.0]}
    assert [at["rates"] for at in found["kept"]["lora"]] == [[1.0], [2.0]]
    (pair,) = found["pairs"]
    assert [at["mean"] for at in pair["at"]] == [0.0, pytest.approx(-0.6 / 0.8 / 2)]
    # a row that never has all of its seeds there is shown with those that are
    few = contrasts({"tasks": 0.0}, [*full, *slow], facts, levels=[0.6])
    assert (few["kept"]["lora"][0]["n"], few["pairs"][0]["at"][0]["n"]) == (1, 1)
    # matched rows are read at a rate with which both get there
    other = [marked("loramoe_lbc", seed, [(0.8, "01")], rate) for seed in (0, 1) for rate in (1.0, 2.0)]
    (_, _, matched) = sorted(
        contrasts({"tasks": 0.0}, [*full, *slow, *fast, *other], facts, levels=[0.6])["pairs"],
        key=lambda pair: (pair["a"], pair["b"]),
    )
    assert (matched["a"], matched["at"][0]["mean"]) == ("lora", 0.0)


def test_intervals_of_effects_count_facts_too():
    """Row b keeps relation x, which the others lose: without it there would be no effect."""
    rng, runs = np.random.default_rng(0), []
    for name in "abc":
        for number in range(4):
            one = run(name, number % 2, [(0.5, *rng.uniform(0.1, 0.9, 2)) for _ in range(3)])
            for snapshot in one.result["snapshots"]:
                snapshot["kept"] = ("11" if name == "b" else "00") + "10" * 4
            runs.append(one)
    facts = Facts(np.array([*"xx", *"pqrspqrs"]), np.ones(10, np.int32))
    found = row_test(runs, BASE, facts)
    assert found is not None
    effect = found["effects"]["b"]
    assert effect["mean"] == pytest.approx(0.2 * 2 / 3)
    # without x it is 0, without any of the four others .25 · 2 / 3; runs are all alike
    left_out = np.array([0.0, *[2 / 8 * 2 / 3] * 4])
    variance = 4 / 5 * np.square(left_out - left_out.mean()).sum()
    assert effect["high"] - effect["mean"] == pytest.approx(half_width([(variance, 4)]))
    assert half_width([(0.0, 3)]) == 0.0
    # facts that do not count are not looked at
    without = row_test(runs, BASE, Facts(facts.relations, np.array([0, 0] + [1] * 8, np.int32)))
    assert without is not None
    assert without["effects"]["b"]["mean"] == pytest.approx(0, abs=1e-12)


def test_rows_of_one_rate_are_not_tested_beside_rows_of_several():
    runs = [run(name, 0, [(0.9, 0.5, 0.1)], rate) for name in "ab" for rate in (1.0, 2.0)]
    alone = [run("c", seed, [(0.9, 0.5, 0.1)]) for seed in (0, 1)]
    assert {one.row for one in frontier._with_as_many_rates([*runs, *alone])} == {"a", "b"}
    assert frontier._with_as_many_rates(alone) == alone


def test_rows_are_compared_where_all_have_been():
    base = {
        "test": BASE,
        "known": {"facts": [1, 2], "choices": [], "few_shot": [], "files": {}},
        "answers": [],
    }
    runs = [run("a", 0, [(0.9, 0.4, 0.2), (0.7, 0.8, 0.6)]), run("b", 0, [(0.9, 0.3, 0.2), (0.8, 0.62, 0.4)])]
    found = summarize(FrontierRuns(base, runs), ["a", "b"], 50)
    assert found["level"] == 0.6
    assert found["kl_level"] == 0.4
    assert found["rows"]["a"]["at_level"]["completed"]["mean"] == pytest.approx(0.8)
    assert found["rows"]["b"]["at_kl"]["tasks"]["mean"] == pytest.approx(0.62)
    assert found["base"]["known"]["facts"] == 2
    # one run: Wilson's interval over the tasks, 31 of 50
    last = found["rows"]["b"]["last"]["tasks"]
    assert (last["low"], last["high"]) == pytest.approx((0.4815, 0.7414), abs=1e-4)  # four digits
    assert summarize(FrontierRuns(), ["a"], 50)["rows"] == {}


def test_a_row_with_several_rates_of_all_seeds_is_told_apart_by_rate():
    runs = [run("a", seed, [(0.9, 0.4, 0.2)], rate) for seed in (0, 1) for rate in (0.5, 1.0, 2.0)]
    groups = FrontierRuns({}, runs).groups()
    assert {key: (mine[0].rate, len(mine)) for key, mine in groups.items()} == {
        "a 1": (1.0, 2),
        "a 2": (2.0, 2),
    }
    tried = FrontierRuns({}, [one for one in runs if not one.final]).groups()
    assert list(tried) == ["a"]


def test_the_page_of_a_study_that_is_partly_there():
    """Main rows, an average with the base, rows that are still to be run, and a test of the rows."""
    base = {
        "test": {"completed": 1.0, "tasks": 0.0},
        "asked": {"facts": 300, "choices": 10, "few_shot": 10, "files": {}},
        "known": {"facts": list(range(10)), "choices": [1, 2], "few_shot": [1], "files": {}},
        "answers": ["a"],
    }
    study = reproduce.make("loramoe", Path("unused"), "reproduce/loramoe_smollm2", [])
    found, rng = {study.base_cell(0).name: base}, np.random.default_rng(0)
    rated = {name for name, row in study.config.rows.items() if row.rates}
    for cell in (one for one in study.cells(found) if one.name.split("-")[0] in rated):
        kl = np.cumsum(rng.uniform(0.1, 0.3, 3)).tolist()
        points = [(1 - one**2 / 2, min(one * rng.uniform(0.8, 1.2), 0.99), one) for one in kl]
        found[cell.name] = run("", 0, points).result
    summary = study.summary(found) | {"run": {"commit": "c0ffee"}}
    unrated = study.page(summary)
    assert "Not run yet: LoRAMoE, no constraint; full SFT, averaged" in unrated.card["runs"]
    assert summary["rows"]["full 5e-05"]["final"]
    assert {key for key, row in summary["rows"].items() if row["row"] == "full"} == {
        "full 5e-05",
        "full 0.0001",
    }
    tests = next(section for section in unrated.sections if section.title.startswith("Does the row"))
    assert [row[0] for row in tests.tables[1].rows] == [
        "own, backward",
        "on right answers, forward",
        "on prompts, forward",
    ]
    assert summary["contrasts_without_dull"] is None  # this base was not told by family
    assert summary["test"]["runs"] == 40  # four rates of five rows, two of them with two seeds more
    compared = next(section for section in unrated.sections if section.title.startswith("Which keeps more"))
    assert [row[0] for row in compared.tables[1].rows][:2] == [
        "LoRAMoE − LoRA",
        "LoRAMoE, attention too − LoRA, attention too",
    ]
    averaged = next(cell for cell in study.cells(found) if cell.name.startswith("full_average"))
    found[averaged.name] = run("", 0, [(0.99, 0.1, 0.1), (0.9, 0.3, 0.2), (0.8, 0.5, 0.3)]).result
    for alpha, snapshot in zip((0.25, 0.5, 0.75), found[averaged.name]["snapshots"], strict=True):
        snapshot["alpha"] = alpha
    page = study.page(json.loads(json.dumps(study.summary(found) | {"run": {}})))
    titles = [section.title for section in page.sections]
    assert titles[:3] == ["Design", "Results", "What else keeps knowledge"]
    assert {picture.name for section in page.sections for picture in section.pictures} == {
        "loramoe_kept",
        "loramoe_kept_volume",
        "loramoe_rivals",
    }
    shares = page.sections[2].tables[-1]
    assert [row[0] for row in shares.rows] == ["0.25", "0.5", "0.75"]
    assert page.sections[2].tables[0].rows[0][0] == "full SFT, averaged with the base, 0.75"
