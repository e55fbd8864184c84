"""The reproduce command: cells that are not run twice, greedy marks, rules and statistics, a plumbing run."""

import json
import math
import re
import shutil
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from typer.testing import CliRunner

from evals.knowledge import greedy
from evals.knowledge.prompts import template
from evals.knowledge.questions import ClosedBookQuestion
from evals.models.local_model import LocalModel
from jaxmoe.datasets import corpora
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.tokenizer import train_bpe
from training.__main__ import app
from training.commands import reproduce as commands_reproduce
from training.data.batch import BatchConfig
from training.data.encode import encode_samples
from training.runtime import shipped
from training.runtime.model import TrainableModel, new_model
from training.runtime.optimizer import OptimizerConfig
from training.studies import STUDIES, bases, intervals, reproduce
from training.studies.cells import StoppedError, Store, StudyCell, finished, run_cells
from training.studies.loramoe import page as loramoe_page
from training.studies.loramoe import study as loramoe
from training.studies.loramoe import summary as loramoe_summary
from training.studies.loramoe import tuning
from training.studies.loramoe.summary import TunedRun, TunedRuns
from training.studies.realbehavior import page as realbehavior_page
from training.studies.realbehavior import pretrained_page
from training.studies.stepcoder import page as stepcoder_page
from training.supervised.step import StepConfig

TEXTS = ["Lima is the capital of Peru. Quito lies in Ecuador.", "who sings? me and you", "the red lamp"]
SHAPE = ModelConfig(
    vocab_size=320,
    hidden_size=16,
    intermediate_size=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    max_positions=96,
    eos_token_id=1,
    pad_token_id=0,
)


# what cells share

CACHE = "jax_compilation_cache_dir"


@pytest.fixture
def no_folder_chosen():
    """As if there were none for the session."""
    before = {
        name: getattr(jax.config, name) for name in (CACHE, "jax_persistent_cache_min_compile_time_secs")
    }
    reproduce._update({CACHE: None})
    yield
    reproduce._update(before)


@pytest.mark.usefixtures("no_folder_chosen")
def test_cells_share_what_they_compile(tmp_path):
    """The second of two equal programs is read from the folder; afterwards nothing is kept any more."""
    events: list[str] = []

    def listen(event: str, **_: str | int) -> None:
        events.append(event.rpartition("/")[2])

    def program():
        with jax.numpy_dtype_promotion("standard"):
            return jax.jit(lambda x: jnp.sin(x) @ x * 1.25)(jnp.ones((8, 8))).block_until_ready()

    jax.monitoring.register_event_listener(listen)
    try:
        with reproduce.compiled_kept(tmp_path):
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            first = program()
            assert "cache_hits" not in events
            assert (first == program()).all()
            assert "cache_hits" in events
        events.clear()
        program()
        assert "cache_hits" not in events
        assert any(tmp_path.iterdir())
    finally:
        jax.monitoring.unregister_event_listener(listen)


@pytest.mark.usefixtures("no_folder_chosen")
def test_a_folder_that_the_user_has_chosen_stays(tmp_path):
    jax.config.update(CACHE, str(tmp_path / "own"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "_update", lambda settings: pytest.fail(f"changed {settings}"))
        with reproduce.compiled_kept(tmp_path / "other"):
            assert getattr(jax.config, CACHE) == str(tmp_path / "own")


# greedy marks


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXTS * 4, 320)


@pytest.fixture(scope="module")
def speaker(tokenizer) -> LanguageModel:
    """A tiny model that has read the texts, and their ends as answers to their beginnings."""
    rows = [{"text": text} for text in TEXTS]
    rows += [{"instruction": text[:4], "output": text[5:]} for text in TEXTS]
    data = tuning.stream(encode_samples(rows, tokenizer, 48), tokenizer, BatchConfig(6, 48), 480)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "load_model", lambda *a, seed: new_model(SHAPE, None, a[4], seed=seed))
        tuner = tuning.Tuner(params.single_device_mesh(), StepConfig())
        optimizer = OptimizerConfig(lr=1e-2, schedule="constant")
        runs = tuner.run("", tuning.Recipe("none"), data, optimizer, [480], seed=0, stopped=lambda: False)
        return next(runs).lm


@pytest.mark.parametrize("form", ["text", "instruction"])
def test_marks_are_those_of_real_greedy_decoding(tokenizer, speaker, form):
    """What the model itself says is right, with another end it is wrong; one of two answers is enough."""
    stems = ["Lima is the", "who", "Quito lies"] if form == "text" else [text[:4] for text in TEXTS]
    questions = [ClosedBookQuestion(str(n), stem, ("?",), stem=stem) for n, stem in enumerate(stems)]
    wording = template("completion" if form == "text" else "instruction")
    said = LocalModel(speaker, tokenizer, form, batch_size=4).generate(
        [wording.prompt(q) for q in questions], 24
    )
    answers = [text.strip() for text in said]
    assert any(answer in text for answer in answers for text in TEXTS if answer)  # it has learned to speak

    def marks(*gold):
        asked = [
            ClosedBookQuestion(q.id, q.question, a, stem=q.stem) for q, a in zip(questions, gold, strict=True)
        ]
        return greedy.take(speaker, greedy.prepare(speaker, tokenizer, asked, form, lengths=(12,)))

    found = marks(*[(answer,) for answer in answers])
    assert found.right.all()
    assert found.ended.all()
    shorter = marks(*[(answer.rsplit(" ", 1)[0],) for answer in answers])
    assert shorter.right.all()
    assert not shorter.ended.any()
    assert not marks(*[(f"{answer} lamp",) for answer in answers]).right.any()
    assert marks(*[("lamp lamp lamp", answer) for answer in answers]).right.all()


# cells


class Counting:
    """A study of three cells, the last of which is known only once the first is done."""

    name, title = "counting", "Counting"

    def __init__(self, setting: int = 0):
        self.setting, self.ran = setting, []

    def cells(self, results):
        cells = [StudyCell("a", {"x": 1}, "a"), StudyCell("b", {"x": self.setting}, "b")]
        return [*cells, StudyCell("c", {"after": results["a"]["value"]}, "c")] if "a" in results else cells

    def run(self, cell, stopped):
        if stopped():
            raise StoppedError
        self.ran.append(cell.name)
        return {"value": len(self.ran)}

    def describe(self, cell, result):
        return str(result["value"])


def test_a_finished_cell_is_not_run_again_and_other_settings_are_another_cell(tmp_path):
    store, said = Store(tmp_path), []
    first = Counting()
    assert run_cells(first, store, said.append, lambda: False)
    assert first.ran == ["a", "b", "c"]
    assert sum("min left" in line for line in said) == 3
    again = Counting()
    assert run_cells(again, store, said.append, lambda: False)
    assert again.ran == []
    other, later = Counting(setting=1), Store(tmp_path, "c0ffee")
    assert run_cells(other, later, said.append, lambda: False)
    assert other.ran == ["b"]
    assert later.commits(other.cells({"a": {"value": 1}})) == ["c0ffee"]
    assert later.commits(first.cells({})) == []


def test_a_stopped_cell_leaves_no_file_and_the_next_run_goes_on(tmp_path):
    store, study = Store(tmp_path), Counting()
    assert not run_cells(study, store, lambda line: None, lambda: bool(study.ran))
    assert study.ran == ["a"]
    assert not list(tmp_path.glob("*.part"))
    later = Counting()
    assert run_cells(later, store, lambda line: None, lambda: False)
    assert later.ran == ["b", "c"]


def test_a_file_that_holds_no_result_is_named(tmp_path):
    store, study = Store(tmp_path), Counting()
    run_cells(study, store, lambda line: None, lambda: False)
    (broken := tmp_path / study.cells({})[0].file).write_text("{")
    with pytest.raises(ValueError, match=re.escape(broken.name)):
        finished(study, store)


# rules and statistics


def test_the_smallest_rate_within_the_tolerance_is_chosen():
    """Best .8 of 100 samples: standard error √(.8 · .2 / 100) = .04, so .73 is within two and .71 is not."""
    assert loramoe.choose_rate({1e-3: 0.71, 3e-3: 0.73, 1e-2: 0.80}, 100, 2.0) == 3e-3
    assert loramoe.choose_rate({1e-3: 0.71, 3e-3: 0.73, 1e-2: 0.80}, 100, 0.0) == 1e-2
    assert loramoe.choose_rate({1e-3: 0.80, 3e-3: 0.80}, 100, 0.0) == 1e-3


def path_of(*points: tuple[float, float]) -> list[dict[str, float]]:
    return [{"tasks": t, "completed": c, "asked": c} for t, c in points]


def test_knowledge_at_a_level_lies_on_the_line_between_two_snapshots():
    """From (0, 1) to (.4, .8) to (.8, .2): at .6 halfway down the second line, .5."""
    path = path_of((0.0, 1.0), (0.4, 0.8), (0.8, 0.2))
    assert loramoe_summary.knowledge_at(path, 0.6, "completed") == pytest.approx(0.5)
    assert loramoe_summary.knowledge_at(path, 0.4, "completed") == pytest.approx(0.8)
    assert math.isnan(loramoe_summary.knowledge_at(path, 0.9, "completed"))


def result_of(tasks: list[float], completed: list[float], share: float = 0.5) -> dict:
    snapshots = [
        {"volume": 10**n, "tasks": t, "completed": c, "asked": c, "families": {"reading": t}}
        for n, (t, c) in enumerate(zip(tasks, completed, strict=True))
    ]
    routing = [
        {
            "projection": "up_proj",
            "layer": 0,
            "task": task,
            "share": [s / 2, s / 2, (1 - s) / 2, (1 - s) / 2],
            "cv": 0.2,
            "entropy": 0.9,
            "dead": 0,
        }
        for task, s in (("knowledge", share), ("other", 1 - share))
    ]
    return {"snapshots": snapshots, "dev_tasks": tasks[-1], "trained_weights": 7, "routing": routing}


def known_runs() -> TunedRuns:
    """Two seeds: LoRAMoE keeps .1 and .3 more than full fine-tuning, at the same tasks."""
    base = {"completed": 1.0, "asked": 1.0, "tasks": 0.0}
    runs = TunedRuns(bases={0: base})
    for seed, gain in enumerate((0.1, 0.3)):
        runs.final.append(TunedRun("full", 0, seed, 1e-3, result_of([0.4, 0.8], [0.8, 0.4])))
        runs.final.append(
            TunedRun(
                "loramoe_lbc", 0, seed, 5e-3, result_of([0.4, 0.8], [0.8 + gain, 0.4 + gain], share=0.45)
            )
        )
    return runs


def test_differences_are_paired_and_have_student_intervals():
    """Differences .1 and .3: mean .2, t(.975, 1) = 12.7062, standard error .1."""
    summary = loramoe_summary.summarize(known_runs(), ["full", "loramoe_lbc"], [1, 10])
    found = {(d["a"], d["b"], d["what"]): d for d in summary["differences"]}
    gain = found["full", "loramoe_lbc", "completed"]
    assert (gain["mean"], gain["n"]) == (0.2, 2)
    assert gain["high"] == pytest.approx(0.2 + 12.7062 * 0.1, abs=1e-3)  # of a rounded quantile
    assert found["full", "loramoe_lbc", "completed at level"]["mean"] == pytest.approx(0.2)
    assert summary["level"] == pytest.approx(0.8)
    assert found["base", "full", "completed"]["mean"] == pytest.approx(-0.6)


def test_routing_tells_the_first_half_of_the_experts_by_task():
    summary = loramoe_summary.summarize(known_runs(), ["full", "loramoe_lbc"], [1, 10])
    # full fine-tuning has routing rows here too: what counts is who reports them
    found = summary["routing"]["loramoe_lbc"]
    assert found["gap"]["mean"] == pytest.approx(0.45 - 0.55)
    assert found["first_half"]["knowledge"][0]["mean"] == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.1, 0.2, "shown"),
        (-0.2, -0.1, "refuted at this scale"),
        (-0.1, 0.1, "not shown"),
        (None, None, "not shown"),
    ],
)
def test_verdicts_follow_from_the_interval(low, high, outcome):
    assert intervals.judged({"mean": 0.0, "low": low, "high": high, "n": 1}) == outcome


def test_one_run_has_no_interval():
    assert intervals.interval([0.5]) == {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert intervals.interval([])["mean"] is None
    assert [intervals.pairs({"n": n}) for n in (1, 3)] == ["1 pair", "3 pairs"]


# fine-tuning


def test_one_compiled_step_serves_every_rate_and_seed(tokenizer, monkeypatch):
    made: list[TrainableModel] = []

    def load(base, adapter, experts, lora, mesh, *, seed):
        made.append(new_model(SHAPE, experts, mesh, seed=seed))
        return made[-1]

    monkeypatch.setattr(tuning, "load_model", load)
    rows = [{"instruction": text, "output": "red lamp", "task_type": n % 2} for n, text in enumerate(TEXTS)]
    data = tuning.stream(
        encode_samples(rows, tokenizer, 48), tokenizer, BatchConfig(2, 48, "first_fit", max_segments=4), 12
    )
    assert data.seen[-1] >= 12 > data.seen[-2]
    recipe = tuning.Recipe(experts=ExpertConfig(num_experts=2, rank=2))
    tuner = tuning.Tuner(params.single_device_mesh(), StepConfig())

    def losses(rate, seed):
        optimizer = OptimizerConfig(lr=rate, schedule="constant")
        runs = tuner.run("", recipe, data, optimizer, [2, 12], seed=seed, stopped=lambda: False)
        return [(s.volume, s.loss, s.routing) for s in runs]

    first, again, faster = losses(1e-3, 0), losses(1e-3, 0), losses(1e-1, 1)
    assert first == again
    assert [volume for volume, _, _ in first] == [2, 12]
    assert faster[1][1] < first[1][1]
    assert len(tuner._compiled) == 1
    assert next(iter(tuner._compiled.values())).step._cache_size() == 1  # type: ignore[attr-defined]
    assert {row["task"] for row in first[1][2]} == {"knowledge", "other"}


def test_a_run_stops_between_two_steps(tokenizer, monkeypatch):
    monkeypatch.setattr(tuning, "load_model", lambda *a, seed: new_model(SHAPE, a[2], a[4], seed=seed))
    data = tuning.stream(
        encode_samples([{"text": TEXTS[0]}], tokenizer, 48), tokenizer, BatchConfig(1, 48), 3
    )
    recipe = tuning.Recipe(experts=ExpertConfig(num_experts=2, rank=2))
    tuner = tuning.Tuner(params.single_device_mesh(), StepConfig())
    with pytest.raises(StoppedError):
        list(tuner.run("", recipe, data, OptimizerConfig(lr=2e-4), [3], seed=0, stopped=lambda: True))


# the command


TINY = """
base: {base}
scale: 0.01
bases: 1
seeds: 1
volumes: [1, 10]
samples: 800
tasks: 1400
dev_tasks: 700
data: {{batch_size: 8, length: 64, packing: first_fit}}
rows:
  full: {{label: full SFT, adapter: none, rates: [1.0e-3, 3.0e-3]}}
  loramoe_lbc: {{label: LoRAMoE, rates: [5.0e-3], experts: {{num_experts: 2, rank: 2}}}}
sweep:
  one: {{label: rank 1, rate_of: loramoe_lbc, experts: {{num_experts: 2, rank: 1}}}}
"""
BASE = """
output: unused
steps: 300
model: {{vocab_size: 1536, hidden_size: 16, intermediate_size: 32, num_layers: 1, num_heads: 2, head_dim: 8,
         num_kv_heads: 2, max_positions: 256, tie_embeddings: true}}
data:
  sources: [{{path: {texts}}}]
  vocab_size: 1536
  batch_size: 8
  length: 64
  packing: first_fit
watch: {{tensorboard: false, plots: false}}
"""


@pytest.fixture(scope="module")
def plumbing(tmp_path_factory):
    """A whole study in seconds."""
    folder = tmp_path_factory.mktemp("reproduce")
    texts = islice(corpora.tokenizer_texts(corpora.study_corpus()), 0, None, 8)
    (folder / "texts.txt").write_text("\n".join(text.replace("\n", " ") for text in texts))
    (folder / "base.yaml").write_text(BASE.format(texts=folder / "texts.txt"))
    (folder / "loramoe.yaml").write_text(TINY.format(base=folder / "base.yaml"))
    out = folder / "out"
    assert reproduce.reproduce("loramoe", out, folder / "loramoe.yaml", [])
    return folder


def test_a_plumbing_run_says_so_on_its_page(plumbing):
    page = (plumbing / "out" / "loramoe.html").read_text()
    assert "Plumbing run at scale 0.01" in page
    assert "no interval" in page
    found = json.loads((plumbing / "out" / "loramoe.json").read_text())
    assert found["run"]["cells"] == "5 of 5"
    assert [entry["rate"] for entry in found["learning_rates"]["full"]] == [1e-3, 3e-3]
    assert found["rows"]["loramoe_lbc"]["curves"]["tasks"][1]["n"] == 1
    assert set(found["sweep"]) == {"one"}
    drawn = {path.stem for path in (plumbing / "out" / "figures").glob("*.svg")}
    assert drawn == {f"loramoe_{name}" for name in ("volume", "frontier", "rates", "routing", "sweep")}
    assert all(
        f'aria-label="{text}' in page for text in ("Knowledge against downstream", "Share of the routing")
    )


def test_the_same_command_runs_nothing_again(plumbing, monkeypatch, capsys):
    monkeypatch.setattr(loramoe.LoramoeStudy, "run", None)  # a call would fail
    assert reproduce.reproduce("loramoe", plumbing / "out", plumbing / "loramoe.yaml", [])
    assert "5 cells are done already" in capsys.readouterr().out


def test_a_page_tells_how_much_of_the_study_is_there(plumbing):
    """Other seeds are wanted than have been run: nothing runs, and the page counts."""
    again = ["seeds=2"]
    assert not reproduce.reproduce(
        "loramoe", plumbing / "out", plumbing / "loramoe.yaml", again, report_only=True
    )
    assert "5 of 7" in (plumbing / "out" / "loramoe.html").read_text()


def test_a_study_starts_from_checkpoints_that_are_there(plumbing, monkeypatch):
    """Nothing is pretrained, and the page names them."""
    monkeypatch.setattr(
        "training.runtime.distributed.MeshConfig.make", lambda self: params.single_device_mesh()
    )
    monkeypatch.setattr(bases, "pretrain", None)  # a call would fail
    export = str(next((plumbing / "out" / "bases").glob("*/export")))
    overrides = [f"checkpoints=[{export}]", "bases=1"]
    study = reproduce.make("loramoe", plumbing / "other", plumbing / "loramoe.yaml", overrides)
    cell = study.cells({})[0]
    assert cell.settings["base"] == {"checkpoint": export}
    result = study.run(cell, lambda: False)
    assert 0 <= result["test"]["completed"] <= 1
    page = study.page(study.summary({cell.name: result}) | {"run": {}})
    assert any(export in text for section in page.sections for text in section.text)
    with pytest.raises(ValueError, match="one for each of the 2 bases, or none; got 1"):
        reproduce.make("loramoe", plumbing, plumbing / "loramoe.yaml", [f"checkpoints=[{export}]", "bases=2"])


@pytest.mark.parametrize(("name", "file"), [("loramoe", "loramoe_7b"), ("stepcoder", "stepcoder_6.7b")])
def test_large_models_are_one_config_away(tmp_path, name, file):
    study = reproduce.make(name, tmp_path, Path(f"configs/reproduce/{file}.yaml"), [])
    cells = study.cells({"base0": {"start": {"all": 0.5}}})
    assert len(cells) > 5
    assert all("checkpoint" in cell.settings["base"] for cell in cells if "base" in cell.settings)


def test_all_studies_stand_on_one_page(plumbing, monkeypatch):
    monkeypatch.setattr(reproduce, "STUDIES", {"loramoe": STUDIES["loramoe"]})
    (plumbing / "reproduce").mkdir(exist_ok=True)
    shutil.copy(plumbing / "loramoe.yaml", plumbing / "reproduce")
    monkeypatch.setattr(shipped, "folder", lambda: plumbing)
    assert reproduce.reproduce("all", plumbing / "out", None, [], report_only=True)
    assert "<h1>LoRAMoE: what fine-tuning forgets" in (plumbing / "out" / "reproduce.html").read_text()
    with pytest.raises(ValueError, match="one by one"):
        reproduce.reproduce("all", plumbing / "out", None, ["seeds=1"])


def test_bad_input_ends_in_one_line(tmp_path):
    unknown = CliRunner().invoke(app, ["reproduce", "loramo", "--out", str(tmp_path)])
    assert unknown.exit_code == 2
    assert "a study is one of loramoe" in unknown.output
    wrong = CliRunner().invoke(app, ["reproduce", "loramoe", "--out", str(tmp_path), "scale=0"])
    assert wrong.exit_code == 2
    assert "scale must lie in (0, 1]" in wrong.output
    misspelt = CliRunner().invoke(app, ["reproduce", "loramoe", "--out", str(tmp_path), "rows.full.rate=1"])
    assert "did you mean rows.full.rates?" in misspelt.output


def test_help_lists_the_keys_of_a_study():
    said = CliRunner().invoke(app, ["reproduce", "--help"]).output
    assert "rows.NAME.rates: list[float]" in said
    assert "sweep.NAME.experts.num_experts" in said


def test_studies_are_announced_as_they_are_run():
    assert set(commands_reproduce.CONFIGS) == set(STUDIES)
    for name, module in STUDIES.items():
        study = reproduce.make(name, Path("unused"), None, [])  # of its shipped config
        assert study.name == name
        assert type(study).__module__ == module


@pytest.mark.parametrize("path", sorted(Path("docs/results/reproduce").glob("*/*.json")), ids=str)
def test_filed_results_are_whole_and_still_make_their_page(path):
    summary = json.loads(path.read_text())
    assert summary.get("scale", 1) == 1
    pages = {"loramoe": loramoe_page, "stepcoder": stepcoder_page, "realbehavior": realbehavior_page}
    pages["realbehavior_pretrained"] = pretrained_page
    page = pages[summary["study"]].page("title", summary)
    assert {picture.name for section in page.sections for picture in section.pictures} <= {
        figure.stem for figure in path.parent.glob("*.svg")
    }
