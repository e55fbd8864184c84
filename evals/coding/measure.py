"""Code: draw programs from a model, run them against the tests, unbiased pass@k with its sampling error.

Grading is left to a pool of sandboxes (rl.feedback.pool.Pool), to which programs are only text. Programs of a
model that reports each text as it ends are graded at once; otherwise one chunk of problems is graded while
the model writes the next.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from evals.coding.pass_at_k import pass_at_k
from evals.models.text_model import Progress, TellingTextModel, TextModel
from evals.psychometrics.uncertainty import Score, mean_score, undefined_score
from jaxmoe.json_values import JsonObject
from rl.feedback.problems import Problem
from rl.feedback.prompts import PromptForm, code_prompt, extract, stop_strings

PASS = "pass"


class Feedback(Protocol):
    """What grading says about a program."""

    @property
    def verdict(self) -> str:
        """Such as "passed"."""
        ...


class SampleStore(Protocol):
    """Where samples are kept as they are graded, so that an evaluation that was killed resumes."""

    def known(self, start: int, count: int) -> "list[SampleRecord] | None":
        """Samples of an earlier run.

        Args:
          start: number of the first sample.
          count: how many.
        Returns: the samples in order; None if one of them is missing.
        """
        ...

    def add(self, records: "Sequence[SampleRecord]") -> None:
        """Keeps the samples of a chunk; chunks come in order."""
        ...


class BatchGrader(Protocol):
    """Whoever runs programs; rl.feedback.pool.Pool does."""

    def grade_many(self, pairs: Sequence[tuple[Problem, str]], /) -> Sequence[Feedback]:
        """Feedback on every (problem, program), in order."""
        ...


@runtime_checkable
class ProgramGrader(Protocol):
    """A grader to which programs can be handed one by one."""

    def submit(self, problem: Problem, program: str, /) -> "Future[Feedback]":
        """Feedback on a program, later.

        Args:
          problem: with at least one test.
          program: the source.
        Returns: a future of its feedback.
        """
        ...


@dataclass(frozen=True)
class SampleRecord:
    """One program and its verdict. Fields are named as other tools expect them in samples files.

    Attributes:
      completion: what the model wrote; solution: the whole program that was run.
      verdict: pass, fail, runtime_error, timeout, compile_error or output_limit.
    """

    task_id: str
    sample: int
    completion: str
    solution: str
    verdict: str
    passed: bool
    difficulty: str


@dataclass(frozen=True)
class CodingResult:
    """pass@k by name ("pass@1"), the same by difficulty, the count of each verdict, and every sample."""

    scores: dict[str, Score]
    by_difficulty: dict[str, dict[str, Score]]
    verdicts: dict[str, int]
    records: list[SampleRecord]

    def summary(self) -> JsonObject:
        """Scores and verdicts without the samples, as plain dictionaries."""
        return {
            "scores": {name: score._asdict() for name, score in self.scores.items()},
            "by_category": {
                level: {name: score._asdict() for name, score in scores.items()}
                for level, scores in self.by_difficulty.items()
            },
            "verdicts": self.verdicts,
        }

    def items(self) -> list[JsonObject]:
        """Every sample as a plain dictionary, one for a line of JSON."""
        return [asdict(record) for record in self.records]


def evaluate(
    model: TextModel,
    problems: Sequence[Problem],
    grader: BatchGrader,
    *,
    form: PromptForm = "completion",
    samples: int = 1,
    ks: Sequence[int] = (1,),
    max_new_tokens: int = 512,
    temperature: float = 0.2,
    top_p: float = 0.95,
    seed: int = 0,
    confidence: float = 0.95,
    chunk: int = 32,
    progress: Progress | None = None,
    store: SampleStore | None = None,
) -> CodingResult:
    """Draws `samples` programs for every problem, grades them and estimates pass@k.

    Args:
      model: writes the programs.
      problems: with their tests.
      grader: such as an `rl.Pool`.
      samples: programs for each problem.
      max_new_tokens: limit for a program.
      seed: of the draw.
      confidence: of the intervals, in (0, 1).
      progress: called with how many problems of how many are done.
      store: keeps samples; earlier ones are not drawn again. None keeps nothing.
      form: completion for base models, instruction or chat for those that answer (rl.feedback.prompts).
      ks: values of k for pass@k; one above `samples` gives NaN with the reason.
      temperature, top_p: of the draw; 0.2 and 0.95 are usual for pass@1, temperature 0.8 for larger k.
      chunk: problems that are generated, then graded, at a time.
    Returns: pass@k, and a record for each program.
    Raises: ValueError without problems, for ids that repeat, samples below 1 or k below 1.
    """
    _check(problems, samples, ks)
    done, stop = 0, stop_strings(form)
    parts = [problems[start : start + chunk] for start in range(0, len(problems), chunk)]
    # a separate thread: sandboxes work while the device does
    with ThreadPoolExecutor(1) as grading:
        records: list[SampleRecord] = []
        graded: list[Future[list[SampleRecord]]] = []
        for number, part in enumerate(parts):
            start, count = number * chunk * samples, len(part) * samples
            earlier = None if store is None or graded else store.known(start, count)
            if earlier is not None:
                records += earlier
                done += len(part)
                if progress is not None:
                    progress(done, len(problems))
                continue
            for future in graded:
                if future.done():
                    future.result()  # so that a failing pool is noticed before more is generated
            prompts = [code_prompt(problem, form).text for problem in part]
            # another seed for each chunk: equal prompts in two chunks must not give equal samples
            drawn = seed * len(parts) + number
            how = _How(temperature, top_p, samples, drawn)
            asked = [problem for problem in part for _ in range(samples)]
            told: dict[int, Future[Feedback]] = {}
            if isinstance(model, TellingTextModel) and isinstance(grader, ProgramGrader):
                hand_in = partial(_hand_in, told, grader, asked, form)
                responses = model.generate_each(
                    prompts, max_new_tokens, stop, on_text=hand_in, **how._asdict()
                )
            else:
                responses = model.generate(prompts, max_new_tokens, stop, **how._asdict())
            graded.append(grading.submit(_graded, asked, responses, grader, form, samples, store, told))
            done += len(part)
            if progress is not None:
                progress(done, len(problems))
        records += [record for future in graded for record in future.result()]
    return summarize(records, ks, confidence=confidence)


def summarize(
    records: Sequence[SampleRecord], ks: Sequence[int] = (1,), *, confidence: float = 0.95
) -> CodingResult:
    """pass@k from graded samples, including samples read back or made elsewhere.

    The mean over problems. Its error treats the problems as a sample of problems and includes the error of
    each problem's own estimate. Intervals are Wilson's where every problem's estimate is 0 or 1 (one sample
    each), otherwise bootstrap percentiles over problems.

    Args:
      records: of any number of problems.
      ks: values of k for pass@k.
      confidence: of the intervals, in (0, 1).
    Returns: pass@k with its error, over all and by difficulty.
    """
    if not records:
        raise ValueError("pass@k needs at least one graded sample; got none")
    difficulty = {record.task_id: record.difficulty for record in records}
    drawn = Counter(record.task_id for record in records)
    passed = Counter(record.task_id for record in records if record.passed)

    def scores(tasks: Sequence[str]) -> dict[str, Score]:
        n, c = [drawn[task] for task in tasks], [passed[task] for task in tasks]
        return {f"pass@{k}": _mean(pass_at_k(n, c, k), k, confidence) for k in ks}

    levels = sorted(set(difficulty.values()))
    by_difficulty = {}
    if len(levels) > 1:
        by_difficulty = {level: scores([t for t in drawn if difficulty[t] == level]) for level in levels}
    verdicts = Counter(record.verdict for record in records)
    return CodingResult(scores(list(drawn)), by_difficulty, dict(verdicts.most_common()), list(records))


def _mean(estimates: np.ndarray, k: int, confidence: float) -> Score:
    short = int(np.isnan(estimates).sum())
    if short:
        return undefined_score(
            f"{short} of {len(estimates)} problems have fewer than {k} samples", len(estimates)
        )
    return mean_score(estimates, confidence=confidence)


class _How(NamedTuple):
    """How samples are drawn."""

    temperature: float
    top_p: float
    samples: int
    seed: int


def _hand_in(
    told: dict[int, "Future[Feedback]"],
    grader: ProgramGrader,
    asked: Sequence[Problem],
    form: PromptForm,
    place: int,
    response: str,
) -> None:
    """Hands in a sample's program for grading while others are written."""
    told[place] = grader.submit(asked[place], extract(asked[place], response, form).program)


def _graded(
    asked: Sequence[Problem],
    responses: Sequence[str],
    grader: BatchGrader,
    form: PromptForm,
    samples: int,
    store: SampleStore | None,
    told: Mapping[int, "Future[Feedback]"],
) -> list[SampleRecord]:
    pairs = [
        (problem, extract(problem, response, form).program)
        for problem, response in zip(asked, responses, strict=True)
    ]
    handed_in = len(told) == len(pairs)
    feedbacks = [told[i].result() for i in range(len(pairs))] if handed_in else grader.grade_many(pairs)
    records = [
        SampleRecord(
            task_id=problem.id,
            sample=n % samples,
            completion=response,
            solution=solution,
            verdict=feedback.verdict,
            passed=feedback.verdict == PASS,
            difficulty=problem.difficulty,
        )
        for n, ((problem, solution), response, feedback) in enumerate(
            zip(pairs, responses, feedbacks, strict=True)
        )
    ]
    if store is not None:
        store.add(records)
    return records


def _check(problems: Sequence[Problem], samples: int, ks: Sequence[int]) -> None:
    if not problems:
        raise ValueError("a coding evaluation needs at least one problem; got none")
    [(most, count)] = Counter(problem.id for problem in problems).most_common(1)
    if count > 1:
        raise ValueError(f"problem ids must differ; {most} occurs {count} times")
    if samples < 1:
        raise ValueError(f"samples must be at least 1; got {samples}")
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be whole numbers of at least 1; got {list(ks)}")
