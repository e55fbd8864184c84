"""StepCoder's claims: does a curriculum of completion subtasks (CCCS) help PPO on code to explore, and does a
mask of the tokens that no test executed (FGO) help it to learn from the right ones?

Bases are small code models that guess what unclear words of a statement mean; the tests tell. From the same
base and with equally many samples each row (`StepcoderRow`) runs PPO with a critic, with or without either
part, in two regimes: practising on hard problems alone, and on a mixture of all difficulties. The held-out
problems are the same for all: of every difficulty, asked as whole tasks, without any part of the solution.

No setting is chosen by the held-out problems: all rows share those of the PPO config.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from jaxmoe.base_folder import local_folder
from jaxmoe.datasets import programs
from jaxmoe.json_values import JsonMapping, JsonObject
from jaxmoe.model.config import ExpertConfig
from jaxmoe.tokenizer import load_tokenizer
from rl.feedback.problems import Problem, split_problems
from training.ppo import train as ppo
from training.ppo.config import PPORunConfig
from training.ppo.problems import ProblemsConfig, embedded_rows
from training.runtime import config as configs
from training.runtime.atomic import write_whole
from training.runtime.metrics import read_lines
from training.runtime.model import LoraConfig, ModelSource, load_model
from training.studies.bases import Bases
from training.studies.cells import Result, Results, Stopped, StoppedError, StudyCell
from training.studies.page import Page
from training.studies.stepcoder import page as stepcoder_page
from training.studies.stepcoder import summary as stepcoder_summary
from training.studies.stepcoder.config import StepcoderConfig
from training.studies.stepcoder.forgetting import Forgetting
from training.studies.stepcoder.gradient import GradientConfig, measure
from training.studies.stepcoder.setup import PolicySetup
from training.studies.stepcoder.sft import fine_tune, measure_base, moments
from training.studies.stepcoder.summary import StepcoderRun

# what is kept of every round
KEPT = (
    "reward",
    "pass_rate",
    "masked_share",
    "kl",
    "truncated",
    "share_runtime_error",
    "share_compile_error",
)
# what gradients depend on, of the PPO config
POLICY = ("adapter", "base_dtype", "experts", "lora", "rollout", "sandbox", "ppo", "forward")
# what a result does not depend on
INCIDENTAL = ("output", "base", "resume", "export", "watch", "checkpoint", "distributed")


def make(config: StepcoderConfig, out: Path) -> "StepcoderStudy":
    """The study, with its bases and the run in progress in a folder.

    Args:
      config: of the study.
      out: folder of its files.
    Returns: the study.
    """
    return StepcoderStudy(config, out)


class StepcoderStudy:
    """See `training.studies.cells.PaperStudy`."""

    name = "stepcoder"
    title = "StepCoder: a curriculum of completion, and learning from executed code alone"

    def __init__(self, config: StepcoderConfig, out: Path):
        self.config, self._out = config, out
        self.bases = Bases(config.base, config.checkpoints, out, name="code", scale=config.scale)
        # what the cells that are done have found: the practised are asked what their base knew
        self._found: Results = {}

    # the cells

    def cells(self, results: Results) -> list[StudyCell]:
        """The bases, then every row in every regime seed by seed, then the gradients at every base."""
        self._found = results
        config, made = self.config, self._base_cells(results)
        if len(taken := self.taken(results)) < self._wanted:
            return made
        runs = [
            self.run_cell(row, regime, seed, taken[seed % self._wanted])
            for seed in range(config.seeds)
            for regime in config.regimes
            for row in config.rows
        ]
        return [*made, *runs, *map(self._gradient_cell, taken)]

    def _base_cells(self, results: Results) -> list[StudyCell]:
        """As many as are needed to find bases that may enter."""
        cells: list[StudyCell] = []
        while len(self.taken(results, len(cells))) < self._wanted and len(cells) < self._tries:
            number = len(cells)
            settings = {"base": self.bases.settings(number), "exam": self._exam} | self._asked_besides
            cost = 10 + (0 if self.bases.there(number) else 85 * self.config.scale)
            cells.append(StudyCell(f"base{number}", settings, f"base {number}: pretraining", cost))
            if cells[-1].name not in results:
                break
        return cells

    @property
    def _wanted(self) -> int:
        """Bases that runs start from: no more than there are seeds."""
        return min(self.config.bases, self.config.seeds)

    @property
    def _tries(self) -> int:
        return len(self.config.checkpoints) or max(self.config.tries, self.config.bases)

    @property
    def _asked_besides(self) -> JsonObject:
        """Settings of what is asked of knowledge; empty where nothing is."""
        if self.config.forgetting is None:
            return {}
        asked = configs.to_dict(self.config.forgetting)
        del asked["rows"]  # changes no result
        return {"forgetting": asked}

    @cached_property
    def _exam(self) -> JsonObject:
        """What a base's entry depends on."""
        found = configs.to_dict(self._first)
        return {key: found[key] for key in ("rollout", "evaluation", "problems")}

    @property
    def _first(self) -> PPORunConfig:
        """Any run's config; all have the same held-out problems."""
        return self.ppo_config(next(iter(self.config.rows)), next(iter(self.config.regimes)), 0)

    def _setup(self, source: ModelSource, base: str, problems: ProblemsConfig, seed: int) -> PolicySetup:
        """A run's policy and what it is asked, without how it learns."""
        shared = self._shared
        return PolicySetup(
            replace(source, base=base),
            base,
            shared.mesh,
            problems,
            shared.rollout,
            shared.sandbox,
            shared.evaluation,
            seed,
        )

    def _forgetting(self, number: int) -> Forgetting | None:
        """What a base knew, to be asked of models that come of it."""
        if self.config.forgetting is None:
            return None
        base, shared = self.bases.export(number), self._shared
        lm = load_model(base, "none", ExpertConfig(), LoraConfig(), shared.mesh.make()).lm
        known = self._found[f"base{number}"]["knowledge"]
        return Forgetting(self.config.forgetting, lm, load_tokenizer(local_folder(base)), known)

    def taken(self, results: Results, among: int | None = None) -> list[int]:
        """The numbers of the bases that may enter, in order.

        Args:
          results: of the cells that are done.
          among: look at the first so many tries only.
        Returns: numbers, ascending.

        Raises: ValueError if all tries are used up and there are not enough.
        """
        tries = range(self._tries if among is None else among)
        known = [number for number in tries if f"base{number}" in results]
        fit = [n for n in known if results[f"base{n}"]["start"]["all"] >= self.config.entry]
        if len(known) == self._tries and len(fit) < self._wanted:
            raise ValueError(
                f"{len(fit)} of {len(known)} bases have a held-out pass@1 of at least entry="
                f"{self.config.entry:g}, {self._wanted} are wanted; pretrain for longer, or lower entry"
            )
        return fit[: self._wanted]

    def _gradient_cell(self, number: int) -> StudyCell:
        found = configs.to_dict(self._shared)
        settings = {key: found[key] for key in POLICY}
        settings |= {"base": self.bases.settings(number), "gradient": configs.to_dict(self._gradient)}
        return StudyCell(
            f"gradient{number}", settings, f"gradients at base {number}", 240 * self.config.scale
        )

    @cached_property
    def _gradient(self) -> GradientConfig:
        found, scaled = self.config.gradient, self.config.scaled
        return replace(found, batches=scaled(found.batches), reference=scaled(found.reference))

    def run_cell(self, row: str, regime: str, seed: int, base: int) -> StudyCell:
        """One run of reinforcement learning, or of fine-tuning on the solutions.

        Args:
          row, regime: by name.
          seed: of everything that is drawn.
          base: number of the base.
        Returns: the cell; what it does is in its settings.
        """
        found = configs.to_dict(self.ppo_config(row, regime, seed))
        settings = {key: value for key, value in found.items() if key not in INCIDENTAL}
        settings |= {"base": self.bases.settings(base)} | self._asked_besides
        title = f"{self.config.rows[row].label}, {self.config.regimes[regime].label}, seed {seed}"
        cost = 20 + 4.5 * settings["rounds"]
        if self.config.rows[row].method == "sft":
            settings, cost = settings | {"method": "sft"}, 40
        return StudyCell(f"{regime}-{row}-s{seed}", settings, title, cost)

    @cached_property
    def _shared(self) -> PPORunConfig:
        """The PPO config of all runs."""
        config = self.config
        found = configs.load(PPORunConfig, config.ppo)
        limit = config.limit if config.scale == 1 else config.scaled(config.limit or 400)
        return replace(
            found,
            rounds=config.scaled(config.rounds or found.rounds),
            export=False,
            resume="same",
            evaluation=replace(found.evaluation, every=config.every, limit=limit),
            watch=replace(found.watch, tensorboard=False, plots=False),
        )

    def ppo_config(self, row: str, regime: str, seed: int) -> PPORunConfig:
        """The config of a run, but for its base and folder.

        Args:
          row, regime: by name.
          seed: of everything that is drawn.
        Returns: the shared config with what the row and the regime change.
        """
        way, where, shared = self.config.rows[row], self.config.regimes[regime], self._shared
        optimizer = shared.optimizer if way.lr is None else replace(shared.optimizer, lr=way.lr)
        return replace(
            shared,
            seed=seed,
            adapter=way.adapter or shared.adapter,
            optimizer=optimizer,
            curriculum=way.curriculum,
            mask=way.mask,
            problems=where.problems,
            cccs=where.cccs,
        )

    # running them

    def run(self, cell: StudyCell, stopped: Stopped) -> Result:
        """Pretrains a base, or runs PPO from one; a run that was stopped is resumed.

        Args:
          cell: of `cells`.
          stopped: whether the run is to end.
        Returns: its measures, as plain JSON.
        """
        if cell.name.startswith("base"):
            export = self.bases.export(int(cell.name.removeprefix("base")))
            return measure_base(
                self._setup(self._shared.source, export, self._first.problems, 0), self.config.forgetting
            )
        if cell.name.startswith("gradient"):
            number = int(cell.name.removeprefix("gradient"))
            shared = self._shared
            setup = self._setup(shared.source, self.bases.export(number), shared.problems, number)
            return measure(setup, shared.ppo, shared.forward, self._gradient, stopped)
        regime, row, seed = cell.name.rsplit("-", 2)
        config = self.ppo_config(row, regime, int(seed[1:]))
        number = next(n for n in range(self._tries) if self.bases.settings(n) == cell.settings["base"])
        base = self.bases.export(number)
        if self.config.rows[row].method == "sft":
            setup = self._setup(config.source, base, config.problems, config.seed)
            learning = (config.optimizer, config.forward, config.rounds)
            return fine_tune(setup, *learning, stopped, self._forgetting(number))
        folder = self._out / "running" / cell.file.removesuffix(".json")
        config = replace(config, base=base, output=str(folder))
        forgetting = self._forgetting(number)
        looked_at = [config.rounds] if forgetting is None else moments(config.rounds, config.evaluation.every)
        kept = folder.with_name(f"{folder.name}-forgetting.json")
        forgotten = json.loads(kept.read_text()) if kept.exists() else []
        for rounds in looked_at[len(forgotten) :]:
            # a run is taken up where it was left: what it does does not depend on where it will end
            done = ppo.main(replace(config, rounds=rounds, resume="changed"))
            if not done.finished:
                raise StoppedError
            if forgetting is not None:
                forgotten.append({"round": done.step, **forgetting.of(done.lm)})
                write_whole(kept, json.dumps(forgotten) + "\n")
        result = read_run(read_lines(folder / "metrics.jsonl"))
        if forgotten:
            result["forgetting"] = forgotten
        shutil.rmtree(folder)
        kept.unlink(missing_ok=True)
        return result

    def describe(self, cell: StudyCell, result: Result) -> str:
        """Held-out pass@1 at the start and at the end, or cosines of the gradients.

        Args:
          cell: that is done.
          result: of `run`.
        Returns: one line.
        """
        if "batches" in result:
            few = str(self._gradient.tests[0])
            found = stepcoder_summary.gradients([result])[few]
            plain, masked = (found[key]["mean"] for key in ("plain", "masked"))
            return f"cosine with {few} tests: {plain} without the mask, {masked} with it"
        if "start" in result:
            enters = result["start"]["all"] >= self.config.entry
            return f"held-out pass@1 {result['start']['all']:.2f}{'' if enters else ': passed over'}"
        first, last = result["held_out"][0], result["held_out"][-1]
        kinds = ", ".join(f"{k} {v:.2f}" for k, v in last.items() if k not in ("round", "all"))
        told = f"held-out pass@1 {first['all']:.2f} → {last['all']:.2f} ({kinds})"
        if "forgetting" not in result:
            return told
        left = result["forgetting"][-1]
        return f"{told}; facts kept {left['completed']:.2f}; KL {left['kl']['own']['forward']:.3f}"

    # what they say

    @cached_property
    def _sizes(self) -> JsonObject:
        """How many problems there are of each difficulty: held out, and to practise on in each regime."""
        sizes: JsonObject = {}
        for name, regime in self.config.regimes.items():
            practice, held_out = embedded(regime.problems)
            limit = self._shared.evaluation.limit
            sizes["held_out"] = counted(held_out[:limit])
            wanted = regime.problems.difficulties
            sizes[name] = counted([p for p in practice if not wanted or p.difficulty in wanted])
        return sizes

    def summary(self, results: Results) -> JsonObject:
        """See `stepcoder_summary`."""
        runs = []
        for cell in self.cells(results):
            if cell.name in results and not cell.name.startswith(("base", "gradient")):
                regime, row, seed = cell.name.rsplit("-", 2)
                runs.append(StepcoderRun(row, regime, int(seed[1:]), results[cell.name]))
        config = self.config
        return {
            "scale": config.scale,
            "labels": {name: row.label for name, row in config.rows.items()},
            "regime_labels": {name: regime.label for name, regime in config.regimes.items()},
            "settings": configs.to_dict(config),
            "ppo": configs.to_dict(self._shared),
            "base": self.bases.about(),
            "bases": {n.removeprefix("base"): r["start"]["all"] for n, r in results.items() if "start" in r},
            "sizes": self._sizes,
            "seeds": sorted({run.seed for run in runs}),
            "gradient": stepcoder_summary.gradients([r for r in results.values() if "batches" in r]),
            "forgetting": stepcoder_summary.forgotten(runs, self._relations(results)),
            "known": {n: _known(r["knowledge"]) for n, r in results.items() if "knowledge" in r},
            **stepcoder_summary.summarize(runs, list(config.rows), list(config.regimes)),
        }

    def _relations(self, results: Results) -> list[str]:
        """Of the facts that the first base knew: studies that ask for them have one."""
        known = [found["knowledge"] for found in results.values() if "knowledge" in found]
        return list(known[0]["relations"]) if known else []

    def page(self, summary: JsonMapping) -> Page:
        """See `stepcoder_page`."""
        return stepcoder_page.page(self.title, summary)


def _known(found: JsonMapping) -> JsonObject:
    return {"asked": found["asked"], "known": len(found["known"])}


def read_run(records: Sequence[JsonMapping]) -> Result:
    """What the study keeps of a run's metrics: held-out pass@1, KEPT and the stages of every round.

    Args:
      records: lines of metrics.jsonl; rounds, and measurements with the number of rounds before them.
    """
    held_out, rounds = [], []
    for record in records:
        if "held_out_pass_at_1" in record:
            scores = {
                key.removeprefix("held_out_pass_at_1").removeprefix("_") or "all": round(value, 5)
                for key, value in record.items()
                if key.startswith("held_out_pass_at_1")
            }
            held_out.append({"round": record["step"], **scores})
        if "pass_rate" in record:
            rounds.append(record)
    stages = [
        {k.removeprefix("stage_"): int(v) for k, v in record.items() if k.startswith("stage_")}
        for record in rounds
    ]
    return {
        "held_out": held_out,
        "rounds": {k: [None if r[k] is None else round(r[k], 5) for r in rounds] for k in KEPT},
        "stages": stages if any(stages) else [],
        "tokens": int(sum(record["tokens"] for record in rounds)),
    }


def embedded(config: ProblemsConfig) -> tuple[list[Problem], list[Problem]]:
    """Problems to practise on, and those held out, before any is left out."""
    rows = embedded_rows(config.embedded)
    found = [Problem(row["id"], row["prompt"], difficulty=row["difficulty"]) for row in rows]
    return split_problems(found, config.held_out)


def counted(problems: Sequence[Problem]) -> dict[str, int]:
    """Number of problems by difficulty."""
    kinds = [problem.difficulty for problem in problems]
    return {
        kind: kinds.count(kind) for kind in dict.fromkeys((*programs.DIFFICULTIES, *kinds)) if kind in kinds
    }
