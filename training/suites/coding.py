"""suite=coding: programs for problems with tests, run in the sandbox; pass@k."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, cast

from evals.coding.measure import CodingResult, SampleRecord, evaluate
from evals.models.local_model import Form
from evals.questionnaires.respondents.api_server import ServerConfig, check_numbers
from jaxmoe.given_paths import given
from jaxmoe.progress import ProgressDisplay
from rl.feedback.grader import Grader
from rl.feedback.language import Limits, Settings
from rl.feedback.problems import Problem
from rl.feedback.prompts import PromptForm, code_prompt
from rl.feedback.readers import load_problems
from rl.hosts.open_grader import open_grader
from rl.sandbox.worker import SandboxError
from training.runtime.journal import ItemJournal
from training.suites.evaluation import ItemSet, ScoredItem, Subject, SuiteRun

# the form in which a model gets a text, for each form of prompts
MODEL_FORMS: dict[PromptForm, Form] = {"completion": "text", "instruction": "instruction", "chat": "chat"}


# problems whose programs are drawn, graded and kept together
CHUNK = 32


@dataclass(frozen=True)
class CodingConfig:
    """Programs for problems with tests.

    Attributes:
      paths: files or folders of problems in any format of docs/formats, such as HumanEval's, each a set of
        its own.
      server: OpenAI-compatible server of the model that writes the programs, in place of base or run; null
        for none.
      form: completion for base models, chat for those with a chat template, instruction for the LoRAMoE form;
        auto is chat if the tokenizer has a chat template or the server's route is chat, else completion.
      samples: programs per problem.
      k: values of k for pass@k, none above samples.
      temperature, top_p: of sampling; 0.2 and 0.95 are usual for pass@1, temperature 0.8 for larger k.
      max_new_tokens: most tokens of a program.
      limit: take only this many problems of each path, from the first; null takes all.
      bad: what to do about problems that cannot be used, error or skip.
      hosts: where programs run: [] on this machine, [ray] on the nodes of the Ray cluster, or the addresses
        of servers (python -m rl.sandbox serve).
      workers: sandboxes working in parallel, here or on each node of Ray; null takes one per core.
      time_s: limit of each test, in seconds.
      memory_mb: limit of each test, in MiB.
    """

    paths: tuple[str, ...] = ()
    server: ServerConfig | None = None
    form: PromptForm | Literal["auto"] = "completion"
    samples: int = 1
    k: tuple[int, ...] = (1,)
    temperature: float = 0.2
    top_p: float = 0.95
    max_new_tokens: int = 512
    limit: int | None = None
    bad: Literal["error", "skip"] = "error"
    hosts: tuple[str, ...] = ()
    workers: int | None = None
    time_s: float = 2.0
    memory_mb: int = 512

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_new_tokens < 1:
            raise ValueError(
                "coding.samples and coding.max_new_tokens must be at least 1; got "
                f"{self.samples} and {self.max_new_tokens}"
            )
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"coding.limit must be at least 1, or null for all; got {self.limit}")
        check_numbers("coding.", temperature=self.temperature)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"coding.top_p must lie above 0 and be at most 1; got {self.top_p:g}")
        if self.server is not None and self.form == "instruction":
            raise ValueError(
                "coding.form instruction needs a local model; with coding.server take completion or chat"
            )
        if not self.k or not 1 <= min(self.k) <= max(self.k) <= self.samples:
            raise ValueError(
                f"coding.k must lie between 1 and coding.samples = {self.samples}; got {list(self.k)}: draw "
                "more samples, or take a smaller k"
            )


def coding(config: CodingConfig, seed: int, confidence: float) -> SuiteRun:
    """Reads all problems, so that mistakes show before a model is loaded.

    Args:
      seed: of sampling.
      confidence: of intervals, such as 0.95.
    Returns: a function that solves the problems with a model and gives pass@k, a set for each file.
    Raises: ValueError for no file, two of one name, or a problem that cannot be asked in the form.
    """
    if not config.paths:
        raise ValueError("coding.paths must name at least one file of problems; got none")
    read: dict[str, list[Problem]] = {}
    for number, path in enumerate(config.paths):
        name = Path(path).name
        if name in read:
            raise ValueError(f"coding.paths must end in different names; {name} occurs twice")
        with given(f"coding.paths.{number}", path):
            read[name] = load_problems(path, bad=config.bad)[: config.limit]
        for problem in read[name]:
            # report what cannot be asked before a model is loaded
            code_prompt(problem, "chat" if config.form == "auto" else config.form)
    limits = Limits(time_s=config.time_s, memory_bytes=config.memory_mb << 20)

    def run(loaded: Subject) -> list[ItemSet]:
        form = cast("PromptForm", loaded.resolved(config.form, "completion"))
        model = loaded.text_model(MODEL_FORMS[form])
        workers = config.workers or os.cpu_count() or 1
        sets: list[ItemSet] = []
        if loaded.journal is not None:
            loaded.journal.begin(loaded.identity(), read)
        with _grader(config.hosts, workers, limits) as grader, ProgressDisplay(loaded.progress) as display:
            for name, problems in read.items():
                result = evaluate(
                    model,
                    problems,
                    grader,
                    form=form,
                    samples=config.samples,
                    ks=config.k,
                    max_new_tokens=config.max_new_tokens,
                    temperature=config.temperature,
                    top_p=config.top_p,
                    seed=seed,
                    confidence=confidence,
                    chunk=CHUNK,
                    progress=display.task(name),
                    store=None if loaded.journal is None else _Kept(loaded.journal, f"{name}, {form}"),
                )
                sets.append(_set(f"{name}, {form}", result))
        return sets

    return run


@dataclass(frozen=True)
class _Kept:
    """The samples of a set in the evaluation's journal."""

    journal: ItemJournal
    name: str

    def known(self, start: int, count: int) -> list[SampleRecord] | None:
        rows = self.journal.known(self.name, start, count)
        names = [field.name for field in fields(SampleRecord)]
        return None if rows is None else [SampleRecord(**{n: row[n] for n in names}) for row in rows]

    def add(self, records: Sequence[SampleRecord]) -> None:
        self.journal.add(_item(record).line(self.name) for record in records)


def _item(record: SampleRecord) -> ScoredItem:
    # samples of a problem are not independent items
    scores = {"passed": float(record.passed)}
    return ScoredItem(f"{record.task_id}#{record.sample}", record.task_id, scores, asdict(record))


def _grader(hosts: tuple[str, ...], workers: int, limits: Limits) -> Grader:
    try:
        return open_grader(hosts, workers, Settings(limits, trace=False))
    except SandboxError as error:
        raise ValueError(f"{error} (python -m rl.sandbox --check lists what is missing)") from error


def _set(name: str, result: CodingResult) -> ItemSet:
    items = [_item(record) for record in result.records]
    return ItemSet(name, result.scores, result.by_difficulty, items, {"verdicts": result.verdicts})
