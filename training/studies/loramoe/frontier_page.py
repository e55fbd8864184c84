"""The page of a study on a pretrained base: what is kept at equal accuracy and at equal divergence."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from jaxmoe.json_values import JsonMapping
from training.studies.cells import StudySummary
from training.studies.intervals import nats, points, whole
from training.studies.loramoe import frontier_figures as figures
from training.studies.loramoe.contrasts import DULL
from training.studies.page import Page, PageSection, PageTable, plumbing

# the texts whose tokens a divergence is measured on
TEXTS = {
    "own": "own",
    "answers": "on right answers",
    "prompts": "on prompts",
    "plain": "on statements in plain text",
}
# differences below this share of the known facts are called small
SMALL = 0.03


def page(title: str, summary: StudySummary) -> Page:
    """The whole page, from the summary alone.

    Args:
      title: the page's title.
      summary: what `training.studies.loramoe.frontier.summarize` returned.
    Returns: the page with its figures.
    """
    question = (
        "A pretrained model is taught new tasks. At equal accuracy on them, which way of fine-tuning keeps "
        "more of what it knew, and does anything matter beyond how far the model moves from its base?"
    )
    sections = [_design(summary)]
    if summary["rows"]:
        sections += [
            _results(summary),
            *where_equal(summary.get("contrasts"), summary["labels"]),
            *_without_dull(summary),
            *where_equal(summary.get("at_kl"), summary["labels"], "KL", "divergence"),
            _test(summary),
            _rates(summary),
        ]
    if any(not row["main"] for row in summary["rows"].values()):
        sections.insert(2, _rivals(summary))
    card = {"runs": _runs(summary)} | {k: str(v) for k, v in summary["run"].items()}
    return Page(title, question, card, sections, plumbing(summary["scale"]))


def _runs(summary: StudySummary) -> str:
    rows, labels = summary["rows"].values(), summary["labels"]
    missing = [label for name, label in labels.items() if name not in {row["row"] for row in rows}]
    done = "; ".join(f"{labels[row['row']]}, lr {row['rate']:g}: {len(row['paths'])}" for row in rows)
    return (done or "none yet") + (f". Not run yet: {'; '.join(missing)}" if missing else "")


def _design(summary: StudySummary) -> PageSection:
    settings, base = summary["settings"], summary["base"]
    samples = [settings["samples"] * times for times in settings["volumes"]]
    looked = ", ".join(f"{round(volume * summary['scale']):,}" for volume in samples)
    text = [
        f"The base is {settings['checkpoints'][0]}. It is taught {_taught(summary)}, in its own chat form, "
        f"and measured after {looked} samples of one run at a constant learning rate.",
        "Knowledge is the share of the facts the base completes greedily that the tuned model still "
        f"completes. Tasks are {settings['tasks']} held-out samples, right if the answer is exact and "
        "ended, said if the right answer occurs in what greedy decoding writes. KL is exact over the "
        "vocabulary, token by token. It is measured on answers that the base itself sampled for held-out "
        "tasks (“own”; forward, KL(base ‖ tuned), is that of RL's Razor, arXiv:2509.04259), on the right "
        "answers"
        + (
            ", on the prompts, and on statements of facts as plain text."
            if settings["pretrained"].get("plain_facts")
            else ", and on the prompts."
        ),
        _rates_told(summary),
    ]
    if base is not None:
        known, asked = base["known"], base["asked"]
        text.append(
            f"The base completes {known['facts']} of {asked['facts']:,} held-out facts, and "
            f"{known['few_shot']} of {asked['few_shot']} with five others before them; it chooses correctly "
            f"among four in {known['choices']} of {asked['choices']}. It gets {base['test']['tasks']:.0%} of "
            f"the tasks right{_said(base['test'])}. The share that one run keeps therefore has a standard "
            f"error of {_error(known['facts'])} points at 90 %."
        )
    return PageSection("Design", text)


def _rates_told(summary: StudySummary) -> str:
    """How the learning rates that all seeds run with were chosen."""
    settings = summary["settings"]
    rule = (
        f"the smallest whose accuracy on dev tasks lies within {settings['tolerance']:g} standard errors of "
        "the row's best, among equally many rates per row, each run once with seed 0"
    )
    if all(len(row["rates"]) == 1 for row in settings["rows"].values() if row["rates"]):
        return "Every row has one learning rate, fixed beforehand, the same with every seed."
    if not any(row.get("seeded") for row in settings["rows"].values()):
        return f"The learning rate of every row is {rule}."
    error = 100 * (0.7 * 0.3 / max(settings["dev_tasks"], 1)) ** 0.5
    return (
        "Every row is run once with each learning rate of its grid, and with every seed at the middle rates, "
        "which are the same for matched rows; rows are then compared at equal accuracy, each at the rate "
        f"that keeps more. A rule was to choose one rate ({rule}). Its choices are in the last table, but "
        f"accuracy on {settings['dev_tasks']} dev tasks, with a standard error of {error:.0f} points, cannot "
        "decide. This was settled after seed 0 had been seen."
    )


def _taught(summary: StudySummary) -> str:
    settings = summary["settings"]
    if settings.get("instructions"):
        return f"instructions from {settings['instructions'].split()[0]}"
    return (
        f"{len(summary['families'])} kinds of tasks and {settings['knowledge_share']:.1%} closed-book "
        "questions on facts other than the test's"
    )


def _said(test: JsonMapping) -> str:
    return f" and says the right answer in {test['tasks_said']:.0%} of them" if "tasks_said" in test else ""


def _error(items: int) -> str:
    return f"{100 * (0.9 * 0.1 / max(items, 1)) ** 0.5:.1f}"


def _label(summary: StudySummary, key: str) -> str:
    """Label of a row at one learning rate; a row's name also works for what has not been run."""
    row = summary["rows"].get(key, {"row": key, "alphas": []})
    return str(summary["labels"][row["row"]]) + (f", {row['alphas'][-1]:g}" if row["alphas"] else "")


def _table(summary: StudySummary, main: bool) -> list[PageTable]:
    level, kl_level = summary["level"], summary["kl_level"]
    rows = {name: row for name, row in summary["rows"].items() if row["main"] == main}
    at = "" if level is None else f" at tasks {level:.0%}"
    near = "" if kl_level is None else f" at KL {kl_level:.3f}"
    plain = all("plain forward" in row["kl"] for row in rows.values())
    first = PageTable(
        "At the end of each run, % [95 % interval over runs; for a single run, over its facts and tasks]; KL "
        "in nats a token",
        (
            "row",
            "lr",
            "runs",
            "weights trained",
            "kept",
            "tasks",
            "KL own, forward",
            "backward",
            "on right answers",
            "on prompts",
            *(["on statements in plain text"] if plain else []),
        ),
        [
            (
                _label(summary, name),
                f"{row['rate']:g}" + ("" if row["final"] else " (first tried)"),
                str(len(row["paths"])),
                f"{row['trained_weights']:,}",
                points(row["last"]["completed"]),
                points(row["last"]["tasks"]),
                nats(row["kl"]["own forward"]),
                nats(row["kl"]["own backward"]),
                nats(row["kl"]["answers forward"]),
                nats(row["kl"]["prompts forward"]),
                *([nats(row["kl"]["plain forward"])] if plain else []),
            )
            for name, row in rows.items()
        ],
    )
    second = PageTable(
        "Interpolated linearly between the snapshots, where task accuracy and where the divergence first "
        "reaches a level that every run of the main rows reaches; and, of what the base got right on larger "
        "sets, what is kept at the end",
        (
            "row",
            "lr",
            f"kept{at}",
            f"KL{at}",
            f"kept{near}",
            f"tasks{near}",
            "tasks said",
            "multiple choice kept",
            "five-shot kept",
            *_files(summary),
        ),
        [
            (
                _label(summary, name),
                f"{row['rate']:g}",
                _maybe(row, "at_level", "completed"),
                nats(row["at_level"]["kl"]) if row["at_level"] else "–",
                _maybe(row, "at_kl", "completed"),
                _maybe(row, "at_kl", "tasks"),
                points(row["last"]["tasks_said"]) if "tasks_said" in row["last"] else "–",
                points(row["last"]["choices"]),
                points(row["last"]["few_shot"]),
                *(points(row["files"][file]) if file in row["files"] else "–" for file in _files(summary)),
            )
            for name, row in rows.items()
        ],
    )
    return [first, second]


def _files(summary: StudySummary) -> list[str]:
    return sorted({file for row in summary["rows"].values() for file in row["files"]})


def _maybe(row: JsonMapping, at: str, what: str) -> str:
    """The value read off, and how many runs reached the level if some did not."""
    if not row[at]:
        return "–"
    score, runs = row[at][what], len(row["paths"])
    return points(score) + (f" ({score['n']} of {runs} runs)" if score["n"] < runs else "")


def _results(summary: StudySummary) -> PageSection:
    pictures = [figures.main(summary), figures.volume(summary)]
    return PageSection("Results", (), (), pictures, _table(summary, main=True))


def _rivals(summary: StudySummary) -> PageSection:
    text = ["One thing is changed at a time, at the learning rate of the row that is varied."]
    averages = [
        PageTable(
            f"{summary['labels'][name]}: models between the base and the end of the run",
            ("share of the update", "kept", "tasks", "KL own, forward"),
            [
                (
                    f"{alpha:g}",
                    whole(point["completed"], False),
                    whole(point["tasks"], False),
                    f"{point['kl']:.3f}",
                )
                for alpha, point in zip(row["alphas"], row["paths"][0][1:], strict=True)
            ],
        )
        for name, row in summary["rows"].items()
        if row["alphas"]
    ]
    return PageSection(
        "What else keeps knowledge",
        text,
        (),
        [figures.rivals(summary)],
        [*_table(summary, main=False), *averages],
    )


def _test(summary: StudySummary) -> PageSection:
    how = (
        "kept = c + c1 KL + c2 KL² + c3 tasks + seed + row, over the snapshots of all runs at all learning "
        "rates, for the facts that no instruction teaches. The errors within a run are dependent, so whole "
        "runs of the same seed are permuted (Freedman and Lane 1983)."
    )
    main = {row["row"] for row in summary["rows"].values() if row["main"]}
    if summary["test"] is not None and len(summary["test"]["effects"]) < len(main):
        how += (
            " A row that ran with only one learning rate is left out, because within a row, too, a smaller "
            "rate keeps more at equal KL and tasks."
        )
    title = "Does the row matter at equal divergence and equal accuracy?"
    labels = {name: _label(summary, name) for name in summary["labels"]}
    tables = [*effects(summary["test"], labels), *_other_tests(summary)]
    return PageSection(title, [how, told_test(summary["test"])], (), (), tables)


def _other_tests(summary: StudySummary) -> list[PageTable]:
    """The same test with other divergences held equal: does the verdict depend on the choice?"""
    tests = [(name, test) for name, test in summary.get("other_tests", {}).items() if test is not None]
    if not tests or summary["test"] is None:
        return []
    rows = list(summary["test"]["effects"])
    told = [
        (
            f"{TEXTS[name.split()[0]]}, {name.split()[1]}",
            f"{test['p']:.3g}",
            f"{test['explained']['KL and tasks']:.0%}",
            *(whole(test["effects"][row]["mean"], True) for row in rows),
        )
        for name, test in tests
    ]
    caption = "The same with another KL held equal: p, what KL and tasks explain, and each row's effect"
    return [PageTable(caption, ("KL", "p", "KL and tasks", *(summary["labels"][row] for row in rows)), told)]


def told_test(test: JsonMapping | None, what: str = "tasks") -> str:
    """The verdict of the row test (`frontier.row_test`) in a sentence or two.

    Args:
      test: what `frontier.row_test` returned.
      what: was learned.
    Returns: plain text.
    """
    if test is None:
        return "Cannot be told yet: this takes at least two rows, and more runs than rows."
    explained = test["explained"].items()
    said = "; ".join(f"{name.replace('tasks', what)} {share:.0%}" for name, share in explained)
    verdict = "It does" if test["p"] < 0.05 else "No difference that these runs can tell from zero"
    return (
        f"{verdict}: p = {test['p']:.3g} for the rows together, {test['snapshots']} snapshots of "
        f"{test['runs']} runs. Explained share of the variance in what is kept: {said}."
    )


def effects(test: JsonMapping | None, labels: Mapping[str, str], what: str = "tasks") -> list[PageTable]:
    """What each row keeps beyond the others in a row test; no table without a test.

    Args:
      test: what `frontier.row_test` returned.
      labels: labels of the rows.
      what: was learned.
    Returns: at most one table.
    """
    if test is None:
        return []
    rows = [
        (
            labels[name],
            points(effect, signed=True) if effect["low"] is not None else whole(effect["mean"], True),
        )
        for name, effect in test["effects"].items()
    ]
    caption = (
        f"Points kept above the mean of all rows at equal KL and {what} [95 % jackknife interval over runs "
        "and relations of facts]; not corrected for the number of rows"
    )
    return [PageTable(caption, ("row", "effect"), rows)]


def _rates(summary: StudySummary) -> PageSection:
    chosen = summary["rates"] or {}
    rows = [
        (
            summary["labels"][name],
            f"{tried['rate']:g}"
            + (" (rule's choice)" if tried["rate"] == chosen.get(name) else "")
            + (" (all seeds)" if tried["final"] else ""),
            whole(tried["dev"], False),
            whole(tried["path"][-1]["tasks"], False),
            whole(tried["path"][-1]["completed"], False),
            f"{tried['path'][-1]['kl']:.3f}",
        )
        for name, grid in summary["tried"].items()
        for tried in grid
    ]
    table = PageTable(
        "Every rate with seed 0 at the end of the run, %; the choice uses the dev column only",
        ("row", "lr", "tasks, dev", "tasks, test", "kept", "KL own, forward"),
        rows,
    )
    return PageSection("Learning rates", (), (), (), [table])


def where_equal(
    found: JsonMapping | None, labels: Mapping[str, str], what: str = "tasks", title: str = "accuracy"
) -> list[PageSection]:
    """What pairs of rows keep where something is equal; no section if nothing can be said.

    Args:
      found: what `contrasts.contrasts` returned.
      labels: labels of the rows.
      what: what is held at a level: tasks or pass@1 in percent, or KL in nats.
      title: what is equal.
    Returns: at most one section.
    """
    if not found or not found["pairs"]:
        return []
    levels = [f"{what} {level:g}" if what == "KL" else f"{what} {level:.0%}" for level in found["levels"]]
    taught = f"{found['left out']} of {found['facts']} known facts are left out here, because an instruction"
    text = [
        f"Each run is read, fact by fact, where its {title} first reaches a level, interpolated linearly "
        "between snapshots. For each row and seed, the learning rate that keeps most counts, among those "
        "with which all seeds ran and get there, if there are any (for a pair, all seeds of both rows). "
        "Rows that are read at different places of their grids also differ in how fast they learn. "
        "Differences are paired by seed and fact. 95 % intervals account for both which seeds were run and "
        "which facts are known (by whole relations; with one seed, for the facts only), and are not "
        "corrected for anything." + (f" {taught} teaches the same answer." if found["left out"] else ""),
        f"A difference is called small where its whole interval lies within {100 * SMALL:.0f} points of "
        "zero, and not resolved where the interval contains 0 but reaches further than that.",
    ]
    kept = [
        (labels[name], rates(found["rates"][name]), *(_kept(at, len(found["rates"][name])) for at in row))
        for name, row in found["kept"].items()
    ]
    if any(at["n"] and at["early"] for row in found["kept"].values() for at in row):
        text.append(
            "* In some run the level lies before the first snapshot: the value is that snapshot's loss in "
            "proportion, and says nothing of its own."
        )
    differences = [
        (
            f"{labels[pair['b']]} − {labels[pair['a']]}",
            *(
                "–" if at is None else f"{points(at, signed=True)} {_said_of(at)}".rstrip()
                for at in pair["at"]
            ),
        )
        for pair in found["pairs"]
    ]
    tables = [
        PageTable("Known facts kept, % (seeds that got there, learning rate)", ("row", "lr", *levels), kept),
        PageTable("Differences, points [95 %]", ("rows", *levels), differences),
    ]
    return [PageSection(f"Which keeps more at equal {title}?", text, (), (), tables)]


def rates(found: Iterable[float]) -> str:
    """Learning rates as a list.

    Args:
      found: rates in ascending order.
    Returns: for example "5e-05, 0.0001".
    """
    return ", ".join(f"{rate:g}" for rate in found)


def _kept(at: JsonMapping, grid: int) -> str:
    """What a row keeps at a level; names its learning rate if its grid has more than one."""
    if not at["n"]:
        return "–"
    told = f"{at['n']}, lr {rates(at['rates'])}" if grid > 1 else str(at["n"])
    return f"{whole(at['mean'], False)} ({told}){'*' * bool(at['early'])}"


def _without_dull(summary: StudySummary) -> list[PageSection]:
    """The comparison at equal accuracy once more, without the uninformative task families."""
    section = where_equal(summary.get("contrasts_without_dull"), summary["labels"])
    if not section:
        return []
    dull = ", ".join(name.replace("_", " ") for name in DULL)
    text = [
        f"As above, but accuracy is that of the families other than {dull}, which hardly tell rows apart: "
        "nearly all samples have the same answer, hardly any is ever right, or rows do no better than "
        "chance. The levels therefore mean other accuracies.",
        *section[0].text[2:],
    ]
    return [replace(section[0], title="The same without tasks that tell little", text=text)]


def _said_of(difference: JsonMapping) -> str:
    low, high = difference["low"], difference["high"]
    if difference["n"] == 1:
        return "(one seed)"
    if low is None or low > 0 or high < 0:
        return ""
    return "small" if low > -SMALL and high < SMALL else "not resolved"
