"""One self-contained HTML page about behavior, and its tables as CSV and JSON.

    FOLDER/report.html   everything; opens without a network, in light and dark
    FOLDER/tables/*.csv  each table alone
    FOLDER/tables.json   all tables

Not covered: what is in it (report_contents), how each section is put (report_sections).
"""

import json
from importlib import resources
from pathlib import Path

import jinja2

from evals.faithfulness.report_contents import Report
from evals.faithfulness.report_sections import sections


def write_report(report: Report, folder: Path) -> Path:
    """Writes report.html, tables/*.csv and tables.json.

    Args:
      report: as `FaithfulnessStudy.report` makes it.
      folder: where to; made if absent.
    Returns: the page's path.
    Raises: OSError where the folder cannot be written.

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
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
    records = {name: json.loads(str(table.to_json(orient="records"))) for name, table in tables.items()}
    text = json.dumps({"card": report.card, "tables": records}, indent=1, ensure_ascii=False, default=str)
    (folder / "tables.json").write_text(text + "\n", encoding="utf-8")
    page = folder / "report.html"
    page.write_text(render_report(report), encoding="utf-8")
    return page


def render_report(report: Report) -> str:
    """The page as one string."""
    source = (resources.files("evals.faithfulness") / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(source)
    return page.render(title=report.title, card=report.card, sections=sections(report))
