"""One self-contained HTML page for one or more studies, and its figures as separate SVG files.

Each study decides what its page contains (`PaperStudy.page`).
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple

import jinja2
import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from jaxmoe.json_values import JsonObject

ClaimOutcome = Literal["shown", "not shown", "refuted at this scale"]


class ClaimVerdict(NamedTuple):
    """A claim, its outcome, and the evidence it was judged by.

    Attributes:
      paper: the paper's own figures, and how reliably they are known.
    """

    claim: str
    outcome: ClaimOutcome
    evidence: str
    paper: str = ""


class PageTable(NamedTuple):
    """Cells are text; every column but the first is right-aligned."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False


class Picture(NamedTuple):
    """A figure: its file name without suffix, what it shows, and the drawing."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class PageSection:
    """A part of the page: paragraphs, then verdicts, pictures and tables."""

    title: str
    text: Sequence[str] = ()
    verdicts: Sequence[ClaimVerdict] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[PageTable] = ()


@dataclass(frozen=True)
class Page:
    """A study's page.

    Attributes:
      warning: what a reader must know first, for example that it is a plumbing run; may be empty.
      card: seeds, time, machine, command, commit.
    """

    title: str
    question: str
    card: JsonObject
    sections: list[PageSection] = field(default_factory=list)
    warning: str = ""


def plumbing(scale: float) -> str:
    """The warning on a page of a scaled-down study."""
    if scale == 1:
        return ""
    return (
        f"Plumbing run at scale {scale:g}: it shows that the machinery works, and nothing about the methods."
    )


def write(pages: Sequence[Page], path: Path, figures: Path) -> None:
    """Writes the page of one or more studies to `path`, and every figure into a folder.

    Args:
      pages: the pages, in order.
      path: path of the HTML file.
      figures: folder for the figures.
    """
    figures.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, str] = {}
    for picture in (p for page in pages for section in page.sections for p in section.pictures):
        drawn[picture.name] = svg(picture.figure, picture.caption)
        (figures / f"{picture.name}.svg").write_text(drawn[picture.name], encoding="utf-8")
    source = (resources.files("training.studies") / "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    path.write_text(environment.from_string(source).render(pages=pages, drawn=drawn), encoding="utf-8")


def svg(figure: Figure, description: str) -> str:
    """A figure as SVG with text kept as text; the same figure always gives the same bytes.

    Args:
      figure: any figure.
      description: for readers who cannot see it.
    Returns: the SVG element, ready to embed in a page.
    """
    FigureCanvasSVG(figure)
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxmoe"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    label = escape(description)
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', text, count=1)
