"""The page at / in a browser: a conversation, and which experts spoke, by mouse and by keyboard."""

import re
import time
from collections.abc import Iterator

import pytest

from tests import chromium
from tests.served import Served, tiny

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium is installed here")

PIECES = "[...document.querySelectorAll('.assistant:last-child .piece')]"
SHARES = r"expert (\d): (\d+) %"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    made = tiny()
    with made.worker, made.serving() as made.address:
        yield made


@pytest.fixture(scope="module")
def tab() -> Iterator[chromium.Tab]:
    with chromium.tab() as opened:
        yield opened


def until(tab: chromium.Tab, condition: str) -> None:
    deadline = time.monotonic() + 60
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def opened(tab: chromium.Tab, served: Served, width: int = 1000, dark: bool = False) -> None:
    tab.open(served.address + "/", width=width, dark=dark)
    until(tab, "document.querySelectorAll('#model option').length === 2")


def say(tab: chromium.Tab, text: str) -> None:
    """Types a message, sends it with the enter key, and waits for the answer."""
    tab.evaluate("document.querySelector('#text').focus()")
    tab.send("Input.insertText", text=text)
    tab.press("Enter")
    until(tab, "document.querySelector('#send').textContent === 'Send' && !running")


def detail(tab: chromium.Tab) -> str:
    return tab.evaluate("document.querySelector('#detail').textContent")


def test_each_piece_tells_its_experts(tab: chromium.Tab, served: Served):
    opened(tab, served)
    say(tab, "the quick fox")
    answer = tab.evaluate("document.querySelector('.assistant').textContent")
    assert tab.evaluate(f"{PIECES}.map(one => one.textContent).join('')") == answer != ""
    sums = tab.evaluate(f"{PIECES}.map(one => one.weights.reduce((a, b) => a + b))")
    assert all(abs(total - 1) < 2e-4 for total in sums)  # two shares of four digits each
    legend = tab.evaluate("[...document.querySelectorAll('#experts button')].map(one => one.textContent)")
    shares = [int(re.fullmatch(SHARES, one)[2]) for one in legend]
    means = tab.evaluate(
        f"[0, 1].map(n => 100 * {PIECES}.reduce((sum, one) => sum + one.weights[n], 0) / {PIECES}.length)"
    )
    assert shares == [round(one) for one in means]
    # by mouse
    box = tab.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({PIECES}[3].getBoundingClientRect())")
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    until(tab, "document.querySelector('#detail').textContent !== ''")
    assert detail(tab).startswith(tab.evaluate(f"JSON.stringify({PIECES}[3].textContent)") + ": expert ")
    methods = {event.get("method") for event in tab.events}
    assert not {"Runtime.exceptionThrown", "Runtime.consoleAPICalled"} & methods
    asked = {
        e["params"]["request"]["url"] for e in tab.events if e.get("method") == "Network.requestWillBeSent"
    }
    assert all(url.startswith(served.address) for url in asked)


def test_the_keyboard_is_enough(tab: chromium.Tab, served: Served):
    opened(tab, served)
    say(tab, "over")
    # one stop of the tab key in an answer
    assert tab.evaluate(f"{PIECES}.map(one => one.tabIndex).filter(n => n === 0).length") == 1
    tab.evaluate(f"{PIECES}[0].focus()")
    first = detail(tab)
    tab.press("ArrowRight")
    assert tab.evaluate(f"document.activeElement === {PIECES}[1]")
    assert tab.evaluate(f"{PIECES}.map(one => one.tabIndex).indexOf(0)") == 1
    assert detail(tab) != first
    tab.press("End")
    assert tab.evaluate(f"document.activeElement === {PIECES}.at(-1)")
    tab.press("Escape")
    assert detail(tab) == ""
    assert tab.evaluate("document.activeElement.id") == "text"
    # the colors of one expert alone
    before = tab.evaluate(f"{PIECES}.map(one => one.style.background)")
    tab.evaluate("document.querySelectorAll('#experts button')[1].focus()")
    tab.press("Enter")
    assert (
        tab.evaluate("document.querySelectorAll('#experts button')[1].getAttribute('aria-pressed')") == "true"
    )
    strength = tab.evaluate(
        f"{PIECES}.map(one => [one.weights[1], Number(one.style.background.match(/[\\d.]+(?=\\))/)[0])])"
    )
    assert all(abs(seen - 0.45 * weight) <= 0.006 for weight, seen in strength)
    tab.press("Enter")
    assert tab.evaluate(f"{PIECES}.map(one => one.style.background)") == before


def test_the_base_alone_is_plain_text(tab: chromium.Tab, served: Served):
    opened(tab, served, width=360, dark=True)
    tab.evaluate("document.querySelector('#model').value = 'tiny-base'")
    say(tab, "the lazy dog")
    assert tab.evaluate("document.querySelector('.assistant').textContent") != ""
    assert tab.evaluate("document.querySelectorAll('.piece').length") == 0
    assert tab.evaluate("document.querySelector('#experts').hidden")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
