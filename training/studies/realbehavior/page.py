"""The page of the RealBehavior study: verdicts on the claims, who can be believed, what training does.

Only the paper's abstract is known here; definitions and thresholds are this project's.
"""

from collections.abc import Mapping, Sequence

from evals.faithfulness.verdicts import CRITERIA
from training.studies.intervals import judged
from training.studies.page import ClaimOutcome, ClaimVerdict, Page, PageSection, PageTable, plumbing
from training.studies.realbehavior import figures as realbehavior_figures
from training.studies.realbehavior.answers import JsonRecord
from training.studies.realbehavior.summary import BASE, CODE_BASE, REINFORCED, VERDICTS, BehaviorSummary


def page(title: str, summary: BehaviorSummary) -> Page:
    """The whole page, from the summary alone.

    Args:
      title: the page's title.
      summary: what `summarize` returned.
    Returns: the page with its figures.
    """
    question = (
        "Can a model's answers to personality tests be believed, does training move or restrict the "
        "characteristics that they show, and does the judging recognize simulated respondents?"
    )
    sections = [_design(summary)]
    if summary["respondents"] or summary["nulls"]:
        sections = [_verdicts(summary), *sections, _faithfulness(summary)]
    if summary["rows"]:
        sections += [_training(summary)]
    if summary["nulls"]:
        sections.append(_nulls(summary))
    return Page(title, question, _card(summary), sections, plumbing(summary["scale"]))


def labels_of(summary: BehaviorSummary) -> dict[str, str]:
    """Labels by respondent, in table and figure order: models, simulated ones, the faithful one last."""
    tuned = {name: label for name, label in summary["labels"].items() if name != REINFORCED}
    models = {BASE: "base", **tuned, CODE_BASE: "code base", REINFORCED: summary["labels"][REINFORCED]}
    nulls = sorted(summary["nulls"], key=lambda name: name == "faithful")
    return models | {name: "faithful, simulated" if name == "faithful" else name for name in nulls}


def _card(summary: BehaviorSummary) -> dict[str, str]:
    labels = labels_of(summary)
    runs = "; ".join(f"{labels[n]}: {_count(f['runs'], 'run')}" for n, f in summary["respondents"].items())
    seeds = sorted({found["seeds"] for found in summary["nulls"].values()})
    card = {
        "models": runs or "none yet",
        "seeds of simulated respondents": ", ".join(map(str, seeds)) or "none",
    }
    return card | {k: str(v) for k, v in summary["run"].items()}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


# verdicts


def _verdicts(summary: BehaviorSummary) -> PageSection:
    rows = [believed(summary)]
    for name in summary["rows"]:
        rows.append(moved(summary, name))
    for name in summary["rows"]:
        rows.append(restricted(summary, name))
    rows += [sound(summary, "not faithful"), sound(summary, "faithful")]
    text = [
        "Anybody would expect models of under a million weights to have no traits: the first verdict says "
        "that the pipeline reports this, and nothing about large models. None of these trainings aligns a "
        "model with social values, as the paper's do: they teach tasks and code. What they move and restrict "
        "is a side effect.",
        "Drift and dispersion are judged by their 95 % t intervals over runs: shown where the whole interval "
        "lies on the claim's side, refuted at this scale where it lies on the other, and not shown "
        "otherwise. With one run there is no such interval, and nothing is shown.",
    ]
    return PageSection("Verdicts", text, verdicts=rows)


def believed(summary: BehaviorSummary) -> ClaimVerdict:
    """Does every model have a construct that is not faithful? One entirely faithful model refutes this."""
    conclusions = [one for found in summary["respondents"].values() for one in found["conclusions"]]
    counts = {verdict: sum(one[verdict] for one in conclusions) for verdict in VERDICTS}
    outcome: ClaimOutcome = "not shown"
    if any(one["faithful"] == sum(one.values()) for one in conclusions):
        outcome = "refuted at this scale"
    elif conclusions and all(one["not faithful"] for one in conclusions):
        outcome = "shown"
    said = "no models asked yet"
    if conclusions:
        said = f"{sum(counts.values())} conclusions on {_count(len(conclusions), 'model')}: " + ", ".join(
            f"{count} {verdict}" for verdict, count in counts.items()
        )
    return ClaimVerdict(
        "Tests made for people cannot faithfully characterize all of a model's behavior",
        outcome,
        said,
        'abstract: "cannot faithfully characterize all human-like behaviors"',
    )


def moved(summary: BehaviorSummary, name: str) -> ClaimVerdict:
    """Is the mean |Δ| at the end above the smallest drift that counts?

    Args:
      summary: what `summarize` returned.
      name: name of a row.
    Returns: the verdict with its reason.
    """
    row, least = summary["rows"][name], summary["settings"]["drift"]
    found = row["drift"][-1]
    difference = dict(found)
    if found["low"] is not None:
        difference |= {end: found[end] - least for end in ("low", "high")}
    said = f"mean |Δ| {number(found)} SD of the base, {_over(row)}; in the flattering direction "
    said += f"{number(row['flattering'][-1], signed=True)}"
    if row["within"] is not None:
        said += f"; over described people {number(row['within']['drift'])}"
    return ClaimVerdict(
        f"{summary['labels'][name]} moves the characteristics by more than {least:g} SD of the base",
        judged(difference),
        said,
        "the effect of alignment training (no figure known)",
    )


def restricted(summary: BehaviorSummary, name: str) -> ClaimVerdict:
    """Is the ratio of dispersions at the end below 1?

    Args:
      summary: what `summarize` returned.
      name: name of a row.
    Returns: the verdict with its reason.
    """
    row = summary["rows"][name]
    found = row["dispersion"][-1]
    difference = dict(found)
    if found["low"] is not None:
        difference |= {"low": 1 - found["high"], "high": 1 - found["low"]}
    chosen = row["dispersion_chosen"][-1]
    said = (
        f"SD over people {number(found)} times the base's, {_over(row)}; for chosen options {number(chosen)}"
    )
    if row["within"] is not None:
        said += f"; over described people {number(row['within']['dispersion'])}"
    return ClaimVerdict(
        f"{summary['labels'][name]} restricts the characteristics",
        judged(difference),
        said,
        "alignment can make characteristics restricted (abstract; no figure known)",
    )


def _over(row: JsonRecord) -> str:
    return f"{_count(row['runs'], 'run')} on {_count(len(row['bases']), 'base')}"


def sound(summary: BehaviorSummary, right: str) -> ClaimVerdict:
    """Where the right conclusion is known, are conclusions wrong no more often than the goal allows?

    Args:
      summary: what `summarize` returned.
      right: the right conclusion for the respondents to count.
    Returns: the verdict with its reason.
    """
    goal = summary["settings"]["goal"]
    labels = labels_of(summary)
    found = {labels[n]: f for n, f in summary["nulls"].items() if f["right"] == right}
    highest = [
        f["wrong"]["mean"] if f["wrong"]["high"] is None else f["wrong"]["high"] for f in found.values()
    ]
    lowest = [f["wrong"]["mean"] if f["wrong"]["low"] is None else f["wrong"]["low"] for f in found.values()]
    outcome: ClaimOutcome = "not shown"
    if found and max(highest) <= goal:
        outcome = "shown"
    elif found and max(lowest) > goal:
        outcome = "refuted at this scale"
    said = "none asked yet"
    if found:
        worst = max(found, key=lambda name: found[name]["wrong"]["mean"])
        seeds = min(f["seeds"] for f in found.values())
        shown = percent(found[worst]["wrong"])
        said = f"wrong {shown} % of conclusions over {_count(seeds, 'seed')}"
        if len(found) > 1:
            said = f"{_count(len(found), 'respondent')}; the worst, {worst}: {said}"
    traits = "s without traits" if right == "not faithful" else " with traits"
    who = f"{'S' if right == 'not faithful' else 'A s'}imulated respondent{traits}"
    return ClaimVerdict(
        f"{who} come{'s' * (right == 'faithful')} out {right} in at least {1 - goal:.0%} of conclusions",
        outcome,
        said,
        "ours: the paper's abstract names no such control",
    )


def number(score: JsonRecord, *, signed: bool = False) -> str:
    """A mean with its interval, if there is one.

    Args:
      score: mean with its interval.
      signed: whether it is a difference.
    Returns: for example "0.41 [0.32, 0.50]".
    """
    if score["mean"] is None:
        return "–"
    sign = "+" if signed else ""
    if score["low"] is None:
        return f"{score['mean']:{sign}.2f}"
    return f"{score['mean']:{sign}.2f} [{score['low']:{sign}.2f}, {score['high']:{sign}.2f}]"


def percent(score: JsonRecord) -> str:
    """A share in percent with its interval, if there is one."""
    mean = f"{100 * score['mean']:.1f}"
    return mean if score["low"] is None else f"{mean} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


# design, results


def _design(summary: BehaviorSummary) -> PageSection:
    sizes, models, settings = summary["sizes"], summary["models"], summary["settings"]
    asked = settings["asked"]
    lengths = " and ".join(f"{one['length']} ({name})" for name, one in models.items())
    shapes = "; ".join(
        f"{name}: {one['layers']} layers of width {one['width']}" for name, one in models.items()
    )
    rates = ", ".join(f"{one['label']} {one['rate']:g}" for one in settings["tuned"].values())
    text = [
        f"Respondents are {sizes['people']} described people, each high or low in every one of five traits, "
        f"in {sizes['conditions']} conditions: wordings ({', '.join(asked['templates'])}) x orders of the "
        f"options ({', '.join(asked['option_orders'])}). One model answers as each of them: "
        f"{sizes['items']} items ({', '.join(summary['instruments'])}, and conduct in situations), one at a "
        "time, by the probabilities of the options' labels. So SDs over people here are those of one small "
        "model that is told to be different people, not those of real people.",
        "Verdicts are those of suite=behavior, on the most probable option: reproducibility over conditions, "
        "internal consistency, agreement of the two questionnaires, generalizability to other items and to "
        "conduct, validity. A construct is believed only where all asked are met in the first questionnaire.",
        "Δ of a scale is its shift in SDs of the base's scores over people and conditions: at 1 it has moved "
        "as far as wordings, orders and descriptions move the base's. Drift is the mean |Δ| over scales. "
        "Dispersion is the SD over people of their mean scores, relative to the base's. Both are computed "
        "from expected answers, Σ p·v over the options, which move before a choice does. The questionnaires "
        "have no norms here, so nothing is in SDs of real people.",
        f"Models ({shapes}): bases that know facts, fine-tuned on {summary['once']:,} samples and multiples "
        f"of that at constant learning rates ({rates}); and a code model at several points of "
        f"{settings['reinforced']['rounds']} rounds of the StepCoder study's "
        f"{settings['reinforced']['row']} row. Questions are several times longer than the texts that the "
        f"models were trained on ({lengths} tokens at most), and the code model has never seen such words.",
    ]
    return PageSection("Design", text)


def _faithfulness(summary: BehaviorSummary) -> PageSection:
    labels = labels_of(summary)
    picture = realbehavior_figures.verdicts(summary, labels)
    tables = [_matrix(summary, labels), _by_construct(summary, labels)]
    styles = [
        [labels[name], number(found["signal"], signed=True)]
        + [number(found["style"][style]) for style in ("acquiescence", "extremity", "midpoint", "position")]
        for name, found in summary["respondents"].items()
    ]
    columns = ["model", "r with the description", "acquiescence", "extremes", "middle", "by position"]
    caption = (
        "How models answer, whatever is asked. r: correlation of people's scores with what their "
        "descriptions say, mean over scales (close to 1 for a model that reads them). Acquiescence: mean "
        "answer as a share of the range, where .5 is neutral. Extremes, middle: shares of answers. By "
        "position: how far the shares of the options' positions are from equal"
    )
    return PageSection(
        "Is it to be believed?", pictures=[picture], tables=[*tables, PageTable(caption, columns, styles)]
    )


def _matrix(summary: BehaviorSummary, labels: Mapping[str, str]) -> PageTable:
    found = {**summary["respondents"], **summary["nulls"]}
    rows = []
    for name in (name for name in labels if name in found):
        cells = [_shares(found[name], criterion) for criterion in CRITERIA]
        rows.append([labels[name], *cells])
    caption = (
        "Verdicts in the first questionnaire, over constructs and runs or seeds: % faithful / undetermined / "
        "not faithful"
    )
    return PageTable(caption, ["respondent", *CRITERIA], rows)


def _shares(found: JsonRecord, criterion: str) -> str:
    constructs = next(iter(found["verdicts"].values())).get(criterion, {}).values()
    if not constructs:  # filed before the criterion existed
        return "–"
    counts = [sum(c.get(verdict, 0) for c in constructs) for verdict in VERDICTS]
    return " / ".join(f"{100 * count / sum(counts):.0f}" for count in counts)


def _by_construct(summary: BehaviorSummary, labels: Mapping[str, str]) -> PageTable:
    """Every verdict on the models in every questionnaire."""
    rows = []
    for name, found in summary["respondents"].items():
        for instrument, by_criterion in found["verdicts"].items():
            constructs = list(next(iter(by_criterion.values())))
            for construct in constructs:
                said = [_verdict(by_criterion.get(name, {}).get(construct, {})) for name in CRITERIA]
                rows.append([labels[name], instrument, construct, *said])
    columns = ["model", "questionnaire", "construct", *CRITERIA]
    return PageTable("Every verdict on the models; × counts runs", columns, rows, folded=True)


def _verdict(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{verdict} × {counts[verdict]}" for verdict in VERDICTS if counts.get(verdict))


def _training(summary: BehaviorSummary) -> PageSection:
    rows, apart = [], summary["between_bases"]
    for name, row in summary["rows"].items():
        for n, step in enumerate(row["steps"]):
            shown = [number(row[what][n]) for what in ("drift", "drift_chosen")]
            shown += [number(row["flattering"][n], signed=True)]
            shown += [number(row[what][n]) for what in ("dispersion", "dispersion_chosen")]
            shown += [f"{row['spread'][n]['mean']:.4f}", number(row["signal"][n], signed=True)]
            shown += [number(row["style"][style][n]) for style in ("acquiescence", "extremity")]
            rows.append([summary["labels"][name], f"{step:,}", *shown])
    columns = [
        "model",
        "samples or rounds",
        "drift",
        "… of choices",
        "in the flattering direction",
        "dispersion",
        "… of choices",
        "SD over people, points",
        "r with the description",
        "acquiescence",
        "extremes",
    ]
    text = [
        "Where a model hardly reads who it is told to be, the SD over people is small in points of the "
        "scale, and a ratio of two such SDs is one of small numbers. Nor does a lower ratio prove restricted "
        "traits: a model that training on short texts has made deaf to distant ones gives the same answers "
        "as anybody. The r with the descriptions tells whether they were ever read."
    ]
    if apart is not None and apart["drift"] is not None:
        text.append(
            f"For comparison: bases that differ only in their seed lie {apart['drift']:.2f} SD apart, and "
            f"their dispersions differ by a factor of {apart['dispersion'] or float('nan'):.2f}."
        )
    solved = _solved(summary)
    return PageSection(
        "Drift and dispersion along training",
        [*text, *solved],
        pictures=[
            realbehavior_figures.drift(summary),
            realbehavior_figures.dispersion(summary),
            realbehavior_figures.profile(summary),
        ],
        tables=[PageTable("Along training, means over runs [95 % intervals]", columns, rows, folded=True)],
    )


def _solved(summary: BehaviorSummary) -> Sequence[str]:
    """What the model trained by reinforcement learning has learned meanwhile."""
    if not summary["held_out"]:
        return []
    first, last = summary["held_out"][0][0], summary["held_out"][0][-1]
    learned = "does learn" if last["all"] > first["all"] else "has not learned"
    return [
        f"The reinforced model {learned} what it is trained for: it solves {first['all']:.0%} of held-out "
        f"problems before, and {last['all']:.0%} after {last['round']} rounds."
    ]


def _nulls(summary: BehaviorSummary) -> PageSection:
    labels, goal = labels_of(summary), summary["settings"]["goal"]
    rows = []
    for name in (name for name in labels if name in summary["nulls"]):
        found = summary["nulls"][name]
        alike = " (all alike)" if found["distinct"] == 1 and found["seeds"] > 1 else ""
        rows.append(
            [labels[name], f"{found['seeds']}{alike}", found["right"]]
            + [str(found["counts"][verdict]) for verdict in VERDICTS]
            + [percent(found["wrong"]), f"{100 * goal:g}"]
        )
    columns = ["respondent", "seeds", "should be", *VERDICTS, "wrong, %", "at most"]
    text = (
        "Simulated respondents see what an item is about, never its words, and answer by a rule; only the "
        "faithful one has the traits that its person is described with. They answer the same questions as "
        "the models. Undetermined counts as wrong. Brackets are 95 % Wilson intervals over seeds (the "
        "constructs of a seed count as one cluster); a respondent that answers the same with every seed has "
        "none."
    )
    caption = "Conclusions over constructs and seeds"
    return PageSection("Is the judging sound?", [text], tables=[PageTable(caption, columns, rows)])
