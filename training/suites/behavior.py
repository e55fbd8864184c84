"""suite=behavior: questionnaires and behavioral tasks, and whether their outcome can be believed.

OUTPUT/behavior/answers.jsonl, responses.parquet   every answer; a killed evaluation resumes from them
OUTPUT/behavior/NAME/...                           the same for each further model
OUTPUT/behavior/report.html, tables/, tables.json  the report
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
import pandas as pd

import jaxmoe
from evals.faithfulness import report_tables
from evals.faithfulness.criteria import Thresholds
from evals.faithfulness.precision import expected_precision, told
from evals.faithfulness.report import write_report
from evals.faithfulness.run_card import cost_told
from evals.faithfulness.study import FaithfulnessStudy, listed
from evals.faithfulness.verdicts import Assessment
from evals.models.local_model import Form
from evals.models.model_identity import base_and_revision, base_and_weights
from evals.psychometrics.uncertainty import mean_score
from evals.questionnaires import behaviors, dialogues, wording
from evals.questionnaires.administration import MODEL_BLOCK, administer, limits_told
from evals.questionnaires.design import FACETS, PARAPHRASED, PUBLISHED, Design, battery
from evals.questionnaires.given_names import given_instrument, given_personas
from evals.questionnaires.judge import JudgedRespondent
from evals.questionnaires.respondent import Paid, Respondent
from evals.questionnaires.respondents.api_server import ServerConfig, check_numbers
from evals.questionnaires.respondents.local_respondent import ScoringRespondent, WritingRespondent
from evals.questionnaires.respondents.simulated import NULLS, RULES
from evals.questionnaires.response_table import ResponseCube
from jaxmoe.given_paths import given
from jaxmoe.progress import ProgressDisplay, say
from jaxmoe.tokenizer import load_tokenizer
from training.runtime import distributed
from training.runtime.given_models import check_base, check_named_adapter, check_tokenizer
from training.suites.evaluation import ItemSet, Loaded, ScoredItem

# what an evaluation keeps besides the folders of further models
OWN_FILES = (
    *("answers.jsonl", "design.json", "responses.parquet", "usage.json", "report.html", "tables.json"),
    *("tables", "figures", ""),
)
# tokens of a line in a dialogue
LINE_TOKENS = 60


@dataclass(frozen=True)
class Checkpoint:
    """An earlier evaluation of the same design, for a plot over checkpoints.

    Attributes:
      step: training step that it belongs to.
      output: its output folder.
    """

    step: int
    output: str


@dataclass(frozen=True)
class Beside:
    """A further model that is asked the same questions and compared with the first.

    Attributes:
      name: name in the report.
      base, adapter, tokenizer: as for the evaluation; a null tokenizer is the base's own.
      form: text, instruction or chat; null takes the form of the first.
      server: a model behind a server, in place of base.
    """

    name: str
    base: str | None = None
    adapter: str | None = None
    tokenizer: str | None = None
    form: Form | None = None
    server: ServerConfig | None = None

    def __post_init__(self) -> None:
        if (self.base is None) == (self.server is None):
            raise ValueError(f"behavior.beside: {self.name} needs either base or server")


@dataclass(frozen=True)
class BehaviorConfig:
    """Psychological tests of one model, or of several side by side.

    Attributes:
      name: name of the model in the report.
      server: OpenAI-compatible server of the model to test, in place of base or run.
      judge: a model behind a server that reads written answers which rules cannot read; null for none. It is
        paid from the account of the model whose answers it reads, and stops at the lower of their ceilings.
      beside: further models, usually fine-tuned from the first, each compared with it.
      instruments: shipped questionnaires or paths; two that measure the same constructs allow external
        consistency to be judged.
      templates: wordings by name; empty takes all.
      option_orders, item_orders: forward, reversed, shuffled-N; item orders differ only in batches.
      item_wordings: published, paraphrased; asking both shows answers that are known by heart. Questionnaires
        without paraphrases are asked only in published words.
      personas: who the model is told to be: none, people, a number of composed personas (2 to 32), graded-N
        (32 to 512, with nine degrees of each trait), twins-N (64 to 512, in pairs with the same traits, which
        show best what is said beyond the description), or a JSON file. Without several, nothing varies
        between respondents, and most verdicts stay undetermined; with 16, ω and λ6 of long scales are
        undefined.
      seeds: repetitions of sampled answers.
      items_per_prompt: 1 asks each statement alone.
      answers: label and words score the options' log-probabilities, written samples a text and reads it.
      calibrated: divide by the options' probabilities when nothing is asked.
      choose: take the most probable of the scored options, or draw one.
      form: text for base models, instruction or chat for tuned ones.
      temperature: of written answers.
      tasks: families of behavioral tasks; conduct is the one that tests the self-report.
      task_count: scenarios per family.
      dialogues: also write replies in scripted dialogues, rated by rules.
      norm_group: people to compare profiles with; an instrument without their norms shows raw means.
      facets: also judge the narrower scales.
      nulls: simulated respondents shown next to the model in the report.
      step: the training step of this model, for a plot over checkpoints; `earlier` holds the others.
    """

    name: str = "this model"
    server: ServerConfig | None = None
    judge: ServerConfig | None = None
    beside: tuple[Beside, ...] = ()
    instruments: tuple[str, ...] = ("ipip_neo_120", "mini_ipip")
    templates: tuple[str, ...] = ()
    option_orders: tuple[str, ...] = ("forward", "reversed")
    item_orders: tuple[str, ...] = ("forward",)
    item_wordings: tuple[str, ...] = (PUBLISHED,)
    personas: str = "graded-64"
    seeds: int = 1
    items_per_prompt: int = 1
    answers: Literal["label", "words", "written"] = "label"
    calibrated: bool = False
    choose: Literal["most_probable", "drawn"] = "most_probable"
    form: Form = "text"
    temperature: float = 1.0
    tasks: tuple[str, ...] = tuple(behaviors.FAMILIES)
    task_count: int = 6
    dialogues: bool = False
    norm_group: str | None = None
    facets: bool = False
    nulls: tuple[str, ...] = NULLS
    step: int | None = None
    earlier: tuple[Checkpoint, ...] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        if not self.instruments:
            raise ValueError("behavior.instruments must name at least one; got none")
        check_numbers(
            "behavior.",
            temperature=self.temperature,
            seeds=self.seeds,
            task_count=self.task_count,
            items_per_prompt=self.items_per_prompt,
        )
        wordings = self.item_wordings
        if sorted(wordings) not in ([PUBLISHED], [PARAPHRASED], [PARAPHRASED, PUBLISHED]):
            raise ValueError(
                f"behavior.item_wordings must be {PUBLISHED}, {PARAPHRASED} or both; got "
                + (", ".join(wordings) or "none")
            )
        if unknown := [name for name in self.nulls if name not in RULES]:
            raise ValueError(f"behavior.nulls must be among {', '.join(RULES)}; got {', '.join(unknown)}")
        if self.earlier and self.step is None:
            raise ValueError("behavior.earlier needs behavior.step, the training step of this model")
        if self.server is not None and (self.calibrated or self.choose == "drawn"):
            raise ValueError(
                "behavior.calibrated and choose=drawn need a local model; leave them out for a server"
            )
        if self.server is not None and any(other.server is None for other in self.beside):
            raise ValueError("beside a model behind a server stand models behind servers; got a base")
        names = [self.name, *(other.name for other in self.beside), *self.nulls]
        if self.judge is not None:
            if self.answers != "written":
                raise ValueError(
                    f"behavior.judge reads written answers; got answers={self.answers}; take written, or "
                    "leave the judge out"
                )
            for server in (self.server, *(other.server for other in self.beside)):
                self.judge.judging(server and server.cost_ceiling)
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"every model needs a name of its own; {repeated[0]!r} is repeated")
        taken: dict[str, str] = {}
        for other in self.beside:
            folder = _folder_name(other.name)
            if folder.casefold() in OWN_FILES or folder.startswith("."):
                raise ValueError(
                    f"behavior.beside: answers of {other.name!r} would lie in the folder {folder!r} of the "
                    "evaluation, which is none for a model; take another name"
                )
            if (same := taken.setdefault(folder.casefold(), other.name)) != other.name:
                raise ValueError(
                    f"behavior.beside: {same!r} and {other.name!r} would keep their answers in one folder, "
                    f"{folder!r}; names must differ in letters, digits, '.', '-' or '_'"
                )


class ModelAnswers(NamedTuple):
    """Answers, replies in dialogues, and the base of each model with its revision, by model."""

    answers: dict[str, pd.DataFrame]
    replies: dict[str, pd.DataFrame]
    bases: dict[str, str]


def behavior(
    config: BehaviorConfig, seed: int, confidence: float, folder: Path, against: Path | None = None
) -> Callable[[Callable[[], Loaded]], list[ItemSet]]:
    """Reads instruments, wordings and earlier answers, so that mistakes show before a model is loaded.

    Args:
      seed: first of the design's seeds.
      confidence: of all intervals, such as 0.95.
      folder: for answers and report.
      against: output folder of an evaluation of the base; None for none.
    Returns: a function that loads the models, asks them, writes the report and returns their scores.
    Raises: ValueError for unknown names, for a folder without answers, and in one of several processes.
    """
    if (count := jax.process_count()) > 1:
        raise ValueError(
            f"suite=behavior runs in one process; got {count}: start one alone, with "
            "distributed.enabled=false"
        )
    study = prepare(config, seed, confidence)
    base = None if against is None else _answers(against, "against")
    earlier = {
        point.step: _answers(Path(point.output), f"behavior.earlier.{n}.output")
        for n, point in enumerate(config.earlier)
    }
    for n, other in enumerate(config.beside):
        _check_beside(other, f"behavior.beside.{n}")

    def run(load: Callable[[], Loaded]) -> list[ItemSet]:
        if distributed.is_main():
            say("\n".join(_precision(study)))
        asked = ask(study, config, _models(config, load), folder)
        first, folders = asked.answers[config.name], _folders(config, folder)
        steps = {**earlier, config.step: first} if config.step is not None else {}
        report = study.report(
            asked.answers,
            {
                **card(study, config),
                **bases_told(asked),
                **limits_told(*folders),
                "cost": cost_told(*folders),
            },
            base=base,
            base_name="base" if against is None else str(against),
            checkpoints=steps,
            replies=asked.replies,
        )
        write_report(report, folder)
        return [
            _item_set(one, "" if name == config.name else name, report.assessments[name], confidence)
            for name, table in asked.answers.items()
            for one in report_tables.cubes(table, study.instruments)
        ]

    return run


def prepare(config: BehaviorConfig, seed: int, confidence: float) -> FaithfulnessStudy:
    """What is to be asked, and how it is to be judged.

    Args:
      seed: first of the design's seeds, also for drawing tasks and null models.
      confidence: of all intervals, such as 0.95.
    Returns: instruments, the batteries of their questions, and the design.
    Raises: ValueError for unknown names.
    """
    instruments = [
        given_instrument(f"behavior.instruments.{n}", name) for n, name in enumerate(config.instruments)
    ]
    personas = given_personas("behavior.personas", config.personas)
    batteries = [battery(one) for one in instruments]
    if config.tasks:
        batteries.append(behaviors.battery(config.tasks, config.task_count, seed))
    design = Design(
        wording.named_templates(config.templates or None),
        config.option_orders,
        config.item_orders,
        personas,
        tuple(range(seed, seed + config.seeds)),
        config.items_per_prompt,
        config.item_wordings,
    )
    return FaithfulnessStudy(
        instruments,
        batteries,
        design,
        config.thresholds,
        confidence,
        seed,
        config.norm_group,
        config.facets,
        config.nulls,
    )


def ask(
    study: FaithfulnessStudy,
    config: BehaviorConfig,
    models: Iterable[tuple[str, Loaded | ServerConfig, Form]],
    folder: Path,
) -> ModelAnswers:
    """Asks every model every question, one model after the other.

    Args:
      models: name, the model or its server, and the form of its prompts; each is taken when its turn comes.
      folder: for answers; the first model's are in the folder itself, the others' in one of their name.
    Returns: answers by model, replies in dialogues where config.dialogues asks for them, and the bases of
      local models.
    """
    asked = ModelAnswers({}, {}, {})
    accounts = [one / "usage.json" for one in _folders(config, folder)]

    def paid(who: object, place: Path) -> None:
        """Puts all models of the run under one ceiling, before any request is made on the account of this one
        alone."""
        own = place / "usage.json"
        if isinstance(who, Paid):
            who.account(own, [one for one in accounts if one != own])

    for name, loaded, form in models:
        place = folder if not asked.answers else _beside_folder(folder, name)
        if isinstance(loaded, Loaded):
            asked.bases[name] = base_and_revision(loaded.lm)
        with ProgressDisplay(isinstance(loaded, ServerConfig) or loaded.progress) as display:
            told_of = display.task(f"questions to {name}")
            told_of(0, sum(map(study.design.size, study.batteries)))
            paid(who := _respondent(config, loaded, form, name), place)
            asked.answers[name] = administer(
                who,
                study.batteries,
                study.design,
                place,
                block=MODEL_BLOCK,
                progress=told_of,
            )
            if config.dialogues:
                paid(writer := _writer(config, loaded, form, name), place)
                personas = study.design.personas
                told_of = display.task(f"dialogues with {name}")
                replies = dialogues.kept(writer, personas, place, seed=study.seed, progress=told_of)
                asked.replies[name] = replies
    return asked


def _beside_folder(folder: Path, name: str) -> Path:
    return folder / _folder_name(name)


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def _folders(config: BehaviorConfig, folder: Path) -> list[Path]:
    """Where the answers of each of the config's models are."""
    return [folder, *(_beside_folder(folder, other.name) for other in config.beside)]


def _precision(study: FaithfulnessStudy) -> list[str]:
    """How precise verdicts can be with this many persons, in lines."""
    count = len(study.design.personas)
    table = expected_precision(study.instruments, count, study.thresholds, confidence=study.confidence)
    return told(table, count, confidence=study.confidence)


def _models(
    config: BehaviorConfig, load: Callable[[], Loaded]
) -> Iterator[tuple[str, Loaded | ServerConfig, Form]]:
    """The first model, then the others, each loaded when its turn comes."""
    first = config.server or load()
    yield config.name, first, config.form
    for other in config.beside:
        if other.server is not None:
            yield other.name, other.server, other.form or config.form
            continue
        assert isinstance(first, Loaded)
        assert other.base is not None
        loaded = first
        lm = jaxmoe.load(other.base, other.adapter, np.dtype(loaded.lm.dtype).name, loaded.lm.mesh)
        tokenizer = load_tokenizer(other.tokenizer or lm.source or other.base)
        yield other.name, loaded._replace(lm=lm, tokenizer=tokenizer).ready(), other.form or config.form


def _check_beside(other: Beside, key: str) -> None:
    """Looks for a further model now: it is loaded after the first has answered, which may take hours."""
    if other.base is not None:
        check_base(f"{key}.base", other.base)
    if other.adapter is not None:
        check_named_adapter(f"{key}.adapter", other.adapter)
    if other.tokenizer is not None:
        check_tokenizer(f"{key}.tokenizer", other.tokenizer)


def _answers(folder: Path, key: str) -> pd.DataFrame:
    path = folder / "behavior" / "responses.parquet"
    with given(key, folder, "folder"):
        if not path.is_file():
            raise ValueError(
                f"{folder} is no output folder of an evaluation with suite=behavior: no {path.name}"
            )
        return pd.read_parquet(path)


def _respondent(config: BehaviorConfig, loaded: Loaded | ServerConfig, form: Form, name: str) -> Respondent:
    who = _unjudged(config, loaded, form, name)
    if config.judge is None:
        return who
    ceiling = loaded.cost_ceiling if isinstance(loaded, ServerConfig) else None
    return JudgedRespondent(who, config.judge.judging(ceiling))


def _unjudged(config: BehaviorConfig, loaded: Loaded | ServerConfig, form: Form, name: str) -> Respondent:
    if isinstance(loaded, ServerConfig):
        return loaded.respondent(config.answers, name, config.temperature)
    model = loaded.text_model(form)
    base = base_and_weights(loaded.lm)
    if config.answers == "written":
        return WritingRespondent(model, name, config.temperature, base=base)
    length = "tokens" if config.answers == "words" else "none"
    return ScoringRespondent(model, name, config.answers, length, config.calibrated, config.choose, base=base)


def _writer(config: BehaviorConfig, loaded: Loaded | ServerConfig, form: Form, name: str) -> dialogues.Writer:
    if isinstance(loaded, ServerConfig):
        return loaded.client(name, config.temperature, LINE_TOKENS)
    return WritingRespondent(loaded.text_model(form), name, config.temperature, 1.0, LINE_TOKENS)


def card(study: FaithfulnessStudy, config: BehaviorConfig) -> dict[str, object]:
    """What the report says about how the questions were asked.

    Args:
      study: gives the design.
      config: gives models, forms and servers.
    Returns: values by label, in the order in which they are shown.
    """
    forms = {config.name: config.form} | {other.name: other.form or config.form for other in config.beside}
    form = ", ".join(f"{name}: {form}" for name, form in forms.items())
    return {
        "models": ", ".join(forms),
        "asked by": f"{config.answers}, {'calibrated' if config.calibrated else 'not calibrated'}",
        "form": form if len(set(forms.values())) > 1 else config.form,
        **_servers(config),
        **{name.replace("_", " "): listed(value) for name, value in study.design.describe().items()},
        "personas are": "descriptions written for this project; not people",
    }


def bases_told(asked: ModelAnswers) -> dict[str, object]:
    """Bases and revisions of local models, a row of the run card; nothing if all are behind servers."""
    told = asked.bases
    if not told:
        return {}
    if len(set(told.values())) == 1:
        return {"base and revision": next(iter(told.values()))}
    return {"bases and revisions": "; ".join(f"{name}: {base}" for name, base in told.items())}


def _servers(config: BehaviorConfig) -> dict[str, object]:
    """Which models are behind servers, and which judges; nothing if all are local and none does."""
    places = {config.name: config.server} | {other.name: other.server for other in config.beside}
    known = [f"{name}: {one.model} at {one.url}" for name, one in places.items() if one is not None]
    judge = config.judge
    return {
        **({"servers": ", ".join(known)} if known else {}),
        **({"unreadable answers read by": f"{judge.model} at {judge.url}"} if judge else {}),
    }


def _item_set(one: ResponseCube, model: str, found: Assessment, confidence: float) -> ItemSet:
    """Scale scores of every run; respondents are persons, in every condition."""
    scores = {scale.name: one.scores(scale) for scale in one.instrument.domains}
    facets = [facet for facet in FACETS if facet in one.conditions]
    items = []
    for p, who in enumerate(one.persons):
        for c, condition in enumerate(one.conditions.to_dict("records")):
            values = {name: float(matrix[p, c]) for name, matrix in scores.items()}
            under = "/".join(str(condition[facet]) for facet in facets)
            items.append(ScoredItem(f"{who[0]}/{under}", str(who[0]), values, dict(condition)))
    means = {}
    for name in scores:
        known = [item for item in items if math.isfinite(item.scores[name])]
        clusters = [str(item.cluster) for item in known]
        means[name] = mean_score([item.scores[name] for item in known], clusters, confidence=confidence)
    columns = ["construct", "criterion", "verdict", "statistic", "estimate", "low", "high", "threshold"]
    own = found.verdicts[found.verdicts["instrument"] == one.instrument.name]
    more: Mapping[str, object] = {
        "refused": one.refused,
        "verdicts": pd.DataFrame(own, columns=pd.Index(columns)).to_dict("records"),
        "respondents": found.respondents,
    }
    name = f"{one.instrument.name}, {model}" if model else one.instrument.name
    return ItemSet(name, means, {}, items, dict(more))
