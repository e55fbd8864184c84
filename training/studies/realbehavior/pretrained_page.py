"""The page of the RealBehavior study on a pretrained chat model: verdicts, their basis, what changed.

Every number comes from one model, one fine-tuning of each kind and one draw of text.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from evals.faithfulness.validity import BEYOND, WITH_TRAIT
from evals.faithfulness.verdicts import CRITERIA
from jaxmoe.json_values import JsonMapping
from training.plots.rows import REFERENCE, many_styles
from training.studies.page import Page, PageSection, PageTable, Picture
from training.studies.realbehavior.answers import JsonRecord, conclusions

VERDICTS = ("faithful", "undetermined", "not faithful")
# the verdict checks that readers ask for first: title, and how the statistic's name begins
STATISTICS = {
    "ICC(A,1) over conditions": "ICC(A,1) over conditions",
    "α": "alpha",
    "r with the other test": "convergent r",
    "r with the trait, corrected": WITH_TRAIT,
    "beyond the description": BEYOND,
}


def page(title: str, summary: JsonMapping) -> Page:
    """The whole page, from the summary alone.

    Args:
      title: the page's title.
      summary: what `PretrainedStudy.summary` returned.
    Returns: the page with its figure.
    """
    question = (
        "Can a pretrained chat model's answers to personality tests be believed, do they follow the person "
        "that it is told to be, and what do two short fine-tunings change?"
    )
    cells = summary["cells"]
    sections = [_design(summary)]
    if cells:
        sections = [_verdicts(summary), *sections, _evidence(summary)]
    if any("against base" in found for found in cells.values()):
        sections.append(_changes(summary))
    return Page(title, question, _card(summary), sections)


def names_of(summary: JsonMapping) -> dict[str, str]:
    """The name of every cell, in order."""
    found = {}
    for name in summary["cells"]:
        model, _, way = name.rpartition("-")
        found[name] = f"{summary['labels'][model]}, {way.replace('_', ' ')}"
    return found


def _card(summary: JsonMapping) -> dict[str, str]:
    asked = sum(found["questions"] for found in summary["cells"].values())
    minutes = sum(found["seconds"] for found in summary["cells"].values()) / 60
    card = {
        "model": str(summary["base"]),
        "questions": f"{asked:,}, answered in {minutes:.0f} minutes, including fine-tuning",
    }
    # the run card counts only a cell's last session
    return card | {k: str(v) for k, v in summary["run"].items() if k != "minutes"}


def _design(summary: JsonMapping) -> PageSection:
    settings = summary["settings"]
    rows = []
    for names, ways in (("base", settings["ways"]), ("after fine-tuning", settings["tuned_ways"])):
        for name, way in ways.items():
            crossed = [", ".join(way[facet]) for facet in ("instruments", "templates", "option_orders")]
            label = f"{names}, {name.replace('_', ' ')}"
            rows.append([label, way["answers"], *crossed, way["personas"]])
    columns = ["asked", "answers", "questionnaires", "wordings", "orders of options", "persons"]
    text = [
        "Respondents are persons that the model is told to be, in its own chat form. Each answers every item "
        "separately, in every condition. Scores are means over items; a person's scores are means over "
        "conditions. Answers by label are the most probable option letter. Written answers are sampled at "
        "temperature 1 and read by rules; unreadable ones are missing. Items that two questionnaires share "
        "count only in the shorter one.",
        "Criteria and thresholds are this project's own, the same as in every assessment here. A construct "
        "is believed only where all criteria are met in the first questionnaire.",
    ]
    asked = [PageTable("What was asked", columns, rows)]
    labels = names_of(summary)
    took = [
        (labels[name], f"{found['questions']:,}", f"{found['seconds'] / 60:.0f}")
        for name, found in summary["cells"].items()
    ]
    if took:
        asked.append(PageTable("What it took", ("", "questions", "minutes, including fine-tuning"), took))
    return PageSection("Design", text, tables=asked)


def _verdicts(summary: JsonMapping) -> PageSection:
    rows = []
    for name, label in names_of(summary).items():
        verdicts = summary["cells"][name]["verdicts"]
        first = [row for row in verdicts if row["instrument"] == verdicts[0]["instrument"]]
        counts = [_counts([row["verdict"] for row in first if row["criterion"] == one]) for one in CRITERIA]
        rows.append([label, *counts, _counts(list(conclusions(verdicts).values()))])
    columns = ["constructs: faithful / undetermined / not faithful", *CRITERIA, "all criteria"]
    table = PageTable("Verdicts in the first questionnaire of each way of asking", columns, rows)
    return PageSection("Verdicts", said(summary), tables=[table])


def said(summary: JsonMapping) -> list[str]:
    """The findings in two sentences: constructs that can be believed, and what fine-tuning changed."""
    cells, labels = summary["cells"], names_of(summary)
    base = next(name for name in cells if name.startswith("base-"))
    own = [row["value"] for row in _own(cells[base]) if row["value"] is not None]
    text = (
        f"Told to be these persons and asked in these ways, {summary['base']} ({labels[base]}) gave scores "
        f"that can be believed for {_believed(cells[base])}: {100 * cells[base]['first shown']:.0f} % of "
        "its answers are the option shown first"
    )
    if own:
        text += (
            ", and the correlations of its scores with the described traits lie between "
            f"{_number(min(own))} and {_number(max(own))}"
        )
    tuned = [
        f"{_believed(found)} after {labels[name]} ({100 * found['against base']['same answer']:.0f} % of the "
        "answers are the base's)"
        for name, found in cells.items()
        if "against base" in found
    ]
    if not tuned:
        return [f"{text}."]
    return [
        f"{text}. After one short fine-tuning of each kind, they can be believed for "
        f"{', and for '.join(tuned)}; one model and one run of each say nothing about others."
    ]


def _believed(found: JsonRecord) -> str:
    """How many constructs of the first questionnaire are faithful, and the verdicts on the others."""
    verdicts = list(conclusions(found["verdicts"]).values())
    others = [f"{verdicts.count(one)} {one}" for one in VERDICTS[1:] if one in verdicts]
    return f"{verdicts.count(VERDICTS[0])} of {len(verdicts)} constructs" + (
        f" ({', '.join(others)})" if others else ""
    )


def _counts(verdicts: Sequence[str]) -> str:
    return " / ".join(str(verdicts.count(one)) for one in VERDICTS)


def _own(found: JsonRecord) -> list[JsonRecord]:
    """r of every construct of the first questionnaire with its own described trait."""
    rows = found["described"]
    return [r for r in rows if r["instrument"] == rows[0]["instrument"] and r["construct"] == r["trait"]]


def _evidence(summary: JsonMapping) -> PageSection:
    rows = []
    styles = []
    for name, label in names_of(summary).items():
        found = summary["cells"][name]
        checks = found["checks"]
        for construct in dict.fromkeys(
            r["construct"] for r in checks if r["instrument"] == checks[0]["instrument"]
        ):
            mine = [
                r
                for r in checks
                if r["construct"] == construct and r["instrument"] == checks[0]["instrument"]
            ]
            cells = [_check(mine, start) for start in STATISTICS.values()]
            own = next((row for row in _own(found) if row["construct"] == construct), {"expected": None})
            rows.append([f"{label}: {construct}", *cells, _number(own["expected"])])
        style = found["style"]
        kept = [style[one] for one in ("acquiescence", "extremity", "midpoint", "position", "refused")]
        styles.append([label, *map(_number, kept), _number(found["first shown"])])
    columns = ["construct", *STATISTICS, "r with the trait, expected values"]
    style_columns = ["", "acquiescence", "extremity", "midpoint", "position", "unreadable", "first option"]
    return PageSection(
        "What the verdicts rest on",
        [
            "Brackets are 95 % intervals over persons. The correlation with the trait is that of the score "
            "with what the description says about the same trait, corrected for the items' unreliability; † "
            "marks one that is not corrected, or corrected by an α that may be 0. Expected values are Σ p·v "
            "over the options. Acquiescence is mean agreement whatever is asked, position is how far the "
            "shares of the chosen positions are from equal, and first option is the share of answers that "
            "were the option shown first."
        ],
        pictures=[described(summary)],
        tables=[
            PageTable("Estimates in the first questionnaire", columns, rows),
            PageTable("Style of answering, over all questionnaires", style_columns, styles),
        ],
    )


def _check(rows: Sequence[JsonRecord], start: str) -> str:
    """The first check whose statistic begins with `start`, with its interval."""
    found = next((row for row in rows if row["statistic"].startswith(start)), None)
    if found is None:
        return "–"
    text = _interval(found["estimate"], found["low"], found["high"])
    return f"{text} †" if "not corrected" in found["reason"] or "may be 0" in found["reason"] else text


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "undefined"
    if low is None or high is None:
        return _number(value)
    return f"{_number(value)} [{_number(low)}, {_number(high)}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def described(summary: JsonMapping) -> Picture:
    """r of each construct's score with its own described trait, and the largest |r| with another trait.

    Args:
      summary: what `PretrainedStudy.summary` returned.
    Returns: the figure with its caption.
    """
    labels = names_of(summary)
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axis = figure.subplots()
    constructs = list(dict.fromkeys(row["construct"] for row in _own(next(iter(summary["cells"].values())))))
    step = 0.8 / max(1, len(labels))
    styles = many_styles(list(labels))
    for number, (name, label) in enumerate(labels.items()):
        color, marker = styles[name]
        axis.plot([], [], marker, color=color, label=label)  # in the legend even if every r is undefined
        rows = summary["cells"][name]["described"]
        first = [row for row in rows if row["instrument"] == rows[0]["instrument"]]
        for place, construct in enumerate(constructs):
            y = place - 0.4 + step * (number + 0.5)
            of = {row["trait"]: row for row in first if row["construct"] == construct}
            own = of.get(construct)
            if own is not None and own["value"] is not None:
                ends = [own["low"], own["high"]]
                if None not in ends:
                    axis.plot(ends, [y, y], color=color, linewidth=1.4)
                axis.plot(own["value"], y, marker, color=color, markersize=6)
            others = [
                row["value"] for trait, row in of.items() if trait != construct and row["value"] is not None
            ]
            if others:
                axis.plot(max(others, key=abs), y, "x", color=color, markersize=5)
    axis.axvline(0, color=REFERENCE, linewidth=1)
    axis.plot([], [], "x", color=REFERENCE, label="largest r with another trait")
    axis.set_yticks(np.arange(len(constructs)), constructs)
    axis.set(
        xlim=(-1, 1),
        ylim=(-0.6, len(constructs) - 0.4),
        xlabel="r of scores with described traits, over persons",
    )
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return Picture(
        "realbehavior_pretrained_described",
        "Do scores follow the described person? Correlation of each score in the first questionnaire with "
        "the trait of the same name (dots, 95 % intervals), and the largest with another described trait "
        "(crosses); none where too little was answered or nothing varies. With dots at 1 and crosses near 0, "
        "scores would follow only their own trait.",
        figure,
    )


def _moved(label: str, found: JsonRecord) -> list[str]:
    """How far expected values moved and spread, and how many answers stayed."""
    drift, spread = (found["expected"][name] for name in ("drift", "dispersion"))
    cells = [_interval(one["mean"], one["low"], one["high"]) for one in (drift, spread)]
    return [label, *cells, f"{100 * found['same answer']:.0f}"]


def _changes(summary: JsonMapping) -> PageSection:
    rows, moved = [], []
    labels = names_of(summary)
    for name, found in summary["cells"].items():
        if "against base" not in found:
            continue
        moved.append(_moved(labels[name], found["against base"]))
        for row in found["against base"]["scales"]:
            rows.append(
                [
                    f"{labels[name]}: {row['title']} ({row['instrument']})",
                    _number(row["base"]),
                    _number(row["tuned"]),
                    _interval(row["delta"], row["delta_low"], row["delta_high"]),
                    _interval(row["dispersion"], row["dispersion_low"], row["dispersion_high"]),
                    row["claim"],
                ]
            )
    columns = ["scale", "base", "tuned", "Δ, SD of the base", "dispersion ratio", "claim"]
    text = [
        "The base and the fine-tuned model answer the same questions as the same persons, so intervals are "
        "paired. Δ is in SDs of the base's scores over persons, not of real people. Restricted or wider is "
        "claimed where the p of Pitman and Morgan's test of equal variances, Holm-corrected over the scales "
        "of a questionnaire, is below .05. These fine-tunings teach tasks; they do not align the model with "
        "values."
    ]
    whole = [
        "fine-tuned",
        "mean |Δ|, SD of the base",
        "SD over persons, times the base's",
        "equal answers, %",
    ]
    return PageSection(
        "What fine-tuning changed",
        text,
        tables=[
            PageTable("Expected values of all scales, 95 % intervals over persons", whole, moved),
            PageTable("Chosen options, scale by scale", columns, rows),
        ],
    )
