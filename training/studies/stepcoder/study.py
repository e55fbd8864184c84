"""StepCoder's claims: does a curriculum of completion subtasks (CCCS) help PPO on code to explore, and does a
mask of the tokens that no test executed (FGO) help it to learn from the right ones?

Bases are small code models that guess what unclear words of a statement mean; the tests reveal it. From the
same base and with equally many samples, each row (`StepcoderRow`) runs PPO with a critic, with or without
either part, in two regimes: practicing on hard problems only, and on a mixture of all difficulties. The
held-out problems are the same for all rows: of every difficulty, asked as whole tasks, without any part of
the solution.

No setting is chosen on the held-out problems: all rows share those of the PPO config.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from jaxmoe.base_folder import local_folder
from jaxmoe.datasets import programs
from jaxmoe.json_values import JsonMapping, JsonObject
from jaxmoe.model.config import ExpertConfig
from jaxmoe.tokenizer import load_tokenizer
from rl.feedback.problems import Problem, split_problems
from training.ppo import train as ppo
from training.ppo.config import EvaluationConfig, PPORunConfig
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

# what is kept from every round
KEPT = (
    "reward",
    "pass_rate",
    "masked_share",
    "kl",
    "truncated",
    "share_runtime_error",
    "share_compile_error",
)
# the parts of the PPO config that gradients depend on
POLICY = ("adapter", "base_dtype", "experts", "lora", "rollout", "sandbox", "ppo", "forward")
# the parts of the PPO config that a result does not depend on
INCIDENTAL = ("output", "base", "resume", "export", "watch", "checkpoint", "distributed")


def make(config: StepcoderConfig, out: Path) -> "StepcoderStudy":
    """The study, with its bases and the run in progress in a folder.

    Args:
      config: the study's config.
      out: folder for its files.
    Returns: the study.
    """
    return StepcoderStudy(config, out)


class PlannedRun(NamedTuple):
    """One run: names of row and regime, and the seed of everything that is random."""

    row: str
    regime: str
    seed: int


class StepcoderStudy:
    """See `training.studies.cells.PaperStudy`."""

    name = "stepcoder"
    title = "StepCoder: a curriculum of completion, and learning from executed code alone"

    def __init__(self, config: StepcoderConfig, out: Path):
        self.config, self._out = config, out
        self.bases = Bases(config.base, config.checkpoints, out, name="code", scale=config.scale)
        # results of the finished cells: practiced models are asked what their base knew
        self._found: Results = {}
        self._asked: dict[int, Forgetting] = {}

    # the cells

    def cells(self, results: Results) -> list[StudyCell]:
        """The bases; then, regime by regime, every row seed by seed, so that one comparison is complete
        before the next begins; then the gradients at every base."""
        self._found = results
        made = self._base_cells(results)
        if len(taken := self.taken(results)) < self._wanted:
            return made
        runs = [self.run_cell(run, taken[run.seed % self._wanted]) for run in self._planned.values()]
        gradients = [] if self._gradient is None else [*map(self._gradient_cell, taken)]
        return [*made, *runs, *gradients]

    @cached_property
    def _planned(self) -> dict[str, PlannedRun]:
        """Every run by the name of its cell, in the order in which they are made."""
        config = self.config
        runs = [
            PlannedRun(name, regime, seed)
            for regime in config.regimes
            for seed in range(config.seeds)
            for name, row in config.rows.items()
            if regime in (row.regimes or config.regimes)
        ]
        return {_name(run): run for run in runs}

    def _base_cells(self, results: Results) -> list[StudyCell]:
        """As many base cells as are needed to find enough bases that may enter."""
        cells: list[StudyCell] = []
        while len(self.taken(results, len(cells))) < self._wanted and len(cells) < self._tries:
            number = len(cells)
            settings = {"base": self.bases.settings(number), "exam": self._exam} | self._asked_besides
            there = self.bases.there(number)
            cost = 10 + (0 if there else 85 * self.config.scale)
            title = f"base {number}{'' if there else ': pretraining'}"
            cells.append(StudyCell(f"base{number}", settings, title, cost))
            if cells[-1].name not in results:
                break
        return cells

    @property
    def _wanted(self) -> int:
        """Number of bases that runs start from: no more than there are seeds."""
        return min(self.config.bases, self.config.seeds)

    @property
    def _tries(self) -> int:
        return len(self.config.checkpoints) or max(self.config.tries, self.config.bases)

    @property
    def _asked_besides(self) -> JsonObject:
        """Settings of the knowledge questions; empty if there are none."""
        if self.config.forgetting is None:
            return {}
        asked = configs.to_dict(self.config.forgetting)
        del asked["rows"]  # changes no result
        return {"forgetting": asked}

    @cached_property
    def _exam(self) -> JsonObject:
        """The settings that a base's entry depends on."""
        found = configs.to_dict(self._first)
        return {key: found[key] for key in ("rollout", "evaluation", "problems")}

    @property
    def _first(self) -> PPORunConfig:
        """The config of any run; all have the same held-out problems."""
        return self.ppo_config(next(iter(self._planned.values())))

    def _setup(
        self,
        number: int,
        source: ModelSource,
        problems: ProblemsConfig,
        evaluation: EvaluationConfig,
        seed: int,
    ) -> PolicySetup:
        """The policy of a run from a base and what it is asked, but not how it learns."""
        base, shared = self.bases.export(number), self._shared
        return PolicySetup(
            replace(source, base=base),
            base,
            shared.mesh,
            problems,
            shared.rollout,
            shared.sandbox,
            evaluation,
            seed,
        )

    def _forgetting(self, number: int) -> Forgetting | None:
        """What a base knew, to ask of models that derive from it."""
        if self.config.forgetting is None:
            return None
        if number not in self._asked:
            base, shared = self.bases.export(number), self._shared
            lm = load_model(base, "none", ExpertConfig(), LoraConfig(), shared.mesh.make()).lm
            known, tokenizer = self._found[f"base{number}"]["knowledge"], load_tokenizer(local_folder(base))
            self._asked[number] = Forgetting(self.config.forgetting, lm, tokenizer, known)
        return self._asked[number]

    def taken(self, results: Results, among: int | None = None) -> list[int]:
        """The numbers of the bases that may enter, in order.

        Args:
          results: results of the finished cells.
          among: consider only this many tries, from the first on.
        Returns: numbers, in ascending order.

        Raises: ValueError if all tries are used up without finding enough.
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
        assert self._gradient is not None
        settings |= {"base": self.bases.settings(number), "gradient": configs.to_dict(self._gradient)}
        return StudyCell(
            f"gradient{number}", settings, f"gradients at base {number}", 240 * self.config.scale
        )

    @cached_property
    def _gradient(self) -> GradientConfig | None:
        found, scaled = self.config.gradient, self.config.scaled
        if found is None:
            return None
        return replace(found, batches=scaled(found.batches), reference=scaled(found.reference))

    def run_cell(self, run: PlannedRun, base: int) -> StudyCell:
        """One run of reinforcement learning, or of fine-tuning on the solutions.

        Args:
          run: the planned run.
          base: number of the base.
        Returns: the cell; its settings say what it does.
        """
        config, row = self.ppo_config(run), self.config.rows[run.row]
        settings = {key: value for key, value in configs.to_dict(config).items() if key not in INCIDENTAL}
        settings |= {"base": self.bases.settings(base)} | self._asked_besides
        title = f"{row.label}, {self.config.regimes[run.regime].label}, seed {run.seed}"
        cost = 20 + 4.5 * config.rounds
        if row.method == "sft":
            settings, cost = settings | {"method": "sft"}, 20 + 2.5 * config.rounds
        return StudyCell(_name(run), settings, title, cost)

    @cached_property
    def _shared(self) -> PPORunConfig:
        """The PPO config of all runs."""
        config = self.config
        found = configs.load_given(PPORunConfig, "ppo", config.ppo)
        limit = config.limit if config.scale == 1 else config.scaled(config.limit or 400)
        return replace(
            found,
            rounds=config.scaled(config.rounds or found.rounds),
            export=False,
            resume="same",
            evaluation=replace(found.evaluation, every=config.every, limit=limit),
            watch=replace(found.watch, tensorboard=False, plots=False),
        )

    def ppo_config(self, run: PlannedRun) -> PPORunConfig:
        """The config of a run, except for its base and folder.

        Args:
          run: the planned run.
        Returns: the shared config with the changes for the row, the regime and the seed.
        """
        way, where, shared = self.config.rows[run.row], self.config.regimes[run.regime], self._shared
        rounds = way.rounds or where.rounds
        return replace(
            shared,
            seed=run.seed,
            adapter=way.adapter or shared.adapter,
            optimizer=replace(shared.optimizer, lr=way.lr or shared.optimizer.lr),
            curriculum=way.curriculum,
            mask=way.mask,
            problems=replace(where.problems, practice_seed=run.seed),
            cccs=where.cccs,
            rounds=shared.rounds if rounds is None else self.config.scaled(rounds),
            evaluation=replace(shared.evaluation, every=way.every or shared.evaluation.every),
        )

    # running cells

    def run(self, cell: StudyCell, stopped: Stopped) -> Result:
        """Pretrains a base, or runs PPO from one; a stopped run is resumed.

        Args:
          cell: one of `cells`.
          stopped: returns true once the run should end.
        Returns: its measurements, as plain JSON.
        """
        shared = self._shared
        if cell.name.startswith("base"):
            number = int(cell.name.removeprefix("base"))
            setup = self._setup(number, shared.source, self._first.problems, shared.evaluation, seed=0)
            return measure_base(setup, self.config.forgetting)
        if cell.name.startswith("gradient") and self._gradient is not None:
            number = int(cell.name.removeprefix("gradient"))
            setup = self._setup(number, shared.source, shared.problems, shared.evaluation, seed=number)
            return measure(setup, shared.ppo, shared.forward, self._gradient, stopped)
        planned = self._planned[cell.name]
        config = self.ppo_config(planned)
        number = next(n for n in range(self._tries) if self.bases.settings(n) == cell.settings["base"])
        if self.config.rows[planned.row].method == "sft":
            # a row may be measured more often than the others
            setup = self._setup(number, config.source, config.problems, config.evaluation, config.seed)
            learning = (config.optimizer, config.forward, config.rounds)
            return fine_tune(setup, *learning, stopped, self._forgetting(number))
        base = self.bases.export(number)
        folder = self._out / "running" / cell.file.removesuffix(".json")
        config = replace(config, base=base, output=str(folder))
        forgetting = self._forgetting(number)
        looked_at = [config.rounds] if forgetting is None else moments(config.rounds, config.evaluation.every)
        kept = folder.with_name(f"{folder.name}-forgetting.json")
        forgotten = json.loads(kept.read_text()) if kept.exists() else []
        for rounds in looked_at[len(forgotten) :]:
            # a run resumes where it was left; what it does does not depend on its number of rounds
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
          cell: a finished cell.
          result: what `run` returned.
        Returns: one line.
        """
        if "batches" in result:
            few = next(iter(result["batches"]))
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

    # results

    @cached_property
    def _sizes(self) -> JsonObject:
        """How many problems of each difficulty there are: held out, and for practice in each regime."""
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
            if cell.name in results and (run := self._planned.get(cell.name)) is not None:
                rate = self.ppo_config(run).optimizer.lr
                assert rate is not None  # reinforcement learning has a default of its own
                found = results[cell.name]
                runs.append(StepcoderRun(run.row, run.regime, run.seed, found, rate))
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
        """Relations of the facts that the first base knew: studies that ask for facts have one base."""
        known = [found["knowledge"] for found in results.values() if "knowledge" in found]
        return list(known[0]["relations"]) if known else []

    def page(self, summary: JsonMapping) -> Page:
        """See `stepcoder_page`."""
        return stepcoder_page.page(self.title, summary)


def _name(run: PlannedRun) -> str:
    return f"{run.regime}-{run.row}-s{run.seed}"


def _known(found: JsonMapping) -> JsonObject:
    return {"asked": found["asked"], "known": len(found["known"])}


def read_run(records: Sequence[JsonMapping]) -> Result:
    """What the study keeps of a run's metrics: held-out pass@1, KEPT and the stages of every round.

    Args:
      records: lines of metrics.jsonl: rounds, and measurements with the number of rounds before them.
    """
    rounds, held_out = (
        [],
        {},
    )  # by round: a run killed before its first checkpoint measures its start twice
    for record in records:
        if "held_out_pass_at_1" in record:
            scores = {
                key.removeprefix("held_out_pass_at_1").removeprefix("_") or "all": round(value, 5)
                for key, value in record.items()
                if key.startswith("held_out_pass_at_1")
            }
            held_out[record["step"]] = {"round": record["step"], **scores}
        if "pass_rate" in record:
            rounds.append(record)
    stages = [
        {k.removeprefix("stage_"): int(v) for k, v in record.items() if k.startswith("stage_")}
        for record in rounds
    ]
    return {
        "held_out": list(held_out.values()),
        "rounds": {k: [None if r[k] is None else round(r[k], 5) for r in rounds] for k in KEPT},
        "stages": stages if any(stages) else [],
        "tokens": int(sum(record["tokens"] for record in rounds)),
    }


def embedded(config: ProblemsConfig) -> tuple[list[Problem], list[Problem]]:
    """Practice problems and held-out problems, before any are left out."""
    rows = embedded_rows(config.embedded)
    found = [Problem(row["id"], row["prompt"], difficulty=row["difficulty"]) for row in rows]
    return split_problems(found, config.held_out)


def counted(problems: Sequence[Problem]) -> dict[str, int]:
    """Number of problems by difficulty."""
    kinds = [problem.difficulty for problem in problems]
    return {
        kind: kinds.count(kind) for kind in dict.fromkeys((*programs.DIFFICULTIES, *kinds)) if kind in kinds
    }
