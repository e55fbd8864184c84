"""The page of the StepCoder study: verdicts on the paper's claims, figures, tables and the paper's numbers.

The paper's numbers are quoted from reading notes, not from its text; they are marked as second hand.
"""

from collections.abc import Mapping, Sequence

from jaxmoe.json_values import JsonMapping
from training.studies.cells import StudySummary
from training.studies.intervals import judged, nats, pairs, points
from training.studies.loramoe.frontier_page import effects, told_test, where_equal
from training.studies.page import ClaimVerdict, Page, PageSection, PageTable, plumbing
from training.studies.stepcoder import figures as stepcoder_figures
from training.studies.stepcoder.summary import (
    CCCS,
    FGO,
    NAMED,
    PACE,
    PPO,
    SFT,
    START,
    STEPCODER,
)

# APPS+ pass@1 of DeepSeek-Coder-Instruct-6.7B: all, introductory, interview, competition; second hand
PAPER = (
    ("base instruct", "29.2", "49.4", "18.7", "3.6"),
    ("SFT", "29.8", "50.1", "19.0", "6.4"),
    ("PPO", "31.7", "53.7", "20.1", "5.0"),
    ("RLTF", "32.7", "55.1", "20.8", "6.4"),
    ("PPO + CCCS (StepCoder without FGO)", "35.5", "58.4", "23.3", "8.6"),
    ("PPO + FGO (StepCoder without CCCS)", "34.6", "58.7", "21.7", "7.1"),
    ("StepCoder", "36.1", "59.7", "23.5", "8.6"),
)
# claim, rows a and b, what is compared, the paper's figures
CLAIMS = (
    ("PPO from the tests improves on its start", START, PPO, "all", "29.2 → 31.7"),
    ("… more than SFT on the solutions does", SFT, PPO, "all", "29.8 → 31.7"),
    (
        "StepCoder solves more held-out problems than SFT on the solutions",
        SFT,
        STEPCODER,
        "all",
        "29.8 → 36.1",
    ),
    ("StepCoder solves more held-out problems than PPO", PPO, STEPCODER, "all", "31.7 → 36.1"),
    ("… of the hard ones", PPO, STEPCODER, "hard", "5.0 → 8.6 (competition)"),
    ("… and learns faster (pass@1 averaged over the rounds)", PPO, STEPCODER, PACE, ""),
    ("The curriculum alone improves PPO", PPO, CCCS, "all", "31.7 → 35.5"),
    ("… on the hard ones", PPO, CCCS, "hard", "5.0 → 8.6"),
    ("… and learns faster", PPO, CCCS, PACE, ""),
    ("The mask alone improves PPO", PPO, FGO, "all", "31.7 → 34.6"),
    ("… and learns faster", PPO, FGO, PACE, ""),
    ("The curriculum adds to the mask", FGO, STEPCODER, "all", "34.6 → 36.1"),
    ("The mask adds to the curriculum", CCCS, STEPCODER, "all", "35.5 → 36.1"),
)


def page(title: str, summary: StudySummary) -> Page:
    """The whole page, from the summary alone.

    Args:
      title: the page's title.
      summary: what `summarize` returned.
    Returns: the page with its figures.
    """
    question = (
        "Does a curriculum of completion subtasks help PPO explore on code, and does learning only from the "
        "executed tokens help it learn from the right ones?"
    )
    sections = [_design(summary)]
    if summary["regimes"]:
        sections = [*(_verdicts(summary, name) for name in summary["regimes"]), *sections]
        sections += [_results(summary), _practice(summary)]
    for name, found in summary.get("forgetting", {}).items():
        sections.append(_forgotten(summary, name))
        sections += where_equal(found["contrasts"], summary["labels"], "pass@1", "pass@1")
        sections += where_equal(found["at_kl"], summary["labels"], "KL", "divergence")
    if summary["gradient"]:
        sections.append(_gradient(summary))
    sections.append(_paper(summary))
    return Page(title, question, _card(summary), sections, plumbing(summary["scale"]))


def _card(summary: StudySummary) -> dict[str, str]:
    settings = summary["settings"]
    bases = len({seed % settings["bases"] for seed in summary["seeds"]})
    counts = f"seeds {', '.join(map(str, summary['seeds']))} on {bases} base{'s' * (bases != 1)}"
    runs = counts if summary["seeds"] else "none yet"
    return {"runs a row and regime": runs} | {k: str(v) for k, v in summary["run"].items()}


def _verdicts(summary: StudySummary, regime: str) -> PageSection:
    found = {(d["a"], d["b"], d["what"]): d for d in summary["regimes"][regime]["differences"] if d["n"]}
    rows = []
    here = {START} | {
        name
        for name, row in summary["settings"]["rows"].items()
        if regime in (row.get("regimes") or summary["regime_labels"])
    }
    for claim, a, b, what, paper in CLAIMS:
        difference = found.get((a, b, what))
        if not {a, b} <= here or (what != PACE and what not in summary["difficulties"]):
            continue
        said = "no runs to compare yet"
        if difference is not None:
            said = f"{points(difference, signed=True)} points, {pairs(difference)}"
        claim = claim.replace("PPO", summary["labels"].get(PPO, "PPO"))  # the algorithm may be another
        rows.append(ClaimVerdict(claim, judged(difference), said, paper and f"{paper} (second hand)"))
    text = (
        "Differences in held-out pass@1 after the last round between runs of the same seed, with 95 % t "
        "intervals over seeds in brackets. A claim is shown where the whole interval lies above 0, refuted "
        "at this scale where it lies below, and not shown otherwise; with so few seeds, that does not mean "
        "that there is no difference. Nothing is corrected for the number of claims. With one run there is "
        "no interval, and nothing is shown."
    )
    return PageSection(f"Verdicts: {summary['regime_labels'][regime]}", [text], verdicts=rows)


def _design(summary: StudySummary) -> PageSection:
    ppo, sizes, base, settings = summary["ppo"], summary["sizes"], summary["base"], summary["settings"]
    rollout, evaluation = ppo["rollout"], ppo["evaluation"]
    each = rollout["prompts"] * rollout["samples"]
    regimes = "; ".join(
        f"{label}: {_count(sizes[name])}, {_rounds(settings['regimes'][name], ppo)} rounds"
        for name, label in summary["regime_labels"].items()
        if name in sizes
    )
    evaluated = f"{evaluation['samples']} sample{'s' * (evaluation['samples'] > 1)}"
    text = [
        f"{_origin(base)}{_passed_over(summary)} Seeds differ in base (as far as there are bases), order of "
        "problems and samples.",
        f"Rows of reinforcement learning run {_algorithm(ppo)}{_apart(settings, ppo)}. All start from the "
        f"same base. A round is {rollout['prompts']} prompts x {rollout['samples']} samples, {each:,} "
        f"programs. {_settings(settings)}Practiced on: {regimes}.",
        f"Held out, the same for all rows: {_count(sizes['held_out'])}. They are asked as whole tasks, "
        f"without any part of the solution, with {evaluated} each at temperature "
        f"{evaluation['temperature']:g}, top-p {evaluation['top_p']:g}, before the first round, every "
        f"{evaluation['every']} (unless a row says otherwise) and after the last. No row's settings were "
        f"chosen on them{_settled(base)}.",
        "The curriculum shows parts of solutions, only in prompts, through which no gradient flows; plain "
        "PPO sees none. Where the base solves many of the problems before any practice (its row in the "
        "tables), exploration is less of a bottleneck than on the paper's competition problems, and the "
        "curriculum has less to gain.",
    ]
    if supervised := [row for row in settings["rows"].values() if row["method"] == "sft"]:
        text.append(
            "SFT trains on canonical solutions of the practice problems, in the form in which answers are "
            "asked for, with as many samples a round as the other rows draw programs, in batches of 16: "
            f"{'; '.join(_own(row, ppo) for row in supervised)}. It is told what the others must find out."
        )
    few = {r["label"]: r["problems"].get("practice_tests") for r in summary["settings"]["regimes"].values()}
    text += [
        f"{label[:1].upper()}{label[1:]}: a practice problem keeps {count} of its tests, drawn at random; "
        "held-out problems keep all."
        for label, count in few.items()
        if count is not None
    ]
    return PageSection("Design", text)


def _rounds(regime: JsonMapping, ppo: JsonMapping) -> int:
    return regime.get("rounds") or ppo["rounds"]


def _settled(base: JsonMapping) -> str:
    """What was not settled beforehand, for bases that were pretrained for the study."""
    if "checkpoints" in base:
        return ""
    return (
        "; how many steps a base is pretrained for and how many rounds a run has was settled after the "
        "curves of one seed had been seen"
    )


def _apart(settings: JsonMapping, ppo: JsonMapping) -> str:
    """Reinforcement learning rows that train something other than the rest."""
    rows = settings["rows"].values()
    apart = [_own(row, ppo) for row in rows if row["method"] == "ppo" and row.get("adapter")]
    return f", except for {'; '.join(apart)}" if apart else ""


def _own(row: JsonMapping, ppo: JsonMapping) -> str:
    """What a row trains, and how."""
    rate = row.get("lr") or ppo["optimizer"]["lr"]
    rounds = f", {row['rounds']} rounds" if row.get("rounds") else ""
    return f"{row['label']} (adapter {row.get('adapter') or ppo['adapter']}, lr {rate:g}{rounds})"


def _algorithm(ppo: JsonMapping) -> str:
    """The algorithm and the adapter that all rows share."""
    names = {"ppo": "the same PPO with a critic and GAE"}
    adapters = {"none": "every weight trained", "lora": "LoRA and the base frozen"}
    trained = adapters.get(ppo["adapter"], "LoRAMoE experts and the base frozen")
    return f"{names.get(ppo['algorithm'], 'the same algorithm, ' + ppo['algorithm'])}, with {trained}"


def _settings(settings: JsonMapping) -> str:
    """Where learning rates and all other settings come from."""
    if settings["ppo"] == "ppo/quickstart":
        return (
            "Learning rates and everything else are those of the PPO quickstart, which was made to learn "
            "with curriculum and mask on; if that favors a row, it is StepCoder. "
        )
    return f"Learning rates and everything else are those of {settings['ppo']}. "


def _origin(base: JsonMapping) -> str:
    if "checkpoints" in base:
        return f"A base is a checkpoint: {', '.join(base['checkpoints'])}."
    model = base["model"]
    return (
        f"A base is a decoder with {model['num_layers']} layers of width {model['hidden_size']}, pretrained "
        f"for {base['steps']:,} steps on programs whose authors guess what unclear words of a statement "
        "mean. Its likeliest program is often wrong, and only the tests teach what the words mean."
    )


def _passed_over(summary: StudySummary) -> str:
    entry, bases = summary["settings"]["entry"], summary["bases"]
    left = [f"{score:.2f}" for score in bases.values() if score < entry]
    if not left:
        return ""
    return (
        f" A base must solve {entry:.2f} of the held-out problems before practice; otherwise it cannot copy "
        f"its statement's words and learns in no row. {len(left)} of {len(bases)} were passed over "
        f"(pass@1 {', '.join(left)})."
    )


def _count(sizes: Mapping[str, int]) -> str:
    kinds = ", ".join(f"{number} {kind}" for kind, number in sizes.items())
    return f"{sum(sizes.values())} problems ({kinds})"


def _results(summary: StudySummary) -> PageSection:
    kinds, tables = summary["difficulties"], []
    for name, regime in summary["regimes"].items():
        rows = [["start (the base)", *(points(regime["start"][kind]) for kind in kinds), "–"]]
        for row, found in regime["rows"].items():
            scores = [points(found["final"][what]) for what in (*kinds, PACE)]
            rows.append([summary["labels"][row], *scores])
        caption = (
            f"{summary['regime_labels'][name]}: held-out pass@1 after the last round, % [95 % over seeds]"
        )
        tables.append(PageTable(caption, ["row", *kinds, "all, mean over rounds"], rows))
    return PageSection(
        "Results", pictures=[stepcoder_figures.curves(summary)], tables=[*tables, _pairs(summary)]
    )


def _pairs(summary: StudySummary) -> PageTable:
    labels = {**summary["labels"], START: "start"}
    rows = [
        [
            summary["regime_labels"][name],
            f"{labels[d['b']]} − {labels[d['a']]}",
            "mean over rounds" if d["what"] == PACE else d["what"],
            points(d, signed=True),
            str(d["n"]),
        ]
        for name, regime in summary["regimes"].items()
        for d in regime["differences"]
    ]
    caption = "All differences paired by seed, points [95 % interval]"
    return PageTable(caption, ["regime", "rows", "what", "difference", "pairs"], rows, folded=True)


def _practice(summary: StudySummary) -> PageSection:
    rows = []
    for name, regime in summary["regimes"].items():
        for row, found in regime["rows"].items():
            kept = found["rounds"]
            if not kept:  # fine-tuned, without rounds
                continue
            rows.append(
                [summary["regime_labels"][name], summary["labels"][row]]
                + [_share(kept[key][:1]) for key in ("pass_rate",)]
                + [_share(kept[key][-1:]) for key in ("pass_rate",)]
                + [
                    _share(kept[key])
                    for key in ("masked_share", "share_runtime_error", "share_compile_error")
                ]
                + [_share([found["stages"]["0"][-1]]) if "0" in found["stages"] else "–"]
                + [f"{found['tokens']['mean']:,.0f}"]
            )
    columns = [
        "regime",
        "row",
        "pass, first round",
        "pass, last round",
        "tokens left out",
        "run-time error",
        "does not compile",
        "at the whole task, at the end",
        "tokens sampled",
    ]
    pictures = [stepcoder_figures.stages(summary), stepcoder_figures.practice(summary)]
    return PageSection(
        "Practice",
        [
            "What the rounds themselves show. All rows draw equally many programs; with a curriculum these "
            "are shorter, because part of each is given."
        ],
        pictures=[picture for picture in pictures if picture is not None],
        tables=[PageTable("Practice programs, %, means over seeds", columns, rows)],
    )


def _share(values: Sequence[float | None]) -> str:
    kept = [value for value in values if value is not None]
    return f"{100 * sum(kept) / len(kept):.1f}" if kept else "–"


def _gradient(summary: StudySummary) -> PageSection:
    settings, verdicts, rows = summary["settings"]["gradient"], [], []
    for tests, found in summary["gradient"].items():
        named = "all tests" if tests == "0" else f"{tests} test{'s' * (tests != '1')}"
        shown = (_plain(found["plain"]), _plain(found["masked"]), _plain(found["gain"], signed=True))
        rows.append([named, *shown, points(found["left_out"]), points(found["false_passes"])])
        if tests != "0":
            claim = f"The mask brings a batch's gradient closer to the reference, with {named}"
            said = f"cosine {shown[2]}, {found['gain']['n']} bases"
            verdicts.append(ClaimVerdict(claim, judged(found["gain"]), said))
    text = (
        "Measured at a base, before any practice. The policy gradient of a batch graded with few tests, with "
        "and without the mask, is compared with a reference: the mean gradient of other batches, graded with "
        f"about {settings['problems']['embedded']['tests']} tests and no mask. Advantages compare the "
        f"samples of a prompt. For each base, up to {settings['batches']} batches are compared with up to "
        f"{settings['reference']}; intervals are over bases."
    )
    columns = [
        "tests",
        "cosine, no mask",
        "cosine, mask",
        "difference",
        "tokens left out, %",
        "false passes, %",
    ]
    caption = "Cosine with the reference; false passes are passing programs that fail one of all the tests"
    return PageSection("The gradient", [text], verdicts=verdicts, tables=[PageTable(caption, columns, rows)])


def _forgotten(summary: StudySummary, regime: str) -> PageSection:
    found, base = summary["forgetting"][regime], summary["known"]
    known = ", ".join(f"{one['known']:,} of {one['asked']:,}" for one in base.values())
    labels = summary["labels"]
    text = [
        f"The base completes {known} held-out facts greedily. Kept is the share of these that a practiced "
        "model still completes, so facts that it learns besides them do not count. KL is exact over the "
        "vocabulary, in nats a token, on answers that the base itself sampled for the held-out problems at "
        "temperature 1; forward is KL(base ‖ practiced), that of RL's Razor (arXiv:2509.04259).",
        *_named_before({row["row"]: labels[row["row"]] for row in found["rows"]}),
        "Does the row matter at equal divergence and equal pass@1? kept = c + c1 KL + c2 KL² + c3 pass@1 + "
        "seed + row, over the measurements of all runs; runs of the same seed are permuted (Freedman and "
        "Lane 1983). Where rows hardly overlap in KL, the result rests on the curve between them.",
        told_test(found["test"], "pass@1"),
    ]
    rows = [
        (
            labels[row["row"]],
            f"{row['rate']:g}",
            str(len(row["seeds"])),
            points(row["completed"]),
            points(row["pass"]),
            nats(row["forward"]),
            nats(row["backward"]),
        )
        for row in found["rows"]
    ]
    caption = "At the end of practice, % [95 % over seeds]; KL in nats a token"
    columns = ("row", "lr", "runs", "known facts kept", "held-out pass@1", "KL, forward", "KL, backward")
    return PageSection(
        f"What practice costs: {summary['regime_labels'][regime]}",
        text,
        pictures=[stepcoder_figures.forgotten(summary, regime)],
        tables=[PageTable(caption, columns, rows), *effects(found["test"], labels, "pass@1")],
    )


def _named_before(labels: Mapping[str, str]) -> list[str]:
    """Which comparison of what is kept was named before anything was run."""
    a, b, level = NAMED
    if a not in labels or b not in labels:
        return []
    return [
        f"Named before anything was run: {labels[b]} − {labels[a]} at pass@1 {level:.0%}. All other pairs "
        "and levels are exploratory."
    ]


def _plain(score: JsonMapping, *, signed: bool = False) -> str:
    if score["mean"] is None:
        return "–"
    sign = "+" if signed else ""
    ends = "" if score["low"] is None else f" [{score['low']:{sign}.3f}, {score['high']:{sign}.3f}]"
    return f"{score['mean']:{sign}.3f}{ends}"


def _paper(summary: StudySummary) -> PageSection:
    columns = ["", "all", "introductory / easy", "interview / medium", "competition / hard"]
    ours: list[Sequence[str]] = []
    kinds = ("all", "easy", "medium", "hard")
    for name, regime in summary["regimes"].items():
        rows = {START: regime["start"]} | {row: found["final"] for row, found in regime["rows"].items()}
        labels = {**summary["labels"], START: "start"}
        for row, scores in rows.items():
            shown = [points(scores[kind]) if kind in scores else "–" for kind in kinds]
            ours.append([f"ours, {summary['regime_labels'][name]}: {labels[row]}", *shown])
    caption = (
        "The paper's pass@1 on APPS+ (DeepSeek-Coder-Instruct-6.7B, second hand: from reading notes) and ours"
    )
    return PageSection("Beside the paper's numbers", tables=[PageTable(caption, columns, [*PAPER, *ours])])
