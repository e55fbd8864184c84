"""Executes tutorials, each in an empty folder, and keeps their outputs for the next docs build.

    python docs/tutorials/execute.py docs/tutorials/01_loramoe.md ...

Prints one JSON line for each, with processor and wall-clock seconds. The outputs go to the cache that
docs/conf.py names; Sphinx finds them there as long as the code cells do not change.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.read import read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig

DOCS = Path(__file__).parents[1]
CACHE = DOCS / "_build" / ".jupyter_cache"
CELL_TIMEOUT_S = 1800


def environment() -> None:
    """Gives notebooks the console script of this Python and the checkout's packages."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["PYTHONPATH"] = os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")])


def read(path: Path) -> nbformat.NotebookNode:
    """A tutorial as a notebook, the way Sphinx reads it."""
    notebook = read_myst_markdown_notebook(
        path.read_text(), config=MdParserConfig(), add_source_map=True, path=path
    )
    assert notebook is not None, f"{path} is no notebook"
    return notebook


def execute(path: Path) -> dict[str, float | str]:
    """Runs a tutorial and keeps its outputs.

    Raises: nbclient's CellExecutionError if a cell fails.
    """
    notebook = read(path)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = single_nb_execution(notebook, cwd=folder, timeout=CELL_TIMEOUT_S, allow_errors=False)
    if result.err is not None:
        raise result.err
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    get_cache(CACHE).cache_notebook_bundle(
        CacheBundleIn(notebook, str(path), data={"execution_seconds": result.time}),
        check_validity=False,
        overwrite=True,
    )
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"tutorial": path.stem, "processor_s": used, "clock_s": time.perf_counter() - started}


if __name__ == "__main__":
    environment()
    for name in sys.argv[1:]:
        print(json.dumps(execute(Path(name))), flush=True)
