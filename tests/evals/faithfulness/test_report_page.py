"""The report in a browser: no network, readable in light and dark, wide and narrow, by eye and by ear."""

import itertools
import shutil
import subprocess
import tarfile

import pytest

from evals.faithfulness.report import write_report
from evals.faithfulness.study import FaithfulnessStudy
from evals.questionnaires import behaviors
from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design, battery
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondents.simulated import simulated_respondent
from evals.questionnaires.wording import composed_personas, named_templates
from tests import chromium

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium is installed here")

# WCAG 2.1, 1.4.3 and 1.4.11
TEXT_CONTRAST, GRAPHIC_CONTRAST = 4.5, 3.0
TEXTS = ("--ink", "--soft", "--good", "--bad", "--open", "--blue", "--orange", "--s2", "--s3", "--s4", "--s5")

CLIPPED = """[...document.querySelectorAll('svg.chart')].flatMap(svg => [...svg.querySelectorAll('text')]
  .filter(text => { const a = text.getBoundingClientRect(), b = svg.getBoundingClientRect();
    return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1 })
  .map(text => text.textContent))"""
OVERLAPPING = """[...document.querySelectorAll('svg.chart')].flatMap(svg => {
  const all = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  return all.flatMap(([one, a], i) => all.slice(i + 1).filter(([_, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4).map(([two]) => one + ' / ' + two)) })"""
UNNAMED = """[...document.querySelectorAll('svg')].filter(svg => svg.getAttribute('role') !== 'img' ||
  !svg.querySelector(':scope > title')?.textContent ||
  !svg.querySelector(':scope > desc')?.textContent).length"""
UNLABELED = """[...document.querySelectorAll('[role=group], section')].filter(one =>
  !one.getAttribute('aria-label') && !document.getElementById(one.getAttribute('aria-labelledby'))).length"""
SMALLEST = """Math.min(...[...document.querySelectorAll('svg.chart text')]
  .map(text => text.getBoundingClientRect().height))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    instruments = [load_instrument("mini_ipip"), load_instrument("ipip_50")]
    design = Design(
        named_templates(["form", "terse"]), ("forward", "reversed"), personas=tuple(composed_personas(8))
    )
    batteries = [*map(battery, instruments), behaviors.battery(count=2)]
    study = FaithfulnessStudy(instruments, batteries, design, nulls=("acquiescent", "random"))
    names = {"base": ("faithful", 0), "full SFT": ("acquiescent", 0), "LoRAMoE": ("faithful", 1)}
    answers = {name: administer(simulated_respondent(*who), batteries, design) for name, who in names.items()}
    steps = {0: answers["base"], 300: answers["LoRAMoE"]}
    return write_report(
        study.report(answers, {"models": ", ".join(names)}, checkpoints=steps),
        tmp_path_factory.mktemp("page"),
    )


@pytest.fixture(scope="module")
def tab():
    with chromium.tab() as opened:
        yield opened


def luminance(color: str) -> float:
    digits = color.strip().lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    linear = []
    for place in (0, 2, 4):
        value = int(digits[place : place + 2], 16) / 255
        linear.append(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, two: str) -> float:
    dark, light = sorted((luminance(one), luminance(two)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard():
    # examples with known ratios
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize(("width", "dark"), list(itertools.product((1280, 400), (False, True))))
def test_it_opens_alone_and_everything_has_its_place(tab, page, width, dark):
    tab.open(page, width=width, dark=dark)
    assert tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is dark
    # folded tables are part of it
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    methods = [event.get("method") for event in tab.events]
    assert not {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"} & set(methods)
    asked = [
        e["params"]["request"]["url"] for e in tab.events if e.get("method") == "Network.requestWillBeSent"
    ]
    assert asked == [page.as_uri()]
    # wide tables scroll inside their own box
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(CLIPPED) == []
    assert tab.evaluate(OVERLAPPING) == []
    assert tab.evaluate(SMALLEST) >= 9  # pixels of a line


def test_it_can_be_read_by_ear(tab, page):
    tab.open(page, width=1280, dark=False)
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert tab.evaluate("document.title").startswith("Behavior")
    for landmark in ("header", "nav[aria-label]", "main", "h1"):
        assert tab.evaluate(f"document.querySelectorAll('{landmark}').length") == 1
    assert tab.evaluate("document.querySelectorAll('svg').length") > 20
    assert tab.evaluate(UNNAMED) == 0
    assert tab.evaluate("document.querySelectorAll('th:not([scope=row], [scope=col])').length") == 0
    headless = "[...document.querySelectorAll('table')].filter(t => !t.querySelector('thead th')).length"
    assert tab.evaluate(headless) == 0
    assert tab.evaluate(UNLABELED) == 0


@pytest.mark.parametrize("dark", [False, True])
def test_colors_stand_out(tab, page, dark):
    tab.open(page, width=1280, dark=dark)
    names = [*TEXTS, "--page", "--card"]
    style = "getComputedStyle(document.documentElement)"
    color = {name: tab.evaluate(f"{style}.getPropertyValue('{name}')") for name in names}
    for name in TEXTS:
        assert contrast(color[name], color["--page"]) >= TEXT_CONTRAST, name
    for name in ("--ink", "--soft"):
        assert contrast(color[name], color["--card"]) >= TEXT_CONTRAST, name
    # parts of a bar carry numbers in the page's color, and must differ from the page
    for name in ("--blue", "--orange", "--s2", "--s3", "--s4", "--open"):
        assert contrast(color[name], color["--page"]) >= max(TEXT_CONTRAST, GRAPHIC_CONTRAST), name


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """axe-core as one script, from npm."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("axe-core comes from npm, which is not installed here")
    packed = subprocess.run(
        [npm, "pack", "--silent", "axe-core@4"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    if packed.returncode:
        pytest.skip("axe-core could not be fetched from npm")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing(tab, page, axe, dark):
    tab.open(page, width=1280, dark=dark)
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    tab.evaluate(f"{axe}; 0")
    found = "axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes[0].html.slice(0, 200)))"
    assert tab.evaluate(found) == []


def test_every_figure_and_table_can_be_saved(tab, page):
    tab.open(page, width=1280, dark=True)
    figures, tables = (
        tab.evaluate(f"document.querySelectorAll('{what}').length") for what in ("figure", "[data-table]")
    )
    assert tab.evaluate("document.querySelectorAll('button').length") == 2 * figures + 3 * tables
    drawn = "reportFigure.png(document.querySelector('svg.chart')).then(b => [b.type, b.size])"
    kind, size = tab.evaluate(drawn)
    assert kind == "image/png"
    assert size > 10_000
    sizes = "reportFigure.unpacked().then(found => Object.values(found).map(one => one.csv.length))"
    lengths = tab.evaluate(sizes)
    assert len(lengths) > 10
    assert all(lengths)
