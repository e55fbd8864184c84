"""Measure a model: suite=knowledge asks closed-book and multiple-choice questions, suite=coding runs its
programs in the sandbox, suite=behavior tests its self-report and whether to believe it.

    OUTPUT/results.json          settings, and every score with its standard error and interval, by set
                                 and category
    OUTPUT/items.jsonl           every item: its set, id, cluster and scores, what was asked and what the
                                 model wrote
    OUTPUT/items.partial.jsonl   items as they arrive, until all are done (knowledge, coding); after a kill
                                 the same command asks only what is left
    OUTPUT/usage.json            requests, tokens and cost, if the model is behind a server

With `against`, the items are compared one by one with those of another evaluation.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evals.psychometrics.uncertainty import Comparison, Score, compare
from evals.questionnaires.respondents.api_server import ServerConfig
from jaxmoe.datasets.json_rows import dump_json, lines, read_text
from jaxmoe.given_paths import check_writable, given
from jaxmoe.json_values import JsonMapping, JsonObject
from jaxmoe.model.mesh import batch_ways
from jaxmoe.text.vocabulary import check_vocabulary
from jaxmoe.tokenizer import load_tokenizer
from training.commands.export import check_run, open_model
from training.runtime import checkpoint, distributed
from training.runtime import config as configs
from training.runtime.atomic import write_whole
from training.runtime.given_models import check_named_adapter
from training.runtime.journal import ItemJournal
from training.runtime.pinned import pin
from training.suites.behavior import behavior
from training.suites.coding import coding
from training.suites.config import EvalConfig
from training.suites.evaluation import Behind, ItemSet, Loaded, SuiteRun
from training.suites.knowledge import knowledge

# more categories than these would bury the scores
CATEGORIES_SHOWN = 8
# items until all are done
PARTIAL = "items.partial.jsonl"
# settings that change no answer
FREE = ("output", "against", "overwrite", "progress", "confidence", "distributed")
# and those of a server
SERVER_FREE = ("concurrency", "cost_ceiling", "prompt_price", "completion_price", "key_variable", "timeout_s")
# what a server has cost
USAGE = "usage.json"
# what else an evaluation leaves that ends while its results are written; `write` replaces it
HALF_WRITTEN = ("items.jsonl", "items.jsonl.part", "results.json.part", f"{USAGE}.part")
SUITES = {"knowledge": knowledge, "coding": coding}


def main(config: EvalConfig) -> JsonObject:
    """Runs one evaluation; returns what results.json holds."""
    distributed.start(config.distributed)
    if config.run is not None:
        check_run(config.run)
    config = pin(config)  # so the settings saved with the results are what was measured
    folder = Path(config.output)
    _check_folder(folder, _leftovers(folder, config.suite), config.overwrite)
    # report anything missing before a model is loaded
    if config.adapter is not None:
        check_named_adapter("adapter", config.adapter)
    against, other = None, None
    if config.against is not None:
        against = Path(config.against)
        with given("against", config.against, "folder"):
            other = read_items(against)
    settings = configs.to_dict(config)
    journal = _journal(folder, settings, config.overwrite) if config.suite != "behavior" else None
    if config.suite == "behavior":
        run = behavior(config.behavior, config.seed, config.confidence, folder / "behavior", against)
    else:
        suite = SUITES[config.suite](getattr(config, config.suite), config.seed, config.confidence)
        run = partial(_run_suite, suite, lambda: _behind(config.server, folder, config.progress, journal))
    started = time.perf_counter()
    loaded_s = 0.0

    def load() -> Loaded:
        nonlocal loaded_s
        begun = time.perf_counter()
        mesh = config.mesh.make()
        _check_batch(config.batch_size, mesh)
        lm, tokenizer = open_model(
            config.run, config.step, config.base, config.adapter, mesh, config.dtype, config.base_dtype
        )
        if config.tokenizer is not None:
            tokenizer = load_tokenizer(config.tokenizer)
            check_vocabulary(tokenizer, lm.config.vocab_size)
        progress = config.progress and distributed.is_main()
        loaded_s = time.perf_counter() - begun
        loaded = Loaded(
            lm, tokenizer, config.batch_size, config.max_length, progress, journal, config.decoding
        )
        return loaded.ready()

    with checkpoint.disk_full_explained(folder), journal or nullcontext():
        sets = run(load)
    compared = None if other is None else compare_items(_by_set(sets), other, config.confidence)
    results = {
        "suite": config.suite,
        "base": config.base,
        "run": config.run,
        "adapter": config.adapter,
        "sets": {found.name: _summary(found) for found in sets},
        "against": None if compared is None else {"folder": config.against, "sets": _as_json(compared)},
        "seconds": {"load": loaded_s, "evaluate": time.perf_counter() - started - loaded_s},
        "config": settings,
    }
    if distributed.is_main():
        with checkpoint.disk_full_explained(folder):
            write(folder, results, sets)
            if journal is not None:
                journal.done()
        console = Console(markup=False, emoji=False)
        console.print(score_table(sets, f"{config.suite}: {config.subject}", config.confidence))
        if compared is not None:
            console.print(comparison_table(compared, f"against {config.against}", config.confidence))
        console.print(f"written: {folder / 'results.json'}, items.jsonl", highlight=False)
    return results


def _journal(folder: Path, settings: JsonObject, overwrite: bool) -> ItemJournal:
    """Where items are kept as they arrive, including those of an earlier run that was killed."""
    remedy = "choose another output=..., or overwrite=true begins anew"
    journal = ItemJournal(folder / PARTIAL, _binding(settings), remedy=remedy, overwrite=overwrite)
    if distributed.is_main() and journal.found:
        told = f"{folder}: {journal.found} items of an earlier run that was killed are not asked again"
        Console(markup=False, emoji=False, stderr=True).print(told, highlight=False, soft_wrap=True)
    return journal


def _binding(config: Mapping[str, object]) -> JsonObject:
    """The settings on which answers depend."""

    def of(value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {
            key: {k: v for k, v in one.items() if k not in SERVER_FREE}
            if key == "server" and isinstance(one, Mapping)
            else one
            for key, one in value.items()
        }

    return {key: of(value) for key, value in config.items() if key not in FREE}


def _run_suite(
    suite: SuiteRun, behind: Callable[[], Behind | None], load: Callable[[], Loaded]
) -> list[ItemSet]:
    """A suite that takes the model when it needs it, as `behavior` does."""
    return suite(behind() or load())


def _behind(
    server: ServerConfig | None, folder: Path, progress: bool, journal: ItemJournal | None
) -> Behind | None:
    """The model behind a server, its cost in earlier sessions included; None for a local model."""
    if server is None:
        return None
    if jax.process_count() > 1:
        raise ValueError("a model behind a server is asked by one process; leave distributed out")
    requests = server.requests()
    requests.spending.keep(folder / USAGE)
    return Behind(server, requests, progress, journal)


def _check_batch(batch_size: int, mesh: Mesh) -> None:
    ways = batch_ways(mesh)
    if batch_size < 1 or batch_size % ways:
        raise ValueError(
            f"batch_size must be a positive multiple of mesh data x fsdp x expert = {ways}; got {batch_size}"
        )


def _leftovers(folder: Path, suite: str) -> tuple[str, ...]:
    """What an evaluation that was killed leaves, from which the same command resumes."""
    if suite == "behavior":
        kept, answers = ("behavior",), "behavior/answers.jsonl"
    else:
        kept, answers = ("behavior", PARTIAL, USAGE), PARTIAL
    return (*kept, *HALF_WRITTEN) if (folder / answers).is_file() else kept


def _check_folder(folder: Path, kept: tuple[str, ...], overwrite: bool) -> None:
    check_writable("output", folder, "folder")
    if (folder / "results.json").exists() and not overwrite:
        raise ValueError(
            f"{folder} holds results already; choose another output=..., or overwrite=true replaces them"
        )
    others = [path for path in folder.iterdir() if path.name not in kept] if folder.is_dir() else []
    if others and not (folder / "results.json").exists():
        raise ValueError(f"{folder} is not empty and holds no evaluation; choose another output=...")


def write(folder: Path, results: JsonMapping, sets: list[ItemSet]) -> None:
    """results.json and items.jsonl, each whole or not at all; numbers that are not finite become null.

    Args:
      folder: where the files go; earlier ones are replaced.
      results: content of results.json.
      sets: their items make items.jsonl, one per line.
    """
    lines = (dump_json(_as_json(item)) for found in sets for item in found.lines())
    for name, text in {
        "items.jsonl": "".join(f"{line}\n" for line in lines),
        "results.json": dump_json(_as_json(results), indent=2) + "\n",
    }.items():
        write_whole(folder / name, text)


def _as_json(value: object) -> object:
    if isinstance(value, Score | Comparison):
        return _as_json(value._asdict())
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary(found: ItemSet) -> JsonObject:
    return {"scores": found.scores, "by_category": found.by_category, **found.more}


Items = dict[str, list[JsonObject]]


def read_items(folder: Path) -> Items:
    """The items of an earlier evaluation, by set.

    Raises: ValueError if the folder has none, or a line is not one.
    """
    path = folder / "items.jsonl"
    if not path.is_file():
        raise ValueError(f"against must name the output folder of an evaluation; {folder} has no items.jsonl")
    found: Items = {}
    for number, line in lines(read_text(path)):
        try:
            item = json.loads(line)
            found.setdefault(item["set"], []).append({key: item[key] for key in ("id", "cluster", "scores")})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number} is no item of an evaluation ({error!r})") from error
    return found


def _by_set(sets: list[ItemSet]) -> Items:
    return {found.name: [asdict(item) for item in found.items] for found in sets}


def compare_items(new: Items, old: Items, confidence: float) -> dict[str, dict[str, Comparison]]:
    """Compares every score that two evaluations have in common, paired by item.

    Args:
      new, old: items by set, as from `read_items`.
      confidence: of the intervals, such as 0.95.
    Returns: the comparison by set and score, positive where the new evaluation is higher.
    Raises: ValueError if they have no set in common, or different items in one.
    """
    shared = [name for name in new if name in old]
    if not shared:
        raise ValueError(f"the two evaluations have no set in common: {list(new)} here, {list(old)} there")
    out: dict[str, dict[str, Comparison]] = {}
    for name in shared:
        here, there = new[name], old[name]
        if [item["id"] for item in here] != [item["id"] for item in there]:
            raise ValueError(
                f"the two evaluations of {name} hold different items ({len(here)} here, {len(there)} there); "
                "give both the same files and limits"
            )
        named = any(item["cluster"] is not None for item in here)
        shared_scores = [score for score in here[0]["scores"] if score in there[0]["scores"]]
        out[name] = {score: _compared(here, there, score, named, confidence) for score in shared_scores}
    return out


def _compared(
    here: list[JsonObject], there: list[JsonObject], score: str, named: bool, confidence: float
) -> Comparison:
    """One score on the items that have it in both evaluations: a questionnaire may go unanswered."""
    pairs = [
        (old["scores"][score], new["scores"][score], new["cluster"] or f"item {number}")
        for number, (old, new) in enumerate(zip(there, here, strict=True))
    ]
    known = [pair for pair in pairs if all(value is not None and math.isfinite(value) for value in pair[:2])]
    clusters = [cluster for *_, cluster in known] if named else None
    return compare([a for a, _, _ in known], [b for _, b, _ in known], clusters, confidence=confidence)


def score_table(sets: list[ItemSet], title: str, confidence: float) -> Table:
    """The scores, one section per set; categories are shown where there are few, and all are in results.json.

    Args:
      sets: what was measured.
      title: names the suite and the model.
      confidence: of the intervals, such as 0.95.
    Returns: the table, to be printed.
    """
    table = Table(title=title, title_justify="left")
    for name in ("score", "value", "s.e.", f"{confidence:.0%} interval", "n"):
        table.add_column(name, justify="left" if name == "score" else "right")
    for found in sets:
        table.add_row(Text(found.name, style="bold"))
        for name, score in found.scores.items():
            table.add_row(f"  {name}", *_cells(score))
        first = next(iter(found.scores))
        if len(found.by_category) <= CATEGORIES_SHOWN:
            for category, scores in found.by_category.items():
                table.add_row(f"  {first}, {category}", *_cells(scores[first]), style="dim")
        table.add_section()
    return table


def _cells(score: Score) -> tuple[str, str, str, str]:
    count = str(score.n) if score.clusters == score.n else f"{score.n} in {score.clusters}"
    if math.isnan(score.value):
        return "–", "–", score.reason, count
    error = "–" if math.isnan(score.standard_error) else f"{score.standard_error:.3f}"
    interval = score.reason if math.isnan(score.low) else f"{score.low:.3f} to {score.high:.3f}"
    return f"{score.value:.3f}", error, interval, count


def comparison_table(
    compared: Mapping[str, Mapping[str, Comparison]], title: str, confidence: float
) -> Table:
    """The differences from another evaluation, one section per set.

    Args:
      compared: from `compare_items`.
      title: names the other evaluation.
      confidence: of the intervals, such as 0.95.
    Returns: the table, to be printed.
    """
    table = Table(title=title, title_justify="left")
    for name in ("score", "difference", f"{confidence:.0%} interval", "better", "worse", "p"):
        table.add_column(name, justify="left" if name == "score" else "right")
    for name, scores in compared.items():
        table.add_row(Text(name, style="bold"))
        for score, found in scores.items():
            change = found.difference
            interval = change.reason if math.isnan(change.low) else f"{change.low:+.3f} to {change.high:+.3f}"
            counts = str(found.b_better), str(found.a_better)
            table.add_row(f"  {score}", f"{change.value:+.3f}", interval, *counts, f"{found.p_value:.2g}")
        table.add_section()
    return table
