"""The page of the LoRAMoE study: verdicts on the paper's claims, figures, tables, and the paper's numbers.

The paper's numbers are quoted from reading notes, not from its text; they are marked as second hand.
"""

from collections.abc import Callable, Sequence

from jaxmoe.json_values import JsonMapping
from training.studies.cells import StudySummary
from training.studies.intervals import judged, pairs, points, whole
from training.studies.loramoe import figures as loramoe_figures
from training.studies.loramoe import frontier_page
from training.studies.loramoe.summary import (
    CONSTRAINED,
    EVERYWHERE,
    FREE,
    FULL,
    LORA,
    LORA_EVERYWHERE,
    MATCHED,
    MEASURES,
    SAME_RATE,
)
from training.studies.page import ClaimVerdict, Page, PageSection, PageTable, plumbing

# base, SFT, LoRAMoE on LLaMA-2-7B; second hand
PAPER = (
    ("TriviaQA", "52.2", "51.1", "58.1"),
    ("Natural Questions", "24.5", "", "28.0"),
    ("filtered TriviaQA", "", "21.6", "38.5"),
    ("filtered Natural Questions", "", "7.3", "13.4"),
    ("TriviaQA at 5 M samples", "", "30.9", ""),
    ("HotpotQA at 5 M samples", "", "7.6", ""),
    ("Race-middle", "", "89.1", "90.0"),
    ("RTE", "", "88.1", "87.4"),
    ("Flores", "", "24.3", "26.4"),
)


# accuracy of guessing among the answers that the form of a sample allows; 0 where there are too many
CHANCE = {
    "coreference": 1 / 2,
    "natural_language_inference": 1 / 3,
    "reading_comprehension": 1 / 3,
    "sentiment": 1 / 2,
    "topic": 1 / 5,
}


def page(title: str, summary: StudySummary) -> Page:
    """The whole page, from the summary alone.

    Args:
      title: the page's title.
      summary: from `summarize`, or of a study on a pretrained base.
    Returns: the page with its figures.
    """
    if "kl_level" in summary:
        return frontier_page.page(title, summary)
    question = (
        "Does fine-tuning on more and more instructions overwrite what a model knows, and do routed LoRA "
        "experts on the frozen base keep that knowledge while learning the tasks equally well?"
    )
    sections = [_design(summary)]
    if FULL in summary["rows"]:
        sections.insert(0, _verdicts(summary))
        sections += [_results(summary), _rates(summary)]
    if summary["routing"]:
        sections.append(_routing(summary))
    if summary["sweep"]:
        sections.append(_sweep(summary))
    sections.append(_paper(summary))
    return Page(title, question, _card(summary), sections, plumbing(summary["scale"]))


def _card(summary: StudySummary) -> dict[str, str]:
    rows = summary["rows"].values()
    counts = sorted({(len(row["bases"]), row["runs"]) for row in rows})
    runs = "; ".join(f"{runs} runs on {bases} base{'s' * (bases > 1)}" for bases, runs in counts)
    return {"runs a row": runs or "none yet"} | {k: str(v) for k, v in summary["run"].items()}


# verdicts


def _verdicts(summary: StudySummary) -> PageSection:
    equal = "at equal downstream accuracy"

    def found(a: str, b: str, what: str) -> JsonMapping | None:
        match = (d for d in summary["differences"] if (d["a"], d["b"], d["what"]) == (a, b, what))
        return next((d for d in match if d["n"]), None)

    def claim(text: str, a: str, b: str, what: str, paper: str = "", sign: float = 1.0) -> ClaimVerdict:
        difference = _signed(found(a, b, what), sign)
        return ClaimVerdict(text, judged(difference), _said(found(a, b, what)), paper)

    rows = [
        claim(
            "Full fine-tuning on many instructions loses knowledge",
            "base",
            FULL,
            "completed",
            "TriviaQA 52.2 → 30.9 at 5 M samples",
            sign=-1.0,
        ),
        claim(
            "LoRAMoE answers more closed-book questions than its base",
            "base",
            CONSTRAINED,
            "asked",
            "TriviaQA 52.2 → 58.1, Natural Questions 24.5 → 28.0",
        ),
        claim(
            "LoRAMoE keeps more knowledge than full fine-tuning, same instructions",
            FULL,
            CONSTRAINED,
            "completed",
            "TriviaQA 51.1 against 58.1; filtered 21.6 against 38.5",
        ),
        claim(f"… and {equal}", FULL, CONSTRAINED, "completed at level"),
        _at_best_rate(summary, FULL, CONSTRAINED),
        claim(
            "LoRAMoE learns the tasks better than full fine-tuning",
            FULL,
            CONSTRAINED,
            "tasks",
            "Race 89.1 / 90.0, RTE 88.1 / 87.4, Flores 24.3 / 26.4",
        ),
        claim(
            "LoRAMoE answers more closed-book questions than one LoRA of as many weights",
            LORA,
            CONSTRAINED,
            "asked",
            "+30.9 % on knowledge",
        ),
        claim(f"… and {equal}", LORA, CONSTRAINED, "asked at level"),
        claim("LoRAMoE keeps more knowledge than one LoRA", LORA, CONSTRAINED, "completed"),
        claim(f"… and {equal}", LORA, CONSTRAINED, "completed at level"),
        claim("… and at the same learning rate", SAME_RATE, CONSTRAINED, "completed"),
        claim(
            "LoRAMoE learns the tasks better than one LoRA", LORA, CONSTRAINED, "tasks", "+8.4 % downstream"
        ),
        claim("… and at the same learning rate", SAME_RATE, CONSTRAINED, "tasks"),
        claim(
            "Experts on attention too learn the tasks better than experts on the feed-forward layers alone",
            CONSTRAINED,
            EVERYWHERE,
            "tasks",
        ),
        claim("… and then better than full fine-tuning", FULL, EVERYWHERE, "tasks"),
        claim("… while they keep more knowledge than it", FULL, EVERYWHERE, "completed"),
        claim(f"… {equal}", FULL, EVERYWHERE, "completed at level"),
        claim("… and more than one LoRA there", LORA_EVERYWHERE, EVERYWHERE, "completed"),
        claim("… answer more closed-book questions than it", LORA_EVERYWHERE, EVERYWHERE, "asked"),
        claim(f"… and {equal}", LORA_EVERYWHERE, EVERYWHERE, "asked at level"),
        claim("… and learn the tasks better than it", LORA_EVERYWHERE, EVERYWHERE, "tasks"),
        claim("The constraint keeps knowledge", FREE, CONSTRAINED, "completed", "helps 13 of 15 tasks"),
        claim("The constraint helps the tasks", FREE, CONSTRAINED, "tasks", "helps 13 of 15 tasks"),
        _separated(summary, CONSTRAINED, "As released, the constraint gives a task's own experts less", -1.0),
        _separated(summary, MATCHED, "With the sign turned (matched_gets_more) they get more", 1.0),
    ]
    text = (
        "Differences are between runs of the same base and seed at the largest volume, with 95 % t intervals "
        "over runs in brackets. A claim is shown where the whole interval lies on its side of 0, refuted at "
        "this scale where it lies on the other, and not shown otherwise. With one run there is no interval, "
        "and nothing is shown."
    )
    return PageSection("Verdicts", [text], verdicts=rows)


def _at_best_rate(summary: StudySummary, a: str, b: str) -> ClaimVerdict:
    """Knowledge at the common level, each row at its best rate there: what a rule might miss."""
    best = {}
    for name in (a, b):
        known = [e["at_level"] for e in summary["learning_rates"].get(name, []) if e["at_level"] is not None]
        best[name] = max(known, default=None)
    level = "" if summary["level"] is None else f" {summary['level']:.2f}"
    text = f"… and at{level or ' equal accuracy'} with each at whichever of its rates is best there"
    if None in best.values():
        return ClaimVerdict(text, "not shown", "no runs to compare yet")
    said = f"{whole(best[b], False)} against {whole(best[a], False)} % of facts, one run each, no interval"
    return ClaimVerdict(text, "not shown", said)


def _signed(difference: JsonMapping | None, sign: float) -> JsonMapping | None:
    if difference is None or difference["low"] is None or sign > 0:
        return difference
    return {**difference, "low": -difference["high"], "high": -difference["low"]}


def _said(difference: JsonMapping | None) -> str:
    if difference is None:
        return "no runs to compare yet"
    where = f" where both reach {difference['level']:.2f} of the tasks" if "level" in difference else ""
    return f"{points(difference, signed=True)} points{where}, {pairs(difference)}"


def _separated(summary: StudySummary, row: str, text: str, sign: float) -> ClaimVerdict:
    gap = summary["routing"].get(row, {}).get("gap")
    if gap is None:
        return ClaimVerdict(text, "not shown", "no runs yet")
    said = f"first half's share, questions − tasks: {points(gap, signed=True)} points, {gap['n']} runs"
    return ClaimVerdict(
        text, judged(_signed(gap, sign)), said, "share (1 ∓ δ)/2: −10 or +10 points with δ = 0.1"
    )


# design, results


def _design(summary: StudySummary) -> PageSection:
    settings, bases, sizes = summary["settings"], summary["bases"], summary["sizes"]
    times = ", ".join(f"{v}x" for v in settings["volumes"])
    text = [
        f"{_origin(summary['base'])} It is then fine-tuned on "
        f"instructions from seven downstream families, {settings['knowledge_share']:.1%} of them closed-book "
        f"questions about facts other than the test's, and measured after {times} of {settings['samples']} "
        "samples of one run at a constant learning rate.",
        f"Knowledge is the share of {sizes['completed']} held-out facts that greedy decoding completes as "
        "statements, or gives as answers when asked; only an answer's own tokens count. Downstream "
        f"accuracy is the share of {sizes['tasks']} held-out samples that are answered correctly and ended "
        "there.",
        "The learning rate of every row is the smallest whose accuracy on dev tasks lies within "
        f"{settings['tolerance']:g} standard errors of the row's best, among equally many rates per row, "
        "each run once on base 0 with seed 0: a smaller rate moves a model less, and differences within the "
        "sampling error are chance.",
    ]
    if bases:
        text.append(_entry(bases))
    caption = "The bases before fine-tuning, %; tasks listed by name are asked in the wording of pretraining"
    families = list(next(iter(bases.values()))["skills"]) if bases else []
    columns = [
        "base",
        "facts completed",
        "asked",
        "tasks as instructed",
        *(f.replace("_", " ") for f in families),
    ]
    rows = [
        [name, *(f"{100 * scores[m]:.0f}" for m in ("completed", "asked", "tasks"))]
        + [f"{100 * scores['skills'][family]:.0f}" for family in families]
        for name, scores in bases.items()
    ]
    return PageSection("Design", text, tables=[PageTable(caption, columns, rows)])


def _origin(base: JsonMapping) -> str:
    if "checkpoints" in base:
        return f"A base is a checkpoint: {', '.join(base['checkpoints'])}."
    model = base["model"]
    return (
        f"A base has {model['num_layers']} layers of width {model['hidden_size']} and a vocabulary of "
        f"{model['vocab_size']:,}. In {base['steps']:,} steps of pretraining it learns real facts, sees the "
        "downstream tasks in other words, and learns to copy from its context."
    )


def _entry(bases: JsonMapping) -> str:
    """What the bases know and can do beforehand, at their weakest."""
    facts = min(scores["completed"] for scores in bases.values())
    skills = [(scores["skills"][f], f) for scores in bases.values() for f in scores["skills"]]
    weakest, family = min(skills, key=lambda skill: skill[0] - CHANCE.get(skill[1], 0.0))
    return (
        f"Before fine-tuning every base completes at least {facts:.0%} of the held-out facts (95 % were "
        f"required). Of what the tasks need, the bases are weakest at {family.replace('_', ' ')}, in the "
        f"wording of pretraining: {weakest:.0%}, where a guess gets {CHANCE.get(family, 0.0):.0%}."
    )


def _results(summary: StudySummary) -> PageSection:
    rows, labels = summary["rows"], summary["labels"]
    pictures = [loramoe_figures.volumes(summary), loramoe_figures.frontier(summary)]
    final = PageTable(
        "At the largest volume, % [95 % interval over runs]",
        ["row", "lr", "weights trained", "facts completed", "facts asked", "tasks"],
        [
            [labels[n], f"{r['rate']:g}", f"{r['trained_weights']:,}"]
            + [points(r["curves"][m][-1]) for m in ("completed", "asked", "tasks")]
            for n, r in rows.items()
        ],
    )
    families = list(next(iter(rows.values()))["families"])
    by_task = PageTable(
        "Downstream accuracy by task at the largest volume, %, means over runs",
        ["task", "chance", *(labels[n] for n in rows)],
        [
            [f.replace("_", " "), f"{100 * CHANCE.get(f, 0.0):.0f}"]
            + [whole(r["families"][f]["mean"], False) for r in rows.values()]
            for f in families
        ],
    )
    tables = [final, _at_level(summary), by_task, _curves(summary), _differences(summary)]
    return PageSection("Results", pictures=pictures, tables=[t for t in tables if t.rows])


def _at_level(summary: StudySummary) -> PageTable:
    level = summary["level"] or 0.0
    rows = [
        [summary["labels"][n], points(r["at_level"]["completed"]), points(r["at_level"]["asked"])]
        for n, r in summary["rows"].items()
        if r["at_level"]
    ]
    caption = (
        f"Knowledge where downstream accuracy first reaches {100 * level:.0f} %, the highest level that "
        "every run of every row reaches; interpolated linearly between the snapshots"
    )
    return PageTable(caption, ["row", "facts completed", "facts asked"], rows)


def _curves(summary: StudySummary) -> PageTable:
    rows = []
    for name, row in summary["rows"].items():
        for n, volume in enumerate(summary["volumes"]):
            scores = [points(row["curves"][m][n]) for m in ("completed", "asked", "tasks")]
            rows.append([summary["labels"][name], f"{volume:,}", *scores])
    columns = ["row", "samples", "facts completed", "facts asked", "tasks"]
    return PageTable("All volumes, % [95 % interval over runs]", columns, rows, folded=True)


def _differences(summary: StudySummary) -> PageTable:
    labels = {**summary["labels"], "base": "base"}
    rows = [
        [f"{labels[d['b']]} − {labels[d['a']]}", d["what"], points(d, signed=True), str(d["n"])]
        for d in summary["differences"]
        if d["n"]
    ]
    caption = "All paired differences at the largest volume, points [95 % interval]"
    return PageTable(caption, ["rows", "what", "difference", "pairs"], rows, folded=True)


def _rates(summary: StudySummary) -> PageSection:
    rows = []
    for name, tried in summary["learning_rates"].items():
        if name not in summary["rows"]:
            continue
        for entry in tried:
            chosen = entry["rate"] == summary["rows"][name]["rate"]
            last = entry["path"][-1]
            rows.append(
                [summary["labels"][name], f"{entry['rate']:g}" + (" (chosen)" if chosen else "")]
                + [f"{100 * v:.0f}" for v in (entry["dev"], last["tasks"], last["completed"], last["asked"])]
                + ["–" if entry["at_level"] is None else f"{100 * entry['at_level']:.0f}"]
            )
    at = "facts completed at tasks " + (
        "–" if summary["level"] is None else f"{100 * summary['level']:.0f} %"
    )
    columns = ["row", "lr", "tasks, dev", "tasks, test", "facts completed", "facts asked", at]
    caption = "Every rate on base 0 with seed 0 at the largest volume, %; the choice uses the dev column only"
    text = (
        "In every row the learning rate trades knowledge for tasks; the figure shows the path of each rate."
    )
    return PageSection(
        "Learning rates",
        [text],
        pictures=[loramoe_figures.rates(summary)],
        tables=[PageTable(caption, columns, rows)],
    )


def _routing(summary: StudySummary) -> PageSection:
    rows = [
        [
            summary["labels"][name],
            points(r["gap"], signed=True),
            _plain(r["cv"]),
            f"{r['largest_cv']:.2f}",
            _plain(r["entropy"]),
            str(r["dead"]),
        ]
        for name, r in summary["routing"].items()
    ]
    columns = ["row", "share gap, points", "CV, mean", "CV, largest", "entropy / ln E", "dead experts, most"]
    text = (
        "Over the last stretch of training. The share is that of the first half of the experts, meant for "
        "knowledge; the gap is its value on closed-book questions minus that on tasks. CV is the standard "
        "deviation of the experts' shares divided by their mean. With 6 experts it cannot exceed 2.45, so "
        "the paper's figure of about 3 without the constraint (second hand) must be for another quantity."
    )
    table = PageTable("Routing, mean over layers, projections and runs", columns, rows)
    return PageSection("Routing", [text], pictures=[loramoe_figures.routing(summary)], tables=[table])


def _plain(score: JsonMapping) -> str:
    return "–" if score["mean"] is None else f"{score['mean']:.2f}"


def _sweep(summary: StudySummary) -> PageSection:
    reference = {n: summary["rows"][n] for n in (LORA, FREE, CONSTRAINED) if n in summary["rows"]}
    seeds = sorted({seed for row in summary["sweep"].values() for seed in row["seeds"]})

    def of_same_runs(row: JsonMapping, measure: str) -> str:
        kept = [path[-1][measure] for path in row["paths"][: len(seeds)]]
        return f"{100 * sum(kept) / len(kept):.0f}"

    found = {(d["b"], d["what"]): d for d in summary["differences"] if d["a"] == CONSTRAINED and d["n"]}

    def change(name: str, measure: str) -> str:
        difference = found.get((name, measure)) if name in summary["sweep"] else None
        return "" if difference is None else points(difference, signed=True)

    rows = [
        [summary["labels"][n], f"{r['trained_weights']:,}"]
        + [of_same_runs(r, m) for m in MEASURES]
        + [change(n, m) for m in MEASURES]
        for n, r in (reference | summary["sweep"]).items()
    ]
    named = ["facts completed", "facts asked", "tasks"]
    columns = ["row", "weights trained", *named, *(f"Δ {what}" for what in named)]
    caption = (
        f"One thing changed at a time, base 0, seeds {', '.join(map(str, seeds))}, largest volume, %; Δ: "
        "points above LoRAMoE with the constraint, paired by seed [95 % interval over seeds]"
    )
    text = (
        "What makes LoRAMoE better than LoRA, if anything does? The first rows are the study's own on the "
        "same base and seeds; those with LoRAMoE have the same learning rate."
    )
    return PageSection(
        "Sweep", [text], pictures=[loramoe_figures.sweep(summary)], tables=[PageTable(caption, columns, rows)]
    )


def _paper(summary: StudySummary) -> PageSection:
    ours: list[Sequence[str]] = []
    rows, bases = summary["rows"], summary["bases"]
    measure: Callable[[str, str], str] = lambda name, what: (  # noqa: E731
        points(rows[name]["curves"][what][-1]) if name in rows else "–"
    )
    for what, label in (("completed", "facts completed"), ("asked", "facts asked"), ("tasks", "tasks")):
        before = sum(100 * scores[what] for scores in bases.values()) / max(len(bases), 1)
        ours.append([f"ours: {label}", f"{before:.0f}", measure(FULL, what), measure(CONSTRAINED, what)])
    table = PageTable(
        "The paper's figures (LLaMA-2-7B, second hand: from reading notes) and ours",
        ["", "base", "full SFT", "LoRAMoE"],
        [*PAPER, *ours],
    )
    return PageSection("Beside the paper's numbers", tables=[table])
