"""One self-contained HTML page on behavior, with its tables as CSV, LaTeX and APA text, its figures as SVG.

    FOLDER/report.html              everything; opens without a network, in light and dark
    FOLDER/tables/*.csv .tex .txt   each table alone: with all digits, for LaTeX, and as APA sentences
    FOLDER/figures/*.svg            each figure alone, with colors of its own
    FOLDER/tables.json              all tables, and the run card

Not covered: what a report contains (report_contents), how each section is written (report_sections).
"""

import base64
import gzip
import json
import re
from importlib import resources
from pathlib import Path

import jinja2

from evals.faithfulness.chart_style import DARK, LIGHT, rules, standalone, standalone_rules, variables
from evals.faithfulness.report_contents import Report
from evals.faithfulness.report_sections import ReportSection, sections
from evals.faithfulness.table_exports import exports


def write_report(report: Report, folder: Path) -> Path:
    """Writes report.html, tables.json, and the tables and figures as files.

    Args:
      report: as `FaithfulnessStudy.report` makes it.
      folder: where to write; created if absent.
    Returns: the page's path.
    Raises: OSError if the folder cannot be written.

    Example:
      >>> import tempfile, pathlib
      >>> from evals.faithfulness import Report, write_report
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_report(Report("Nothing yet", {}), pathlib.Path(folder)).name
      'report.html'
    """
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    tables = report.tables()
    for name, table in tables.items():
        found = exports(name, table, report.confidence)
        for text, suffix in zip(found, ("csv", "tex", "txt"), strict=True):
            (folder / "tables" / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    parts = sections(report)
    for name, drawing in _figures(parts).items():
        (folder / "figures").mkdir(exist_ok=True)
        (folder / "figures" / f"{name}.svg").write_text(drawing, encoding="utf-8")
    records = {name: json.loads(str(table.to_json(orient="records"))) for name, table in tables.items()}
    text = json.dumps({"card": report.card, "tables": records}, indent=1, ensure_ascii=False, default=str)
    (folder / "tables.json").write_text(text + "\n", encoding="utf-8")
    page = folder / "report.html"
    page.write_text(_render(report, parts), encoding="utf-8")
    return page


def render_report(report: Report) -> str:
    """The page as one string."""
    return _render(report, sections(report))


def _render(report: Report, parts: list[ReportSection]) -> str:
    folder = resources.files("evals.faithfulness")
    source, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.js"))
    texts = {
        name: exports(name, table, report.confidence)._asdict() for name, table in report.tables().items()
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source).render(
        title=report.title,
        card=report.card,
        sections=parts,
        light=variables(LIGHT),
        dark=variables(DARK),
        drawing=rules(),
        standalone=standalone_rules(),
        exports=_packed(json.dumps(texts, ensure_ascii=False)),
        script=script,
    )


def _packed(text: str) -> str:
    """Text as gzip in base64, a fifth of its size: exported tables weigh as much as the rest of the page."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 9, mtime=0)).decode("ascii")


def _figures(parts: list[ReportSection]) -> dict[str, str]:
    """Every figure as an SVG file, named after its title; repeated names are numbered."""
    found: dict[str, str] = {}
    for chart in (chart for part in parts for chart in part.charts):
        name = plain = re.sub(r"[^\w.()-]+", "_", chart.title)[:80]
        number = 1
        while name in found:
            number += 1
            name = f"{plain}_{number}"
        found[name] = standalone(chart)
    return found
