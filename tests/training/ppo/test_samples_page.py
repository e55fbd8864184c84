"""The page of samples: escaped, bounded, the same after a resume; and in a browser."""

import html
import itertools
import json
import re

import numpy as np
import pytest

from rl.stepcoder.prompts import Response
from tests import chromium
from training.ppo.samples_page import (
    MOST_CHARACTERS,
    PAGE_BYTES,
    Samples,
    SamplesPage,
    token_segments,
    visible,
)

HOSTILE = (
    "</pre></details></section><script>document.title='owned'</script>"
    "<img src=x onerror=\"document.title='owned'\">"
    "{{ 7 * 7 }}{% raw %} & &lt; \u202e\x00\x1b[31m \ud800 \u2028 'quoted' \"twice\" <!-- ]]> "
    "<style>*{display:none}"
)


def record(step, **changes):
    return {
        "step": step,
        "problem": "p1",
        "difficulty": "easy",
        "stage": 2,
        "statement": "Double n.",
        "given": "def f(n):",
        "response": "\n    return 2 * n\n# end",
        "program": "def f(n):\n    return 2 * n\n",
        "verdict": "runtime_error",
        "reward": -0.6,
        "message": "NameError",
        "truncated": False,
        "rewards": {"tests": -0.6, "length": -0.25},
        "tokens": [["\n    return", "learned"], [" 2 * n", "masked"], ["\n# end", "behind"]],
    } | changes


def hostile(step):
    texts = {name: HOSTILE for name in ("problem", "difficulty", "statement", "given", "response", "message")}
    return record(step, **texts, tokens=[[HOSTILE, "learned"], [HOSTILE, "masked"]])


def test_segments_join_to_the_response_and_special_tokens_have_no_text():
    text = "ab cd ef"
    response = Response(text, [(0, 2), (2, 5), (5, 5), (5, 8)])
    found = token_segments(response, np.asarray([1, 1, 1, 0.0]), np.asarray([0, 0, 1, 0.0]))
    assert found == [("ab cd", "masked"), (" ef", "behind")]
    assert "".join(piece for piece, _ in found) == text
    # more tokens than the rollout has slots: those behind the program were cut away
    cut = token_segments(response, np.ones(2), np.ones(2))
    assert cut == [("ab cd", "learned"), (" ef", "behind")]


def test_what_cannot_be_seen_is_spelled_out_and_the_rest_stays():
    assert visible("a\tb\nc é 中 𝄞") == "a\tb\nc é 中 𝄞"
    assert visible("\u202e\x1b\ud800\ufeff") == "\\u202e\\x1b\\ud800\\ufeff"


def test_hostile_text_is_text(tmp_path):
    path = tmp_path / "samples.html"
    SamplesPage(path, "<b>run</b>", []).write(1, [hostile(1)])
    page = path.read_text(encoding="utf-8")
    bare = re.sub(r"<style>.*?</style>", "", page, count=1, flags=re.DOTALL)
    tags = set(re.findall(r"<\s*/?\s*([a-zA-Z!]\w*)", bare))
    assert not tags & {"script", "img", "b", "style"}
    assert 'onerror="' not in page
    assert not re.search("[\x00\x1b\u202e\u2028]", page)
    assert html.escape(HOSTILE[:60], quote=False).replace("'", "&#39;") in page


def test_the_page_is_bounded_and_says_what_is_left_out(tmp_path):
    path = tmp_path / "samples.html"
    page = SamplesPage(path, "run", [])
    long = "<" * (2 * MOST_CHARACTERS)
    for step in range(1, 41):
        texts = {name: long for name in ("statement", "given", "message")}
        page.write(step, [record(step, **texts, tokens=[[long, "learned"]])] * 4)
    assert path.stat().st_size < 1.05 * PAGE_BYTES
    text = path.read_text(encoding="utf-8")
    shown = [int(n) for n in re.findall(r'id="round-(\d+)"', text)]
    assert shown[:2] == [40, 39]
    assert shown[-3:] == [3, 2, 1]
    assert f"{40 - len(shown)} round(s) between the first and the newest are left out" in text
    assert f"[{MOST_CHARACTERS} more characters]" in text


def test_a_resumed_run_has_the_same_page(tmp_path):
    whole, broken = (tmp_path / name / "samples.jsonl" for name in ("run", "again/run"))
    for file in (whole, broken):
        file.parent.mkdir(parents=True)
    samples = Samples(whole, 0)
    for step in (1, 2, 3):
        samples.write(step, [record(step)])
    samples.close()
    first = Samples(broken, 0)
    for step in (1, 2):
        first.write(step, [record(step)])
    first.write(3, [record(3, problem="lost")])
    first.close()
    again = Samples(broken, 2)
    again.write(3, [record(3)])
    again.close()
    assert whole.with_suffix(".html").read_bytes() == broken.with_suffix(".html").read_bytes()
    assert [json.loads(line)["step"] for line in broken.read_text().splitlines()] == [1, 2, 3]


@pytest.fixture(scope="module")
def tab():
    if chromium.PROGRAM is None:
        pytest.skip("no Chromium is installed here")
    with chromium.tab() as opened:
        yield opened


@pytest.mark.parametrize(("width", "dark"), list(itertools.product((1280, 400), (False, True))))
def test_in_a_browser_it_loads_nothing_runs_nothing_and_shows_all(tab, tmp_path, width, dark):
    path = tmp_path / "samples.html"
    page = SamplesPage(path, "run", [])
    page.write(1, [hostile(1), record(1)])
    page.write(2, [record(2, verdict="pass", rewards={"tests": 1.0, "length": -0.25})])
    tab.open(path, width=width, dark=dark)
    methods = [event.get("method") for event in tab.events]
    assert not {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"} & set(methods)
    asked = [
        e["params"]["request"]["url"] for e in tab.events if e.get("method") == "Network.requestWillBeSent"
    ]
    assert asked == [path.as_uri()]
    assert tab.evaluate("document.title") == "run: samples by round"
    assert tab.evaluate("document.querySelectorAll('script, img').length") == 0
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert tab.evaluate("[...document.querySelectorAll('h2')].map(h => h.textContent)") == [
        "Round 2",
        "Round 1",
    ]
    assert tab.evaluate("document.querySelectorAll('details').length") == 3
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    # what is written is what is read
    statement = (
        "document.querySelectorAll('section')[1].querySelector('details pre:nth-of-type(2)').textContent"
    )
    assert tab.evaluate(statement) == visible(HOSTILE)
    first = "document.querySelector('details')"
    assert tab.evaluate(f"{first}.querySelector('summary').textContent").split()[:3] == [
        "pass",
        "reward",
        "+0.750",
    ]
    spans = f"[...{first}.querySelectorAll('pre span')].map(s => [s.textContent, s.className])"
    assert tab.evaluate(spans) == record(2)["tokens"]
    # the kinds differ by color, and by the line beneath
    style = "getComputedStyle(document.querySelector('pre .{}')).{}"
    kinds = ("learned", "masked", "behind")
    for what in ("borderBottomStyle", "backgroundColor"):
        assert len({tab.evaluate(style.format(kind, what)) for kind in kinds}) == 3
