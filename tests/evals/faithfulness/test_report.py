"""The report page and its tables, from simulated answers."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from evals.faithfulness import charts, comparison, report_tables
from evals.faithfulness.apa_sentences import apa
from evals.faithfulness.charts import Dot
from evals.faithfulness.report import render_report, write_report
from evals.faithfulness.report_contents import Report, combined
from evals.faithfulness.report_sections import PARTS, _shares
from evals.faithfulness.study import FaithfulnessStudy
from evals.questionnaires import behaviors
from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design, battery
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondents.simulated import simulated_respondent
from evals.questionnaires.wording import composed_personas, named_templates

MINI = load_instrument("mini_ipip")
DESIGN = Design(
    named_templates(["form", "terse"]), ("forward", "reversed"), personas=tuple(composed_personas(8))
)


def table(name, seed=0):
    return administer(simulated_respondent(name, seed), [battery(MINI), behaviors.battery(count=3)], DESIGN)


def study(**settings):
    return FaithfulnessStudy(
        [MINI], [battery(MINI), behaviors.battery(count=3)], DESIGN, nulls=("random",), **settings
    )


@pytest.fixture(scope="module")
def report():
    own, base = table("faithful"), table("faithful", 1)
    found = study().report(
        {"tiny": own}, {"model": "tiny", "path": "<b>"}, base=base, checkpoints={0: base, 100: own}
    )
    found.title = "A <model> & its self-report"
    return found


@pytest.fixture(scope="module")
def several():
    return study().report({"base": table("faithful"), "a/b <c>": table("acquiescent")}, {})


class Page(HTMLParser):
    """Checks that tags close, and gathers ids, links and headings."""

    VOID = frozenset({"meta", "br", "line", "circle", "rect", "polyline", "polygon"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.headings, self.sources = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if "href" in values else []
        self.sources += [values["src"]] if "src" in values else []
        if tag in ("h1", "h2"):
            self.headings.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_no_network(report):
    text = render_report(report)
    page = Page()
    page.feed(text)
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not page.sources
    # sources are named in words; nothing is fetched
    assert not re.search(r'(src|href|data)="https?:|url\(|@import|<script [^>]*src|<link', text)
    assert page.headings[0] == "h1"
    for word in (
        "Run card",
        "Verdicts",
        "Profile",
        "Reliability",
        "Variance components",
        "Traits by methods",
        "simulated respondents",
        "Compared with base",
        "Drift",
    ):
        assert word in text
    assert "A &lt;model&gt; &amp; its self-report" in text
    assert "prefers-color-scheme: dark" in text
    # who cannot see a plot reads what it says
    assert text.count('role="img"') == text.count("<desc>") >= 8


def test_tables_are_written_and_hold_no_nan(report, tmp_path):
    page = write_report(report, tmp_path)
    assert page.read_text() == render_report(report)
    tables = json.loads((tmp_path / "tables.json").read_text())["tables"]
    assert set(tables) == {path.stem for path in (tmp_path / "tables").glob("*.csv")}
    verdicts = pd.read_csv(tmp_path / "tables" / "verdicts.csv")
    assert len(verdicts) == 5 * 5 == len(tables["verdicts"])


def test_empty_parts_are_left_out():
    text = render_report(Report("t", {"a": 1}))
    assert "Run card" in text
    assert "Drift" not in text


def test_drift_and_comparison_agree_with_the_scores(report):
    drift = report.drift
    both = report.comparisons["mini_ipip"].set_index("scale")
    for step, column in ((0, "base"), (100, "tuned")):
        at = drift[(drift["step"] == step) & (drift["construct"] == "extraversion")]
        assert at["value"].item() == pytest.approx(both.loc["E", column])
    assert (both["dispersion_low"] <= both["dispersion"]).all()


def test_norms_give_t_scores_of_fifty_to_the_average_person():
    neo = load_instrument("ipip_neo_120")
    own = administer(simulated_respondent("midpoint"), [battery(neo)], Design())
    found = report_tables.profile(own, neo, "women 21 to 40").set_index("scale")
    norm = next(n for n in neo.norms if n.group == "women 21 to 40" and n.scale == "N")
    assert found.loc["N", "value"] == pytest.approx(50 + 10 * (72 - norm.mean) / norm.sd)
    assert np.isnan(found.loc["N", "low"])


def test_dots_lie_where_their_values_are_and_undefined_ones_say_so():
    drawn = charts.dots(
        [Dot("a", 0.0), Dot("b", 1.0, 0.5, 1.5), Dot("c", float("nan"))], "t", "axis"
    ).elements
    places = [float(x) for x in re.findall(r'cx="([\d.]+)"', drawn)]
    assert len(places) == 2
    assert places[0] < places[1]
    assert "undefined" in drawn
    assert charts.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_several_models_stand_beside_each_other_and_the_first_is_the_base(several, tmp_path):
    text = render_report(several)
    page = Page()
    page.feed(text)
    assert not page.open
    assert "a/b &lt;c&gt;" in text
    # two marks a domain, of two shapes, and a legend
    assert len(re.findall(r'<rect[^>]*class="dot m1 "', text)) >= 5
    write_report(several, tmp_path)
    verdicts = pd.read_csv(tmp_path / "tables" / "verdicts.csv")
    assert verdicts["model"].tolist() == ["base"] * 25 + ["a/b <c>"] * 25
    comparison = pd.read_csv(tmp_path / "tables" / "comparison_mini_ipip.csv")
    assert comparison["model"].unique().tolist() == ["a/b <c>"]
    assert {path.name for path in (tmp_path / "tables").glob("correlations*.csv")} == {
        "correlations_base.csv",
        "correlations_a_b_c_.csv",
    }


def test_shares_of_variance_are_whole(report):
    for _, own in report.components.groupby("scale"):
        parts = _shares(own)
        assert sum(parts) == pytest.approx(1)
        assert len(parts) == len(PARTS)
    # what a faithful person answers differs by person and item, hardly by wording
    assert parts[0] + parts[1] + parts[2] > 0.5 > parts[3]


def test_tables_of_several_instruments_name_them():
    joined = combined(
        {"one": pd.DataFrame({"a": [1]}), "two": pd.DataFrame(), "three": pd.DataFrame({"a": [2]})}
    )
    assert joined["instrument"].tolist() == ["one", "three"]


def test_a_drawing_alone_has_colors_of_its_own(report, tmp_path):
    write_report(report, tmp_path)
    found = list((tmp_path / "figures").glob("*.svg"))
    assert len(found) == render_report(report).count("<figure")
    for file in found:
        root = ElementTree.parse(file).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        # programs that draw SVG do not know custom properties
        assert "var(" not in file.read_text()


def test_header_cells_say_what_they_head(report):
    scopes = re.findall(r"<th scope=([^ >]+)", render_report(report))
    assert set(scopes) == {'"row"', '"col"'}


def test_the_card_tells_how_to_repeat_it(report):
    assert {"date", "version", "command", "seeds", "thresholds", "confidence"} <= report.card.keys()
    assert "retest 0.75" in str(report.card["thresholds"])


def said(row, confidence=0.95):
    return apa(pd.DataFrame([row]), confidence)


def test_sentences_are_in_apa_style():
    row = {"title": "Order", "statistic": "alpha", "value": 0.8249, "low": 0.7, "high": 0.91, "n": 32}
    assert said(row) == "Order: α = .82, 95% CI [.70, .91], n = 32.\n"
    change = {"title": "E", "delta": -0.254, "delta_low": -1.2, "delta_high": 0.1, "unit": "SD of the base"}
    test = {"t": -2.013, "df": 31.0, "p": 0.0529}
    assert (
        said(change | test, 0.9)
        == "E: Δ = −0.25 (SD of the base), 90% CI [−1.20, 0.10], t(31) = −2.01, p = .053.\n"
    )
    # a ratio may pass 1, and keeps its zero
    ratio = {"title": "E", "dispersion": 0.11, "dispersion_low": 0.1, "dispersion_high": 1.2}
    assert "SD ratio = 0.11, 95% CI [0.10, 1.20]" in said(ratio | {"dispersion_p_holm": 1.0})
    assert "p (Holm) > .999" in said(ratio | {"dispersion_p_holm": 1.0})


def test_sentences_stand_alone(report):
    tables = report.tables()
    pair = {
        "trait_1": "a",
        "method_1": "x",
        "trait_2": "b",
        "method_2": "y",
        "r": 0.5,
        "low": 0.1,
        "high": 0.8,
    }
    assert said(pair) == "a (x) with b (y): r = .50, 95% CI [.10, .80].\n"
    conduct = {"construct": "order", "value": 0.5, "low": 0.1, "high": 0.8, "n": 16, "behavior": "conduct"}
    assert said(conduct) == "order, self-report with conduct: r(14) = .50, 95% CI [.10, .80].\n"
    planned = conduct | {"construct": "concise", "behavior": "behavior in another conversation"}
    assert said(planned).startswith("concise, self-report with behavior in another conversation: r(14) = .50")
    undefined = {"title": "E", "statistic": "omega_total", "value": np.nan, "low": np.nan, "high": np.nan}
    assert said(undefined | {"n": 4, "reason": "too few"}) == "E: ω undefined (too few), n = 4.\n"
    for name, table in tables.items():
        lines = apa(table).splitlines()
        assert len(lines) == len(table)
        # nothing is told twice, nothing without saying of what
        assert all(": " in line for line in lines), name
        places = [line.partition(": ")[0].split(", ") for line in lines]
        assert all(len(place) == len(set(place)) for place in places), name


def test_files_in_the_page_are_those_beside_it(report, tmp_path):
    page = write_report(report, tmp_path)
    packed = re.search(r'id="exports">([^<]*)<', page.read_text()).group(1)
    texts = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert texts["verdicts"]["csv"] == (tmp_path / "tables" / "verdicts.csv").read_text()
    assert set(re.findall(r'data-table="([^"]*)"', page.read_text())) <= set(texts)
    assert 3 * len(packed) < sum(len(text) for forms in texts.values() for text in forms.values())


def test_restriction_is_claimed_only_where_the_corrected_test_says_so():
    base = table("faithful")
    found = comparison.compared(base, table("acquiescent"), MINI)
    assert (found["claim"] == "restricted").all()
    assert (found["dispersion_p_holm"] < comparison.LEVEL).all()
    assert (comparison.compared(base, base, MINI)["claim"] == "none").all()
