"""RealBehavior's claims: can a model's answers to psychological tests be believed, and does training shift or
restrict characteristics? And a question of our own: is the judging itself sound?

The models are those of the other two studies: bases, their fine-tunings at several volumes of instructions,
and a code model during reinforcement learning from tests, each trained again exactly as there. All of them,
and simulated respondents, answer the same questions as the same described people. None of this training aims
at social values, as the paper's alignment does.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig
from jaxmoe.tokenizer import load_tokenizer
from training.ppo import train as ppo
from training.runtime import config as configs
from training.runtime.checkpoint import CheckpointConfig, Checkpoints, structure
from training.runtime.distributed import MeshConfig
from training.runtime.metrics import read_lines
from training.runtime.model import LoraConfig, ModelSource, load_model, make_model
from training.runtime.optimizer import OptimizerConfig
from training.studies.cells import Result, Results, Stopped, StoppedError, StudyCell
from training.studies.loramoe.config import LoramoeConfig
from training.studies.loramoe.study import LoramoeStudy
from training.studies.loramoe.tuning import Recipe
from training.studies.page import Page
from training.studies.realbehavior import page as realbehavior_page
from training.studies.realbehavior import summary as realbehavior_summary
from training.studies.realbehavior.answers import Questionnaire, conclusions
from training.studies.realbehavior.config import RealbehaviorConfig
from training.studies.realbehavior.pretrained import PretrainedStudy
from training.studies.realbehavior.summary import REINFORCED, AnsweredRun
from training.studies.stepcoder.study import PlannedRun, StepcoderConfig, StepcoderStudy, read_run

# seconds on an idle machine: to ask a text or a code model everything as 16 people, and to judge one seed of
# a simulated respondent; the time for training comes from the study it belongs to
ASKING_TEXT, ASKING_CODE, JUDGING = 13.0, 28.0, 0.5


def make(config: RealbehaviorConfig, out: Path) -> "RealbehaviorStudy | PretrainedStudy":
    """The study; its bases are where the other studies keep them, or are pretrained models.

    Args:
      config: the study's config.
      out: folder for its files.
    Returns: the study.
    """
    if config.pretrained is not None:
        return PretrainedStudy(config.pretrained, out)
    return RealbehaviorStudy(config, out)


class RealbehaviorStudy:
    """See `training.studies.cells.PaperStudy`."""

    name = "realbehavior"
    title = "RealBehavior: whether to believe a model's answers, and what training does to them"

    def __init__(self, config: RealbehaviorConfig, out: Path):
        self.config, self._out = config, out
        tuning = configs.load_given(LoramoeConfig, "loramoe", config.loramoe)
        if unknown := [name for name in config.tuned if name not in tuning.rows]:
            raise ValueError(f"tuned must name rows of {config.loramoe}; got {unknown[0]!r}")
        if config.volumes[-1] > max(tuning.volumes):
            raise ValueError(
                f"volumes must end where those of {config.loramoe} do, or earlier; got {config.volumes[-1]}"
            )
        self._loramoe = LoramoeStudy(replace(tuning, scale=config.scale), out)
        coding, run = configs.load_given(StepcoderConfig, "stepcoder", config.stepcoder), config.reinforced
        if run.row not in coding.rows or run.regime not in coding.regimes:
            raise ValueError(
                f"reinforced.row and regime must be of {config.stepcoder}; got {run.row!r} and {run.regime!r}"
            )
        coding = replace(coding, scale=config.scale, rounds=run.rounds, every=run.every, limit=run.held_out)
        self._stepcoder = StepcoderStudy(coding, out)

    # the cells

    def cells(self, results: Results) -> list[StudyCell]:
        """A base and its fine-tunings, reinforcement learning, simulated respondents, then repetitions."""
        config, base = self.config, range(self.config.bases)
        cells = [self._base_cell(0), *(self._tuned_cell(row, 0, 0) for row in config.tuned)]
        cells += [self._reinforced_cell(seed) for seed in range(config.reinforced.seeds)]
        cells += [self._null_cell(name) for name in config.nulls]
        cells += [self._base_cell(number) for number in base]
        cells += [
            self._tuned_cell(row, n, seed)
            for seed in range(config.seeds)
            for n in base
            for row in config.tuned
        ]
        return list({cell.name: cell for cell in cells}.values())

    def _base_cell(self, number: int) -> StudyCell:
        settings = {"base": self._loramoe.bases.settings(number), "asked": self._asked_settings}
        there = self._loramoe.bases.there(number)
        cost = self._asking + (0 if there else self._loramoe.base_cell(number).cost)
        return StudyCell(
            f"base{number}", settings, f"base {number}: {'' if there else 'pretraining, '}answers", cost
        )

    def _tuned_cell(self, row: str, base: int, seed: int) -> StudyCell:
        tuned = self.config.tuned[row]
        run = self._loramoe.tuned_cell(row, self._loramoe.config.rows[row], base, seed, tuned.rate)
        kept = {key: value for key, value in run.settings.items() if key != "exam"}
        settings = {"run": kept, "volumes": self.volumes, "asked": self._asked_settings}
        share = self.volumes[-1] / self._loramoe.volumes[-1]
        cost = run.cost * share + self._asking * len(self.volumes)
        title = f"{tuned.label}, base {base}, seed {seed}: fine-tuning, answers"
        return StudyCell(f"{row}-b{base}-s{seed}", settings, title, cost)

    def _reinforced_cell(self, seed: int) -> StudyCell:
        run = self.config.reinforced
        cell = self._stepcoder.run_cell(PlannedRun(run.row, run.regime, seed), seed)
        settings = {"run": dict(cell.settings), "asked": self._asked_settings}
        rounds = int(cell.settings["rounds"])
        looks = 2 + (rounds - 1) // run.every
        cost = cell.cost + ASKING_CODE * self._people / 16 * looks
        title = f"{run.label}, seed {seed}: {rounds} rounds, answers"
        return StudyCell(f"{REINFORCED}-s{seed}", settings, title, cost)

    def _null_cell(self, name: str) -> StudyCell:
        seeds = self.config.scaled(self.config.null_seeds)
        settings = {"respondent": name, "seeds": seeds, "asked": self._asked_settings}
        cost = JUDGING * seeds * self._people / 16
        return StudyCell(f"null-{name}", settings, f"{name} respondent: {seeds} seeds", cost)

    @property
    def volumes(self) -> list[int]:
        """When to ask the questions, in samples."""
        tuning = self._loramoe.config
        return sorted({tuning.scaled(tuning.samples * times) for times in self.config.volumes})

    @property
    def _people(self) -> int:
        return max(2, self.config.scaled(self.config.asked.personas))

    @property
    def _asking(self) -> float:
        return ASKING_TEXT * self._people / 16

    @property
    def _asked_settings(self) -> Result:
        settings = configs.to_dict(self.config.asked) | {"personas": self._people}
        return {key: value for key, value in settings.items() if key != "batch_size"}

    # running cells

    def run(self, cell: StudyCell, stopped: Stopped) -> Result:
        """Asks one base, one fine-tuning or RL run as it trains, or one simulated respondent.

        Args:
          cell: one of `cells`.
          stopped: returns true once the run should end.
        Returns: its answers, as plain JSON.
        """
        if cell.name.startswith("null-"):
            return self._questionnaire.of_simulated(
                cell.settings["respondent"], cell.settings["seeds"], stopped
            )
        if cell.name.startswith("base"):
            return self._run_base(int(cell.name.removeprefix("base")))
        if cell.name.startswith(f"{REINFORCED}-"):
            return self._run_reinforced(cell, int(cell.name.rpartition("-s")[2]), stopped)
        row, base, seed = cell.name.rsplit("-", 2)
        return {"snapshots": list(self._run_tuned(row, int(base[1:]), int(seed[1:]), stopped))}

    @cached_property
    def _questionnaire(self) -> Questionnaire:
        return Questionnaire(self.config.asked, self._people)

    def _run_base(self, number: int) -> Result:
        export = self._loramoe.bases.export(number)
        mesh = self._loramoe.tuner.mesh
        lm = load_model(export, "none", ExpertConfig(), LoraConfig(), mesh).lm
        return {"snapshots": [{"at": 0, **self._questionnaire.of_model(lm, load_tokenizer(export))}]}

    def _run_tuned(self, name: str, base: int, seed: int, stopped: Stopped) -> Iterator[Result]:
        study, row = self._loramoe, self._loramoe.config.rows[name]
        export = self._loramoe.bases.export(base)
        tokenizer = load_tokenizer(export)
        warmup = study.config.scaled(study.config.warmup_steps)
        for snapshot in study.tuner.run(
            export,
            Recipe(row.adapter, row.experts, row.lora, row.balance),
            study.instructions(base, seed, row),
            OptimizerConfig(lr=self.config.tuned[name].rate, schedule="constant", warmup_steps=warmup),
            self.volumes,
            seed=seed,
            stopped=stopped,
        ):
            answers = self._questionnaire.of_model(snapshot.lm, tokenizer)
            yield {"at": snapshot.volume, **answers}

    def _run_reinforced(self, cell: StudyCell, seed: int, stopped: Stopped) -> Result:
        """Asks the policy in every checkpoint of a reinforcement learning run; a stopped run resumes."""
        run, study = self.config.reinforced, self._stepcoder
        export = study.bases.export(seed)
        folder = self._out / "running" / cell.file.removesuffix(".json")
        rounds = int(cell.settings["run"]["rounds"])
        saving = CheckpointConfig(every=run.every, keep=rounds)
        config = study.ppo_config(PlannedRun(run.row, run.regime, seed))
        config = replace(config, base=export, output=str(folder), checkpoint=saving)
        if not ppo.main(config).finished:
            raise StoppedError
        snapshots = list(self._policies(config.source, export, config.mesh, config.rounds, folder, stopped))
        held_out = read_run(read_lines(folder / "metrics.jsonl"))["held_out"]
        shutil.rmtree(folder)
        return {"snapshots": snapshots, "held_out": held_out}

    def _policies(
        self,
        source: ModelSource,
        base: str,
        where: MeshConfig,
        rounds: int,
        folder: Path,
        stopped: Stopped,
    ) -> Iterator[Result]:
        """Answers before the first round, and from the policy in every checkpoint."""
        run, mesh, tokenizer = self.config.reinforced, where.make(), load_tokenizer(base)
        model = make_model(source, tokenizer, mesh)
        weights = model.lm.weights
        like = structure(weights.trainable, params.shardings(model.abstract, mesh, model.train)[0])
        checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
        yield {"at": 0, **self._questionnaire.of_model(model.lm, tokenizer)}
        # a run that was stopped in between has saved a checkpoint there too
        due = [step for step in checkpoints.steps() if not step % run.every or step == rounds]
        for step in due:
            if stopped():
                raise StoppedError
            policy = weights._replace(trainable=checkpoints.trainable(step, like))
            answers = self._questionnaire.of_model(replace(model.lm, weights=policy), tokenizer)
            yield {"at": step, **answers}
        checkpoints.close()

    def describe(self, cell: StudyCell, result: Result) -> str:
        """How many constructs can be believed.

        Args:
          cell: a finished cell.
          result: what `run` returned.
        Returns: one line.
        """
        if cell.name.startswith("null-"):
            counts = {
                verdict: sum(seed.get(verdict, 0) for seed in result["conclusions"])
                for verdict in ("faithful", "undetermined", "not faithful")
            }
        else:
            found = list(conclusions(result["snapshots"][-1]["verdicts"]).values())
            counts = {verdict: found.count(verdict) for verdict in dict.fromkeys(found)}
        return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())

    # results

    def summary(self, results: Results) -> Result:
        """See `realbehavior_summary`."""
        runs, nulls = [], {}
        for cell in self.cells(results):
            result = results.get(cell.name)
            if result is None or cell.name.startswith("base"):
                continue
            if cell.name.startswith("null-"):
                nulls[cell.name.removeprefix("null-")] = result
                continue
            row, _, seed = cell.name.rpartition("-s")
            if row == REINFORCED:
                base = int(seed) % self._stepcoder.config.bases
                runs.append(AnsweredRun(REINFORCED, base, int(seed), result["snapshots"]))
                continue
            row, _, base = row.rpartition("-b")
            if f"base{base}" in results:
                first = results[f"base{base}"]["snapshots"]
                runs.append(AnsweredRun(row, int(base), int(seed), [*first, *result["snapshots"]]))
        bases = {
            number: results[f"base{number}"]["snapshots"][0]
            for number in range(self.config.bases)
            if f"base{number}" in results
        }
        held_out = [results[name]["held_out"] for name in results if name.startswith(f"{REINFORCED}-")]
        found = realbehavior_summary.summarize(bases, runs, nulls, self._questionnaire.key)
        return self._about() | found | {"held_out": held_out[:1]}

    def _about(self) -> Result:
        """What a reader must know about the design."""
        config = self.config
        bases = {"text": self._loramoe.bases.pretraining(0), "code": self._stepcoder.bases.pretraining(0)}
        questions = self._questionnaire
        return {
            "scale": config.scale,
            "settings": configs.to_dict(config),
            "labels": {n: t.label for n, t in config.tuned.items()} | {REINFORCED: config.reinforced.label},
            "models": {
                name: {
                    "layers": base["model"]["num_layers"],
                    "width": base["model"]["hidden_size"],
                    "length": base["data"]["length"],
                }
                for name, base in bases.items()
                if base["model"] is not None
            },
            "sizes": {
                "people": self._people,
                "conditions": questions.design.conditions // self._people,
                "items": sum(len(battery.entries) for battery in questions.batteries),
            },
            "instruments": [one.title for one in questions.instruments],
            "once": self._loramoe.config.samples,
        }

    def page(self, summary: realbehavior_summary.BehaviorSummary) -> Page:
        """See `realbehavior_page`."""
        return realbehavior_page.page(self.title, summary)
