"""Knowledge at equal accuracy and at equal divergence; the test of rows, on data whose answer is known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from training.studies import reproduce
from training.studies.loramoe import frontier
from training.studies.loramoe.frontier import FrontierRun, FrontierRuns, path, read_off, row_test, summarise

BASE = {"tasks": 0.0}


def run(row: str, seed: int, points: list[tuple[float, float, float]], rate: float = 1.0) -> FrontierRun:
    """Points are kept, tasks, KL."""
    snapshots = [
        {
            "volume": n + 1,
            "completed": kept,
            "tasks": tasks,
            "kl": {w: {"forward": kl, "backward": kl} for w in ("own", "answers", "prompts")},
        }
        for n, (kept, tasks, kl) in enumerate(points)
    ]
    result = {"snapshots": snapshots, "dev_tasks": points[-1][1], "trained_weights": 1}
    return FrontierRun(row, seed, rate, result, final=rate == 1.0)


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


def test_without_an_effect_p_is_seldom_small(monkeypatch):
    """Noise is of whole runs, so that snapshots taken for independent would be significant far too often."""
    monkeypatch.setattr(frontier, "PERMUTATIONS", 99)
    found = [row_test(simulated(0.0, seed), BASE)["p"] for seed in range(30)]
    assert sum(p <= 0.1 for p in found) <= 8  # of 30 at .1: 3 expected, more than 8 with probability .003
    assert max(found) > 0.5


def test_too_little_is_no_test():
    assert row_test([run("a", 0, [(0.9, 0.5, 0.1)])], BASE) is None
    assert row_test([run(name, 0, [(0.9, 0.5, 0.1)]) for name in "ab"], BASE) is None


def test_rows_are_compared_where_all_have_been():
    base = {
        "test": BASE,
        "known": {"facts": [1, 2], "choices": [], "few_shot": [], "files": {}},
        "answers": [],
    }
    runs = [run("a", 0, [(0.9, 0.4, 0.2), (0.7, 0.8, 0.6)]), run("b", 0, [(0.9, 0.3, 0.2), (0.8, 0.62, 0.4)])]
    found = summarise(FrontierRuns(base, runs), ["a", "b"], 50)
    assert found["level"] == 0.6
    assert found["kl_level"] == 0.4
    assert found["rows"]["a"]["at_level"]["completed"]["mean"] == pytest.approx(0.8)
    assert found["rows"]["b"]["at_kl"]["tasks"]["mean"] == pytest.approx(0.62)
    assert found["base"]["known"]["facts"] == 2
    # one run: Wilson's interval over the tasks, 31 of 50
    last = found["rows"]["b"]["last"]["tasks"]
    assert (last["low"], last["high"]) == pytest.approx((0.4815, 0.7414), abs=1e-4)  # four digits
    assert summarise(FrontierRuns(), ["a"], 50)["rows"] == {}


def test_the_page_of_a_study_that_is_partly_there():
    """Main rows, an average with the base, rows that are still to be run, and a test of the rows."""
    base = {
        "test": {"completed": 1.0, "tasks": 0.0},
        "asked": {"facts": 300, "choices": 10, "few_shot": 10, "files": {}},
        "known": {"facts": list(range(200)), "choices": [1, 2], "few_shot": [1], "files": {}},
        "answers": ["a"],
    }
    study = reproduce.make("loramoe", Path("unused"), "reproduce/loramoe_smollm2", [])
    found, rng = {study.base_cell(0).name: base}, np.random.default_rng(0)
    for cell in study.cells(found)[1:]:
        kl = np.cumsum(rng.uniform(0.1, 0.3, 3)).tolist()
        points = [(1 - one**2 / 2, min(one * rng.uniform(0.8, 1.2), 0.99), one) for one in kl]
        found[cell.name] = run("", 0, points).result
    summary = study.summary(found) | {"run": {"commit": "c0ffee"}}
    unrated = study.page(summary)
    assert "Not run yet: LoRAMoE, no constraint; full SFT, averaged" in unrated.card["runs"]
    assert summary["rows"]["full"]["chosen"]
    assert summary["test"]["runs"] == 20
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
