"""The RealBehavior study: statistics by closed form, verdicts both ways, shared bases, a plumbing run."""

import json
import math
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from evals.faithfulness import null_study
from evals.questionnaires.administration import administer
from evals.questionnaires.respondents.simulated import simulated_respondent
from evals.questionnaires.response_table import cube
from jaxmoe.datasets import corpora
from jaxmoe.model import params
from training.__main__ import app
from training.ppo import train as ppo
from training.runtime import config as configs
from training.runtime.run_folder import Finished
from training.studies import reproduce
from training.studies.cells import StoppedError
from training.studies.loramoe.config import LoramoeConfig
from training.studies.loramoe.study import LoramoeStudy
from training.studies.realbehavior import page as realbehavior_page
from training.studies.realbehavior import study as realbehavior
from training.studies.realbehavior import summary as realbehavior_summary
from training.studies.realbehavior.answers import Questionnaire, ScoringKey, conclusions, tally
from training.studies.realbehavior.config import AskedConfig, RealbehaviorConfig
from training.studies.realbehavior.summary import REINFORCED, AnsweredRun
from training.studies.stepcoder.study import StepcoderConfig, StepcoderStudy

FILE = Path("configs/reproduce/realbehavior.yaml")
# two scales of which the second flatters where it is low, three people
KEY = ScoringKey(
    {"q/openness": 1, "q/neuroticism": -1}, {"q/openness": [-1, 0, 1], "q/neuroticism": [1, 0, -1]}
)
SPREAD = np.asarray([-1.0, 0.0, 1.0])


def snapshot(
    shift: float = 0.0, spread: float = 1.0, *, at: int = 0, verdict: str = "not faithful"
) -> dict[str, Any]:
    """Openness 3 + shift, neuroticism 2 + shift; people lie `spread` apart, the two conditions .2."""
    scores = {
        f"q/{name}": (middle + shift + spread * SPREAD[:, None] + np.asarray([-0.1, 0.1])).tolist()
        for name, middle in (("openness", 3.0), ("neuroticism", 2.0))
    }
    verdicts = [
        {"instrument": "q", "construct": construct, "criterion": criterion, "verdict": verdict}
        for construct in ("openness", "neuroticism")
        for criterion in realbehavior_page.CRITERIA
    ]
    style = dict.fromkeys(("acquiescence", "extremity", "midpoint", "position"), 0.5)
    return {"at": at, "expected": scores, "chosen": scores, "style": style, "verdicts": verdicts}


# statistics


def test_drift_is_in_standard_deviations_of_the_base():
    """Scores m + {−1, 0, 1} ± .1: Σ (x − m)² = 4 · 1.01 + 2 · .01 = 4.06, over 5 gives the variance."""
    sd = math.sqrt(4.06 / 5)
    before, after = snapshot(), snapshot(shift=-0.4, spread=0.5)
    np.testing.assert_allclose(realbehavior_summary.deltas(before, after), -0.4 / sd)
    assert realbehavior_summary.drift(before, after) == pytest.approx(0.4 / sd)
    assert realbehavior_summary.drift(before, before) == 0
    # less openness does not flatter, less neuroticism does
    assert realbehavior_summary.flattering(before, after, KEY) == pytest.approx(0, abs=1e-12)
    flat = ScoringKey(KEY.flattering | {"q/openness": 0}, KEY.traits)
    assert realbehavior_summary.flattering(before, after, flat) == pytest.approx(0.4 / sd)


def test_dispersion_is_between_people_alone():
    """Conditions do not count, nor does a shift; a base without any spread has no ratio."""
    assert realbehavior_summary.dispersion(snapshot(), snapshot(shift=1.0, spread=0.25)) == pytest.approx(
        0.25
    )
    # 3.3 thirds do not add up to 3.3: what is left is rounding and no spread
    alike = snapshot(shift=0.3, spread=0.0)
    assert math.isnan(realbehavior_summary.dispersion(alike, snapshot()))
    assert realbehavior_summary.dispersion(snapshot(), alike) == pytest.approx(0, abs=1e-9)


def test_signal_is_the_correlation_with_what_people_are_described_as():
    """Openness follows the descriptions (1), neuroticism goes against them (−1); without spread it is 0."""
    assert realbehavior_summary.signal(snapshot(), KEY) == pytest.approx(0)
    same = ScoringKey(KEY.flattering, {name: [-1.0, 0.0, 1.0] for name in KEY.traits})
    assert realbehavior_summary.signal(snapshot(), same) == pytest.approx(1)
    assert realbehavior_summary.signal(snapshot(spread=0.0), same) == 0


def test_ratios_have_a_geometric_mean_and_the_interval_of_their_logarithms():
    """.25 and 1: logarithms −2 ln 2 and 0, mean −ln 2, standard error ln 2, t(.975, 1) = 12.7062."""
    found = realbehavior_summary.ratio_interval([0.25, 1.0])
    assert (found["mean"], found["n"]) == (0.5, 2)
    assert found["high"] == pytest.approx(0.5 * 2**12.7062, rel=1e-3)  # of a rounded quantile
    assert realbehavior_summary.ratio_interval([0.0])["mean"] == realbehavior_summary.LEAST_RATIO
    assert realbehavior_summary.ratio_interval([math.nan])["mean"] is None


def test_one_run_is_resampled_over_people():
    """Everybody moves alike and halves: each draw says so, whoever is drawn."""
    found = realbehavior_summary.within(snapshot(), snapshot(spread=0.5))
    assert found["dispersion"]["low"] == found["dispersion"]["high"] == found["dispersion"]["mean"] == 0.5
    moved = realbehavior_summary.within(snapshot(), snapshot(shift=0.4))["drift"]
    assert moved["low"] < moved["mean"] <= moved["high"]


def null_result(wrong_seeds: int, seeds: int = 20, *, distinct: int = 20) -> dict[str, Any]:
    """Two conclusions a seed; both are wrong in some."""
    sheets = [{"faithful": 2}] * wrong_seeds + [{"not faithful": 2}] * (seeds - wrong_seeds)
    return {
        "conclusions": sheets,
        "distinct": distinct,
        "verdicts": tally([snapshot()["verdicts"]] * seeds),
    }


def test_wrong_conclusions_are_counted_by_seed():
    """0 of n is at most z² / (n + z²), n the 20 seeds and not the 40 conclusions; .05 of seeds wrong."""
    none = realbehavior_summary.wrong("random", null_result(0))
    assert none["wrong"]["mean"] == 0
    assert none["wrong"]["high"] == pytest.approx(1.96**2 / (20 + 1.96**2), abs=1e-3)  # of a rounded quantile
    assert none["counts"] == {"faithful": 0, "undetermined": 0, "not faithful": 40}
    assert realbehavior_summary.wrong("random", null_result(1))["wrong"]["mean"] == 0.05
    # what comes out faithful is right of the faithful one alone
    assert realbehavior_summary.wrong("faithful", null_result(1))["wrong"]["mean"] == 0.95
    alike = realbehavior_summary.wrong("constant", null_result(0, distinct=1))["wrong"]
    assert alike == {"mean": 0.0, "low": None, "high": None}


# verdicts


def summary_of(shifts: list[float], spreads: list[float], **more: Any) -> dict[str, Any]:
    """Runs of one row, two nulls, in the words of a study without cells."""
    study = realbehavior.make(configs.load(RealbehaviorConfig, FILE), Path("unused"))
    bases = {0: snapshot(), 1: snapshot(shift=0.2)}
    runs = [
        AnsweredRun("full", 0, n, [snapshot(), snapshot(shift, spread, at=80)])
        for n, (shift, spread) in enumerate(zip(shifts, spreads, strict=True))
    ]
    runs.append(AnsweredRun(REINFORCED, 0, 0, [snapshot(), snapshot(0.1, 0.9, at=8)]))
    nulls = {"random": null_result(0, 200, distinct=200), "faithful": null_result(0, 200, distinct=200)}
    found = realbehavior_summary.summarize(bases, runs, nulls, KEY)
    return json.loads(json.dumps({"run": {}, **study.summary({}), **found, **more}))


@pytest.mark.parametrize(
    ("shifts", "spreads", "drift", "dispersion"),
    [
        ([0.9, 1.0, 1.1], [0.4, 0.5, 0.6], "shown", "shown"),
        ([0.1, 0.1, 0.11], [1.4, 1.5, 1.6], "refuted at this scale", "refuted at this scale"),
        ([0.1, 0.9, 0.4], [0.5, 1.0, 2.0], "not shown", "not shown"),
        ([1.0], [0.5], "not shown", "not shown"),
    ],
)
def test_drift_and_dispersion_are_judged_by_their_intervals(shifts, spreads, drift, dispersion):
    summary = summary_of(shifts, spreads)
    assert realbehavior_page.moved(summary, "full").outcome == drift
    assert realbehavior_page.restricted(summary, "full").outcome == dispersion
    # one run alone shows nothing, and its interval is of other people
    alone = realbehavior_page.restricted(summary, REINFORCED)
    assert alone.outcome == "not shown"
    assert "over described people 0.90 [0.90, 0.90]" in alone.evidence


@pytest.mark.parametrize(
    ("conclusions", "outcome"),
    [
        ([{"faithful": 4, "undetermined": 0, "not faithful": 1}] * 2, "shown"),
        ([{"faithful": 0, "undetermined": 5, "not faithful": 0}], "not shown"),
        ([{"faithful": 5, "undetermined": 0, "not faithful": 0}], "refuted at this scale"),
        ([], "not shown"),
    ],
)
def test_one_construct_that_cannot_be_believed_is_enough(conclusions, outcome):
    summary = {"respondents": {"base": {"conclusions": conclusions}}}
    assert realbehavior_page.believed(summary).outcome == outcome


@pytest.mark.parametrize(
    ("wrong_seeds", "seeds", "outcome"),
    [(0, 200, "shown"), (10, 200, "not shown"), (100, 200, "refuted at this scale")],
)
def test_the_judging_is_sound_where_its_errors_are_surely_few(wrong_seeds, seeds, outcome):
    found = realbehavior_summary.wrong("random", null_result(wrong_seeds, seeds, distinct=seeds))
    summary = summary_of([0.1], [1.0], nulls={"random": found})
    verdict = realbehavior_page.sound(summary, "not faithful")
    assert verdict.outcome == outcome
    assert realbehavior_page.sound(summary, "faithful").evidence == "none asked yet"


def test_a_summary_makes_a_page():
    summary = summary_of([0.9, 1.0], [0.4, 0.5])
    page = realbehavior_page.page("title", summary)
    names = [picture.name for section in page.sections for picture in section.pictures]
    assert names == [f"realbehavior_{name}" for name in ("verdicts", "drift", "dispersion", "profile")]
    # four decimals
    assert summary["between_bases"]["drift"] == pytest.approx(0.2 / math.sqrt(4.06 / 5), abs=1e-4)
    assert page.card["models"].startswith("base: 2 runs; full SFT: 2 runs")


def test_no_result_yet_still_makes_a_page():
    study = realbehavior.make(configs.load(RealbehaviorConfig, FILE), Path("unused"))
    page = study.page({"run": {}, **study.summary({})})
    assert [section.title for section in page.sections] == ["Design"]


# answers


@pytest.fixture(scope="module")
def questionnaire() -> Questionnaire:
    return Questionnaire(AskedConfig(), 8)


def test_scores_of_choices_are_those_of_the_response_cube(questionnaire):
    """People and conditions in whatever order: the same numbers, and each person's are together."""
    table = administer(simulated_respondent("faithful", 3), questionnaire.batteries, questionnaire.design)
    found = questionnaire.scores(table, "response")
    for instrument in questionnaire.instruments:
        laid = cube(table, instrument, ("persona",))
        order = laid.persons.get_indexer([(person.name,) for person in questionnaire.personas])
        for scale in instrument.domains:
            ours = np.asarray(found[f"{instrument.name}/{scale.measures}"])
            np.testing.assert_allclose(
                np.sort(ours, axis=1), np.sort(laid.scores(scale)[order], axis=1), rtol=1e-12
            )


def test_conclusions_are_those_of_the_null_study(questionnaire):
    config = AskedConfig(situations=6)
    ours = Questionnaire(config, 8)
    who = simulated_respondent("desirable", 1)
    table = administer(who, ours.batteries, ours.design)
    assert conclusions(ours.verdicts(table)) == null_study.conclusions(who, ours.instruments, ours.design)


def test_one_who_answers_alike_is_judged_once(questionnaire, monkeypatch):
    judged = []
    monkeypatch.setattr(questionnaire, "verdicts", lambda table: judged.append(1) or snapshot()["verdicts"])
    found = questionnaire.of_simulated("midpoint", 3, lambda: False)
    assert (found["distinct"], len(found["conclusions"]), len(judged)) == (1, 3, 1)
    assert questionnaire.of_simulated("random", 2, lambda: False)["distinct"] == 2
    with pytest.raises(StoppedError):
        questionnaire.of_simulated("random", 2, lambda: True)


def test_traits_and_what_flatters_are_in_the_direction_of_the_construct(questionnaire):
    flattering = questionnaire.key.flattering
    assert flattering["ipip_50/neuroticism"] == flattering["mini_ipip/neuroticism"] == -1
    assert flattering["ipip_50/agreeableness"] == 1
    assert sum(questionnaire.key.traits["mini_ipip/openness"]) == 0


# the cells


def test_bases_and_runs_are_those_of_the_other_studies(tmp_path):
    study = realbehavior.make(configs.load(RealbehaviorConfig, FILE), tmp_path)
    tuning = LoramoeStudy(configs.load(LoramoeConfig, Path(study.config.loramoe)), tmp_path)
    coding = StepcoderStudy(configs.load(StepcoderConfig, Path(study.config.stepcoder)), tmp_path)
    assert study._loramoe.bases.folder(1) == tuning.bases.folder(1)
    assert study._stepcoder.bases.folder(0) == coding.bases.folder(0)
    cells = {cell.name: cell for cell in study.cells({})}
    assert len(cells) == 2 + 2 * 2 * 2 + 1 + 7
    rate = study.config.tuned["full"].rate
    theirs = tuning.tuned_cell("full", tuning.config.rows["full"], 1, 0, rate).settings
    assert cells["full-b1-s0"].settings["run"] == {k: v for k, v in theirs.items() if k != "exam"}
    # with quiet cores, and bases that are there, within the limit
    pretraining = sum(tuning.base_cell(n).cost for n in range(2))
    assert sum(cell.cost for cell in cells.values()) - pretraining < 25 * 60


def test_a_run_of_reinforcement_that_was_stopped_keeps_its_folder(tmp_path, monkeypatch):
    study = realbehavior.make(configs.load(RealbehaviorConfig, FILE), tmp_path)
    cell = next(c for c in study.cells({}) if c.name == f"{REINFORCED}-s0")
    (study._stepcoder.bases.folder(0) / "export").mkdir(parents=True)
    seen = []

    def stop(config):
        seen.append(config)
        Path(config.output).mkdir(parents=True)
        return Finished(None, 3, False, Path(config.output))  # type: ignore[arg-type]

    monkeypatch.setattr(ppo, "main", stop)
    with pytest.raises(StoppedError):
        study.run(cell, lambda: False)
    assert Path(seen[0].output).exists()
    assert (seen[0].rounds, seen[0].checkpoint.every, seen[0].mask) == (12, 6, "fgo")
    assert seen[0].checkpoint.keep >= 2


# the command


TINY = """
loramoe: {folder}/loramoe.yaml
stepcoder: {folder}/stepcoder.yaml
scale: 0.01
bases: 1
seeds: 1
volumes: [1]
tuned: {{full: {{label: full SFT, rate: 5.0e-4}}}}
reinforced: {{row: ppo, rounds: 100, every: 1}}
nulls: [midpoint, faithful]
asked: {{instruments: [mini_ipip], templates: [terse], batch_size: 8}}
"""
TUNING = """
base: {folder}/base.yaml
samples: 800
volumes: [1]
data: {{batch_size: 8, length: 64, packing: first_fit}}
rows: {{full: {{label: full SFT, adapter: none, rates: [5.0e-4]}}}}
"""
CODING = """
base: {folder}/base.yaml
ppo: {folder}/ppo.yaml
bases: 1
rows: {{ppo: {{label: PPO}}}}
regimes: {{mixture: {{label: mixture, problems: {{held_out: 0.5, embedded: {{count: 24}}}}}}}}
"""
BASE = """
output: unused
steps: 200
model: {{vocab_size: 512, hidden_size: 16, intermediate_size: 24, num_layers: 1, num_heads: 2,
         head_dim: 8, num_kv_heads: 1, max_positions: 768}}
data:
  sources: [{{path: {texts}}}]
  vocab_size: 512
  batch_size: 8
  length: 64
  packing: first_fit
watch: {{tensorboard: false, plots: false, progress: false}}
"""
PPO = """
base: unused
output: unused
rounds: 1
experts: {num_experts: 2, rank: 2}
rollout: {prompts: 2, samples: 2, prompt_tokens: 512, response_tokens: 192, smallest_bucket: 512}
critic: {body: frozen}
watch: {progress: false}
"""


@pytest.fixture(scope="module")
def plumbing(tmp_path_factory):
    """A whole study in seconds."""
    folder = tmp_path_factory.mktemp("reproduce")
    texts = islice(corpora.tokenizer_texts(corpora.study_corpus()), 0, 8000, 8)
    (folder / "texts.txt").write_text("\n".join(text.replace("\n", " ") for text in texts))
    # one shape serves the base, its fine-tuning and the code model: less to compile
    (folder / "base.yaml").write_text(BASE.format(texts=folder / "texts.txt"))
    (folder / "ppo.yaml").write_text(PPO)
    (folder / "loramoe.yaml").write_text(TUNING.format(folder=folder))
    (folder / "stepcoder.yaml").write_text(CODING.format(folder=folder))
    (folder / "realbehavior.yaml").write_text(TINY.format(folder=folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "training.runtime.distributed.MeshConfig.make", lambda self: params.single_device_mesh()
        )
        assert reproduce.reproduce("realbehavior", folder / "out", folder / "realbehavior.yaml", [])
    return folder


def test_a_plumbing_run_says_so_on_its_page(plumbing):
    page = (plumbing / "out" / "realbehavior.html").read_text()
    assert "Plumbing run at scale 0.01" in page
    found = json.loads((plumbing / "out" / "realbehavior.json").read_text())
    assert found["run"]["cells"] == "5 of 5"
    assert found["rows"]["full"]["steps"] == [0, 8]
    assert found["rows"][REINFORCED]["steps"] == [0, 1]
    assert found["rows"]["full"]["drift"][0]["mean"] == 0 < found["rows"]["full"]["drift"][1]["mean"]
    # after two steps of pretraining nobody is told apart: there is no spread to compare with
    assert found["rows"]["full"]["dispersion"][0]["mean"] is None
    assert set(found["respondents"]) == {"base", "full", "code_base", REINFORCED}
    assert found["nulls"]["midpoint"]["wrong"]["low"] is None
    assert [point["round"] for point in found["held_out"][0]] == [0, 1]
    drawn = {path.stem for path in (plumbing / "out" / "figures").glob("*.svg")}
    assert drawn == {f"realbehavior_{name}" for name in ("verdicts", "drift", "dispersion", "profile")}


def test_cells_are_small_and_leave_no_run(plumbing):
    assert not list((plumbing / "out" / "running").iterdir())
    cells = list((plumbing / "out" / "cells" / "realbehavior").glob("*.json"))
    assert len(cells) == 5
    assert max(path.stat().st_size for path in cells) < 100_000


def test_the_same_command_runs_nothing_again(plumbing, monkeypatch, capsys):
    monkeypatch.setattr(realbehavior.RealbehaviorStudy, "run", None)  # a call would fail
    assert reproduce.reproduce("realbehavior", plumbing / "out", plumbing / "realbehavior.yaml", [])
    assert "5 cells are done already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("scale=0", r"scale must lie in \(0, 1\]"),
        ("volumes=[10,1]", "volumes must rise"),
        ("volumes=[1,300]", "volumes must end where those of reproduce/loramoe do, or earlier"),
        ("nulls=[sleepy]", "nulls must be of constant, midpoint, random"),
        ("tuned.fulll={label: x, rate: 1.0e-3}", "tuned must name rows of reproduce/loramoe"),
        ("reinforced.regime=easy", "reinforced.row and regime must be of"),
        ("asked.personas=40", "asked.personas must be 2 to 32"),
        ("asked.persona=4", r"did you mean asked\.personas\?"),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, override, said):
    run = CliRunner().invoke(app, ["reproduce", "realbehavior", "--out", str(tmp_path), override])
    assert run.exit_code == 2
    assert re.search(said, " ".join(run.output.split()))
