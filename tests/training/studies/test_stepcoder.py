"""The StepCoder study: what is kept of a run, paired statistics, verdicts, regimes, a plumbing run."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from typer.testing import CliRunner

from jaxmoe.model import params
from jaxmoe.tokenizer import load_tokenizer
from rl.feedback.problems import Problem
from rl.feedback.prompts import extract
from rl.policy.trajectory import Outcomes
from rl.stepcoder.grading import Graded
from tests.tolerances import rounding_bound
from training.__main__ import app
from training.ppo import train as ppo
from training.ppo.policy import make_agent
from training.ppo.problems import EmbeddedConfig, ProblemsConfig
from training.runtime import config as configs
from training.runtime.model import make_model
from training.runtime.run_folder import Finished
from training.studies import reproduce
from training.studies.cells import StoppedError
from training.studies.stepcoder import figures, forgetting
from training.studies.stepcoder import gradient as stepcoder_gradient
from training.studies.stepcoder import page as stepcoder_page
from training.studies.stepcoder import sft as stepcoder_sft
from training.studies.stepcoder import study as stepcoder
from training.studies.stepcoder import summary as stepcoder_summary
from training.studies.stepcoder.config import StepcoderConfig
from training.studies.stepcoder.setup import PolicySetup
from training.studies.stepcoder.summary import PACE, StepcoderRun

FILE = Path("configs/reproduce/stepcoder.yaml")


# what is kept of a run


def test_a_run_keeps_its_measurements_rounds_and_stages():
    rounds = dict.fromkeys(stepcoder.KEPT, 0.25) | {"tokens": 30.0}
    records = [
        {
            "step": 0,
            "held_out_pass_at_1": 0.1,
            "held_out_pass_at_1_hard": 0.0,
            "held_out_standard_error": 0.1,
        },
        {"step": 0, "held_out_pass_at_1": 0.2, "held_out_pass_at_1_hard": 0.1},  # begun anew after a kill
        {"step": 1, "loss": 2.0, **rounds, "stage_0": 1.0, "stage_1": 3.0},
        {"step": 2, **rounds, "kl": None, "stage_0": 3.0, "stage_1": 1.0},
        {"step": 2, "held_out_pass_at_1": 0.5, "held_out_pass_at_1_hard": 0.25},
    ]
    found = stepcoder.read_run(records)
    assert found["held_out"] == [
        {"round": 0, "all": 0.2, "hard": 0.1},
        {"round": 2, "all": 0.5, "hard": 0.25},
    ]
    assert found["rounds"]["kl"] == [0.25, None]
    assert found["stages"] == [{"0": 1, "1": 3}, {"0": 3, "1": 1}]
    assert found["tokens"] == 60
    without = [{k: v for k, v in r.items() if not k.startswith("stage_")} for r in records]
    assert stepcoder.read_run(without)["stages"] == []


# statistics and verdicts


def result_of(*scores: float, stages: bool = False) -> dict:
    """Measured at rounds 0, 2, 4; solves half as many hard problems."""
    held_out = [{"round": 2 * n, "all": s, "hard": s / 2} for n, s in enumerate(scores)]
    rounds = {key: [0.5, None, 0.25, 0.75] for key in stepcoder.KEPT}
    table = [{"0": 1, "1": 3}, {"0": 2, "1": 2}, {"0": 3, "1": 1}, {"0": 4}]
    return {"held_out": held_out, "rounds": rounds, "stages": table if stages else [], "tokens": 100}


def known_runs() -> list[StepcoderRun]:
    """Three seeds that start at .2, .3, .4: PPO gains .3, StepCoder .08, .10, .12 more, the mask −.2 less."""
    runs = []
    for seed, more in enumerate((0.08, 0.10, 0.12)):
        start = 0.2 + seed / 10
        for row, gain in (("ppo", 0.3), ("fgo", 0.1 - more / 10), ("stepcoder", 0.3 + more)):
            result = result_of(start, start + gain / 2, start + gain, stages=row == "stepcoder")
            runs.append(StepcoderRun(row, "hard", seed, result))
    return runs


def summarized() -> dict:
    return stepcoder_summary.summarize(known_runs(), ["ppo", "fgo", "stepcoder"], ["hard", "mixture"])


def test_differences_are_paired_by_seed():
    """.08, .10, .12: mean .1, standard error .02 / √3, t(.975, 2) = 4.3027."""
    regime = summarized()["regimes"]["hard"]
    found = {(d["a"], d["b"], d["what"]): d for d in regime["differences"]}
    gain = found["ppo", "stepcoder", "all"]
    assert (gain["mean"], gain["n"]) == (0.1, 3)
    assert gain["low"] == pytest.approx(0.1 - 4.3027 * 0.02 / 3**0.5, abs=1e-3)  # of a rounded quantile
    assert found["ppo", "stepcoder", "hard"]["mean"] == pytest.approx(0.05)
    assert found["start", "ppo", "all"]["mean"] == pytest.approx(0.3)
    # a straight way up is on the average half as high as its end
    assert found["ppo", "stepcoder", PACE]["mean"] == pytest.approx(0.05)
    assert ("start", "ppo", PACE) not in found
    assert not any("cccs" in pair for pair in found)


def test_pace_weighs_measurements_by_the_rounds_between_them():
    """.2 for 2 rounds, then up to .6 over 6: (2 · .2 + 6 · .4) / 8."""
    result = {"held_out": [{"round": r, "all": s} for r, s in ((0, 0.2), (2, 0.2), (8, 0.6))]}
    assert StepcoderRun("ppo", "hard", 0, result).value(PACE) == pytest.approx(0.35)


def test_the_start_is_counted_once_a_seed_and_rounds_skip_what_was_not_finite():
    regime = summarized()["regimes"]["hard"]
    assert (regime["start"]["all"]["mean"], regime["start"]["all"]["n"]) == (0.3, 3)
    assert regime["rows"]["ppo"]["rounds"]["kl"] == [0.5, None, 0.25, 0.75]
    assert regime["rows"]["stepcoder"]["stages"] == {"0": [0.25, 0.5, 0.75, 1.0], "1": [0.75, 0.5, 0.25, 0.0]}
    assert regime["rows"]["ppo"]["stages"] == {}


def test_verdicts_follow_from_the_intervals(monkeypatch):
    study = stepcoder.make(configs.load(StepcoderConfig, FILE), Path("unused"))
    monkeypatch.setattr(study, "_sizes", {"held_out": {"hard": 3}, "hard": {"hard": 2}})
    summary = {"run": {}, **study.summary({}), **summarized(), "seeds": [0, 1, 2]}
    page = stepcoder_page.page("title", json.loads(json.dumps(summary)))
    assert page.warning == ""
    verdicts = {v.claim: v.outcome for v in page.sections[0].verdicts}
    assert verdicts["StepCoder solves more held-out problems than PPO"] == "shown"
    assert verdicts["The mask alone improves PPO"] == "refuted at this scale"
    assert verdicts["The curriculum alone improves PPO"] == "not shown"
    pictures = [p.name for section in page.sections for p in section.pictures]
    assert pictures == ["stepcoder_curves", "stepcoder_stages", "stepcoder_practice"]


def test_no_result_yet_still_makes_a_page():
    study = stepcoder.make(configs.load(StepcoderConfig, FILE), Path("unused"))
    study._sizes = {"held_out": {"hard": 3}}  # type: ignore[misc]
    page = study.page({"run": {}, **study.summary({})})
    assert page.card["runs a row and regime"] == "none yet"


# gradients


def test_cosine():
    assert stepcoder_gradient.cosine(np.array([1.0, 0.0]), np.array([3.0, 4.0])) == pytest.approx(0.6)
    assert stepcoder_gradient.cosine(np.zeros(2), np.ones(2)) is None


def test_gains_are_of_the_same_batch_and_intervals_over_bases():
    """Base means .05 and .15: mean .1, t(.975, 1) = 12.7062, standard error .05."""

    def base(*pairs):
        rest = {"left_out": 0.25, "false_passes": None}
        return {"batches": {"1": [{"plain": p, "masked": m, **rest} for p, m in pairs]}}

    found = stepcoder_summary.gradients([base((0.1, 0.1), (0.2, 0.3)), base((0.1, 0.25), (None, 0.5))])["1"]
    assert (found["gain"]["mean"], found["gain"]["n"]) == (0.1, 2)
    assert found["gain"]["high"] == pytest.approx(0.1 + 12.7062 * 0.05, abs=1e-3)  # of a rounded quantile
    assert found["left_out"]["mean"] == 0.25
    assert found["false_passes"]["mean"] is None


# the cells


# of bases that solve so many problems before practice
FIT, UNFIT = {"start": {"all": 0.4}}, {"start": {"all": 0.1}}
THREE = {f"base{number}": FIT for number in range(3)}


def test_rows_differ_in_curriculum_and_mask_alone():
    study = stepcoder.make(configs.load(StepcoderConfig, FILE), Path("unused"))
    cells = {cell.name: dict(cell.settings) for cell in study.cells(THREE)}
    assert len(cells) == 3 + 5 * 2 * 3 + 3
    of = {row: cells[f"hard-{row}-s1"] for row in study.config.rows}
    supervised = of.pop("sft")
    assert supervised.pop("method") == "sft"
    assert supervised == of["ppo"]
    assert {row: (s.pop("curriculum"), s.pop("mask")) for row, s in of.items()} == {
        "ppo": ("none", "response"),
        "cccs": ("cccs", "response"),
        "fgo": ("none", "fgo"),
        "stepcoder": ("cccs", "fgo"),
    }
    assert of["ppo"] == of["cccs"] == of["fgo"] == of["stepcoder"]
    assert of["ppo"]["base"] != cells["hard-ppo-s0"]["base"]
    assert of["ppo"]["algorithm"] == "ppo"
    assert len({cell.file for cell in study.cells(THREE)}) == len(cells)


def test_a_base_that_solves_too_little_is_passed_over():
    """Of bases 0 to 3 number 1 may not enter: runs 1 and 2 start from 2 and 3."""
    study = stepcoder.make(configs.load(StepcoderConfig, FILE), Path("unused"))
    assert [cell.name for cell in study.cells({})] == ["base0"]
    found = {"base0": FIT, "base1": UNFIT, "base2": FIT}
    assert [cell.name for cell in study.cells(found)] == ["base0", "base1", "base2", "base3"]
    cells = {cell.name: cell.settings for cell in study.cells(found | {"base3": FIT})}
    assert cells["hard-ppo-s1"]["base"] == study.bases.settings(2)
    assert cells["hard-ppo-s2"]["base"] == study.bases.settings(3)
    assert {name for name in cells if name.startswith("gradient")} == {"gradient0", "gradient2", "gradient3"}
    page = study.page(study.summary(found | {"base3": FIT}) | {"run": {}})
    assert any("1 of 4 were passed over (pass@1 0.10)" in text for s in page.sections for text in s.text)
    with pytest.raises(
        ValueError, match=r"1 of 8 bases have a held-out pass@1 of at least entry=0\.25, 3 are"
    ):
        study.cells({"base0": FIT} | {f"base{number}": UNFIT for number in range(1, 8)})


def test_fewer_seeds_than_bases_need_fewer_bases():
    study = stepcoder.make(configs.load(StepcoderConfig, FILE, ["seeds=1"]), Path("unused"))
    cells = study.cells({"base0": FIT})
    assert [cell.name for cell in cells if cell.name.startswith("base")] == ["base0"]
    assert len(cells) == 1 + 5 * 2 + 1


def test_where_results_go_makes_no_other_cell():
    one, other = (
        stepcoder.make(configs.load(StepcoderConfig, FILE), Path(folder)).cells(THREE) for folder in "ab"
    )
    assert [cell.file for cell in one] == [cell.file for cell in other]


def test_regimes_hold_out_the_same_problems_and_practice_on_others():
    config = configs.load(StepcoderConfig, FILE)
    found = {name: stepcoder.embedded(regime.problems) for name, regime in config.regimes.items()}
    assert found["hard"] == found["mixture"]
    practice, held_out = found["hard"]
    assert not {p.prompt for p in practice} & {p.prompt for p in held_out}
    assert min(stepcoder.counted(held_out).values()) > 100
    # few, so that each comes up often
    assert 20 <= stepcoder.counted(practice)["hard"] <= 40


def test_a_run_that_was_stopped_keeps_its_folder_and_leaves_no_result(tmp_path, monkeypatch):
    study = stepcoder.make(configs.load(StepcoderConfig, FILE), tmp_path)
    cell = next(c for c in study.cells(THREE) if c.name == "mixture-fgo-s2")
    (study.bases.folder(2) / "export").mkdir(parents=True)
    seen = []

    def stop(config):
        seen.append(config)
        Path(config.output).mkdir(parents=True)
        return Finished(None, 3, False, Path(config.output))  # type: ignore[arg-type]

    monkeypatch.setattr(ppo, "main", stop)
    with pytest.raises(StoppedError):
        study.run(cell, lambda: False)
    assert Path(seen[0].output).exists()
    assert (seen[0].seed, seen[0].mask, seen[0].problems.difficulties) == (2, "fgo", ())


# the command


TINY = """
base: {folder}/base.yaml
ppo: {folder}/ppo.yaml
scale: 0.01
every: 1
bases: 1
seeds: 1
forgetting: {{facts: 5}}
gradient: {{tests: [1, 0], batches: 1, reference: 1, problems: {{embedded: {{count: 6, tests: 12}}}}}}
rows:
  sft: {{label: SFT, method: sft}}
  full: {{label: every weight, method: sft, adapter: none, lr: 0.1, rounds: 300, every: 2}}
  slow: {{label: slower, method: sft, adapter: none, lr: 0.01, rounds: 300, every: 2}}
  ppo: {{label: PPO, regimes: [mixture]}}
  stepcoder: {{label: StepCoder, curriculum: cccs, mask: fgo}}
regimes:
  mixture: {{label: mixture, problems: {{held_out: 0.5, embedded: {{count: 24}}}}, cccs: {{smoothing: 0.6}}}}
"""
BASE = """
output: unused
steps: 300
model: {vocab_size: 320, hidden_size: 16, intermediate_size: 24, num_layers: 1, num_heads: 2, head_dim: 8,
        num_kv_heads: 1, max_positions: 768}
data:
  sources: [{path: FOLDER/texts.txt}]
  vocab_size: 320
  batch_size: 8
  length: 64
  packing: first_fit
watch: {tensorboard: false, plots: false, progress: false}
"""
PPO = """
base: unused
output: unused
rounds: 200
experts: {num_experts: 2, rank: 2}
rollout: {prompts: 4, samples: 4, prompt_tokens: 512, response_tokens: 192, smallest_bucket: 512,
          form: completion}
critic: {body: frozen}
ppo: {gae_lambda: 1.0}  # which the gradients, of another algorithm, do not use
watch: {progress: false}
"""


@pytest.fixture(scope="module")
def plumbing(tmp_path_factory):
    """A whole study in seconds."""
    folder = tmp_path_factory.mktemp("reproduce")
    texts = [text for text, _ in zip(stepcoder.programs.pretraining_texts(60), range(60), strict=True)]
    (folder / "texts.txt").write_text("\n".join(text.replace("\n", " ") for text in texts))
    (folder / "base.yaml").write_text(BASE.replace("FOLDER", str(folder)))
    (folder / "ppo.yaml").write_text(PPO)
    (folder / "stepcoder.yaml").write_text(TINY.format(folder=folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "training.runtime.distributed.MeshConfig.make", lambda self: params.single_device_mesh()
        )
        # it has read no fact: taken as if it knew the first four
        patch.setattr(forgetting, "_completed", lambda lm, tokenizer, facts, rows: np.arange(len(facts)) < 4)
        assert reproduce.reproduce("stepcoder", folder / "out", folder / "stepcoder.yaml", [])
    return folder


def test_a_plumbing_run_says_so_on_its_page(plumbing):
    page = (plumbing / "out" / "stepcoder.html").read_text()
    assert "Plumbing run at scale 0.01" in page
    assert "no interval" in page
    found = json.loads((plumbing / "out" / "stepcoder.json").read_text())
    assert found["run"]["cells"] == "7 of 7"
    rows = found["regimes"]["mixture"]["rows"]
    assert rows["ppo"]["measured"] == [0, 1, 2]
    assert len(rows["ppo"]["rounds"]["reward"]) == 2
    assert rows["ppo"]["rounds"]["masked_share"] == [0.0, 0.0]
    assert rows["ppo"]["stages"] == {}
    assert rows["sft"]["measured"] == [0, 1, 2]
    assert rows["sft"]["curves"]["all"][0] == rows["ppo"]["curves"]["all"][0]  # one base, one exam
    assert rows["sft"]["tokens"]["mean"] > 0
    assert sum(shares[0] for shares in rows["stepcoder"]["stages"].values()) == pytest.approx(1)
    assert found["gradient"]["1"]["false_passes"]["n"] <= 1
    assert 0 <= found["gradient"]["1"]["left_out"]["mean"] < 1
    assert "The gradient" in page
    assert rows["full"]["measured"] == [0, 2, 3]  # of more samples, looked at less often
    left = {row["row"]: row for row in found["forgetting"]["mixture"]["rows"]}
    assert found["known"] == {"base0": {"asked": 5, "known": 4}}
    assert {row["completed"]["mean"] for row in left.values()} == {1.0}
    assert [left[name]["rate"] for name in ("full", "slow")] == [0.1, 0.01]
    far, near, least = (left[name]["forward"]["mean"] for name in ("full", "slow", "sft"))
    assert far > near > least >= 0
    assert "4 of 5 held-out facts" in page
    drawn = {path.stem for path in (plumbing / "out" / "figures").glob("*.svg")}
    assert drawn == {
        "stepcoder_curves",
        "stepcoder_stages",
        "stepcoder_practice",
        "stepcoder_forgotten_mixture",
    }


def test_the_gradient_is_that_of_the_policys_objective(plumbing, monkeypatch):
    """−Σ m A log π / Σ m, differentiated directly; A is a reward less the other of its prompt."""
    monkeypatch.setattr(
        "training.runtime.distributed.MeshConfig.make", lambda self: params.single_device_mesh()
    )
    export = next((plumbing / "out" / "bases").glob("*/export"))
    few = ["rollout.prompts=2", "rollout.samples=2"]
    config = configs.load(ppo.PPORunConfig, plumbing / "ppo.yaml", [f"base={export}", *few])
    problems = stepcoder.embedded(ProblemsConfig(embedded=EmbeddedConfig(count=6)))[0]
    setup = PolicySetup(
        config.source,
        config.base,
        config.mesh,
        config.problems,
        config.rollout,
        config.sandbox,
        config.evaluation,
        config.seed,
    )
    batches = stepcoder_gradient._Batches(
        setup, config.ppo, config.forward, load_tokenizer(config.base), problems
    )
    sampled = batches.sample(0)
    rollout = sampled.rollout
    every_third = np.arange(rollout.responses_BW.shape[1]) % 3 == 0
    mask: Any = np.where(every_third, np.float32(0), np.asarray(rollout.response_mask_BW))
    rewards: Any = np.asarray([1.0, -0.3, -0.6, 1.0], np.float32)
    graded = Graded(Outcomes(rewards, mask), np.zeros(4), {}, (0.0, 0.0), 0.0)
    found = batches.gradient(sampled, graded, masked=True)

    model = make_model(config.source, load_tokenizer(config.base), config.mesh.make())
    agent, weights, _ = make_agent(model, body=None, use_reference=False, forward=config.forward)
    advantages = np.asarray([1.3, -1.3, -1.6, 1.6], np.float32)[:, None]

    def objective(policy):
        states = agent.states(policy, weights.frozen, rollout)
        logprobs = agent.token_scores(policy, weights.frozen, states, rollout).logprob_BT
        return -(mask * advantages * logprobs).sum() / mask.sum()

    direct = ravel_pytree(jax.grad(objective)(model.lm.weights.trainable))[0]
    assert np.linalg.norm(direct) > 0
    # float32 sums of some hundred terms on the way there and as many back, in two orders
    np.testing.assert_allclose(found, direct, rtol=0, atol=rounding_bound(500, float(np.abs(direct).max())))
    whole = batches.gradient(sampled, graded, masked=False)
    assert (stepcoder_gradient.cosine(whole, found) or 0.0) < 0.999


def solved(plumbing: Path):
    """A problem with its solution, and the tokenizer of the base."""
    row = stepcoder.programs.problems(1)[0]
    starter, solution = row["starter_code"], row["canonical_solution"]
    problem = Problem("p", row["prompt"], starter_code=starter, canonical_solution=solution)
    return problem, load_tokenizer(next((plumbing / "out" / "bases").glob("*/export")))


def test_fine_tuning_is_on_what_follows_the_prompt(plumbing):
    """The statement and the function's head are read, the rest of the solution and its end are learned."""
    problem, tokenizer = solved(plumbing)
    sample = stepcoder_sft.encoded(problem, "completion", tokenizer)
    kept = sample.loss_mask > 0
    assert sample.tokens[-1] == tokenizer.eos_token_id
    learned, read = tokenizer.decode(sample.tokens[kept][:-1]), tokenizer.decode(sample.tokens[~kept])
    head = problem.starter_code.rstrip()
    assert (head + learned).split() == problem.canonical_solution.split()
    assert read.strip().endswith(head)
    assert problem.prompt in read


def test_fine_tuning_answers_in_the_form_that_is_asked_for(plumbing):
    """A program in a code block, as the prompt says; what is graded of it is the canonical solution."""
    problem, tokenizer = solved(plumbing)
    sample = stepcoder_sft.encoded(problem, "instruction", tokenizer)
    learned = tokenizer.decode(sample.tokens[sample.loss_mask > 0][:-1])
    assert learned.strip().startswith("```python")
    found = extract(problem, learned, "instruction")
    assert found.program.split() == problem.canonical_solution.split()


def test_a_regime_is_run_with_all_seeds_before_the_next_and_rows_keep_to_theirs(tmp_path):
    overrides = [
        "rows.sft.lr=0.002",
        "rows.fgo.regimes=[hard]",
        "rows.sft.rounds=3",
        "regimes.hard.rounds=2",
        "seeds=2",
        "bases=1",
        "gradient=null",
    ]
    study = stepcoder.make(configs.load(StepcoderConfig, FILE, overrides), tmp_path)
    cells = study.cells({"base0": FIT})
    names = [cell.name for cell in cells]
    assert [name for name in names if "fgo" in name] == ["hard-fgo-s0", "hard-fgo-s1"]
    regimes = [name.split("-")[0] for name in names[1:]]
    assert regimes == sorted(regimes)  # the next begins when one is whole
    assert not any(name.startswith("gradient") for name in names)
    of = {cell.name: cell.settings for cell in cells}
    assert [of[f"hard-{row}-s0"]["rounds"] for row in ("sft", "ppo")] == [3, 2]
    assert of["mixture-ppo-s0"]["rounds"] > 3
    assert of["hard-sft-s1"]["optimizer"]["lr"] == 0.002 != of["hard-ppo-s1"]["optimizer"]["lr"]
    # which tests practice keeps is drawn for each seed
    assert [of[f"hard-ppo-s{seed}"]["problems"]["practice_seed"] for seed in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rows.sft.lr=0.0", "lr must be above 0"),
        ("rows.sft.rounds=0", "rounds and every must be at least 1"),
        ("rows.sft.regimes=[easy]", "regimes of row sft must be of the study's"),
        ("limit=0", "bases, seeds, tries, every, rounds and limit must be at least 1"),
        ("rounds=0", "bases, seeds, tries, every, rounds and limit must be at least 1"),
        ("regimes.hard.rounds=0", "rounds must be at least 1; regime 'hard problems only'"),
    ],
)
def test_what_a_row_cannot_be_is_refused(override, said):
    with pytest.raises(ValueError, match=said):
        configs.load(StepcoderConfig, FILE, [override])


def test_runs_leave_a_small_file_and_no_folder(plumbing):
    assert not list((plumbing / "out" / "running").iterdir())
    cells = list((plumbing / "out" / "cells" / "stepcoder").glob("*.json"))
    assert len(cells) == 7
    assert max(path.stat().st_size for path in cells) < 20_000


def test_the_same_command_runs_nothing_again(plumbing, monkeypatch, capsys):
    monkeypatch.setattr(stepcoder.StepcoderStudy, "run", None)  # a call would fail
    assert reproduce.reproduce("stepcoder", plumbing / "out", plumbing / "stepcoder.yaml", [])
    assert "7 cells are done already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("scale=0", r"scale must lie in \(0, 1\]"),
        ("seeds=0", "seeds, tries, every, rounds and limit must be at least 1"),
        ("regimes.hard.problems.held_out=0.5", "regimes must hold out the same embedded problems"),
        ("rows.ppo.masks=fgo", r"did you mean rows\.ppo\.mask\?"),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, override, said):
    run = CliRunner().invoke(app, ["reproduce", "stepcoder", "--out", str(tmp_path), override])
    assert run.exit_code == 2
    assert re.search(said, " ".join(run.output.split()))


def test_figures_name_the_rows_of_every_regime_and_keep_titles_to_their_panels():
    regimes = {"first": ["a"], "second": ["a", "b"]}

    def row():
        score = {"mean": 0.5, "low": 0.4, "high": 0.6}
        rounds = {"pass_rate": [0.5, 0.6], "masked_share": [0.0, 0.1]}
        shares = {"0": [0.2, 0.5], "1": [0.8, 0.5]}
        return {"curves": {"all": [score] * 2}, "measured": [0, 2], "rounds": rounds, "stages": shares}

    summary = {
        "regimes": {name: {"rows": {one: row() for one in rows}} for name, rows in regimes.items()},
        "difficulties": ["all"],
        "labels": {"a": "plain", "b": "with everything"},
        "regime_labels": {name: f"the {name} regime, which has a very long name" for name in regimes},
    }
    for draw in (figures.curves, figures.practice):
        figure = draw(summary).figure
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["plain", "with everything"]
    for draw in (figures.curves, figures.practice, figures.stages):
        figure = draw(summary).figure
        figure.canvas.draw()
        for axis in figure.axes:
            room = (axis.get_position().width + 0.1) * figure.bbox.width
            assert axis.title.get_window_extent().width < room
