"""Puts a paper's claims to the test, cell by cell, and writes the results.

    OUT/STUDY.json, OUT/STUDY.html, OUT/figures/*.svg   the result
    OUT/cells/STUDY/*.json                              one file per cell; the same command resumes from them
    OUT/compiled/                                       compiled programs, shared by cells of the same shapes

`all` runs the studies one after another and puts them on one page, OUT/reproduce.html.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from jaxmoe.json_values import JsonMapping, JsonObject
from training.runtime import config as configs
from training.runtime.atomic import write_whole
from training.runtime.config_help import config_of
from training.runtime.stop import StopRequest
from training.studies import STUDIES
from training.studies import page as pages
from training.studies.cells import PaperStudy, Store, finished, run_cells


def reproduce(
    name: str, out: Path, config: str | Path | None, overrides: Sequence[str], *, report_only: bool = False
) -> bool:
    """Runs one study or all of them, and writes their files.

    Args:
      name: name of a study, or "all".
      out: folder for all files.
      config: file or short name; by default the study's own.
      overrides: key=value settings.
      report_only: run nothing; report on the finished cells.
    Returns: whether every cell is done.
    Raises: ValueError for an unknown study, or for overrides with `all`.
    """
    if name not in (*STUDIES, "all"):
        raise ValueError(f"a study is one of {', '.join(STUDIES)}, or all; got {name!r}")
    if name == "all" and (config is not None or overrides):
        raise ValueError("overrides and --config belong to one study; run the studies one by one with them")
    done, written = True, []
    for each in STUDIES if name == "all" else (name,):
        study = make(each, out, config, overrides)
        with compiled_kept(out / "compiled"):
            complete, page = run_study(study, out, report_only=report_only)
        done, written = done and complete, [*written, page]
        if not complete and not report_only:
            break
    if name == "all":
        pages.write(written, out / "reproduce.html", out / "figures")
        Console(markup=False, emoji=False).print(f"{out / 'reproduce.html'}", highlight=False)
    return done


@contextmanager
def compiled_kept(folder: Path) -> Iterator[None]:
    """Lets cells share compiled programs: each cell is a separate run, and a short run spends more time on
    compiling than on computing. If JAX_COMPILATION_CACHE_DIR is set, that folder is used instead."""
    config: Any = jax.config  # its attributes are created at run time
    if config.jax_compilation_cache_dir is not None:
        yield
        return
    settings = {
        "jax_compilation_cache_dir": str(folder.absolute()),
        "jax_persistent_cache_min_compile_time_secs": 0.5,
    }
    before = {name: getattr(config, name) for name in settings}
    _update(settings)
    try:
        yield
    finally:
        _update(before)


def _update(settings: JsonMapping) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # else the first compiled program would have decided for all


def make(name: str, out: Path, config: str | Path | None, overrides: Sequence[str]) -> PaperStudy:
    """The study with its config.

    Args:
      name: name of a study.
      out: folder for all files.
      config: file or short name; by default the study's own.
      overrides: key=value settings.
    Returns: the study.
    """
    module = import_module(STUDIES[name])
    where = config_of(STUDIES[name], "make")
    assert where is not None, f"{STUDIES[name]} has no make(config: ...)"
    schema = getattr(import_module(where[0]), where[1])
    return module.make(configs.load(schema, config or f"reproduce/{name}", overrides), out)


def run_study(study: PaperStudy, out: Path, *, report_only: bool = False) -> tuple[bool, pages.Page]:
    """Runs a study's missing cells, then writes its JSON, figures and page.

    Args:
      study: the study with its config.
      out: folder for its files.
      report_only: run nothing.
    Returns: whether every cell is done, and the page.
    """
    console = Console(markup=False, emoji=False, soft_wrap=True)
    store = Store(out / "cells" / study.name, commit())

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    if not report_only:
        with StopRequest(lambda step: False) as stop:
            run_cells(study, store, say, lambda: stop.granted(0))
    results, cells = finished(study, store)
    card = run_card(len(results), len(cells), store.seconds(cells))
    if commits := store.commits(cells):
        card["cells made by"] = ", ".join(commits)
    summary = {"study": study.name, "run": card}
    summary |= study.summary(results)
    write_whole(out / f"{study.name}.json", json.dumps(summary, indent=1) + "\n")
    page = study.page(summary)
    pages.write([page], out / f"{study.name}.html", out / "figures")
    end = (
        ""
        if len(results) == len(cells)
        else f"; stopped after {len(results)} of {len(cells)} cells: the same command resumes it"
    )
    say(f"{study.name}: {out / f'{study.name}.html'}{end}")
    return len(results) == len(cells), page


def run_card(done: int, cells: int, seconds: float) -> JsonObject:
    """What is needed to reproduce a result: command, commit, machine, date; and how much of it exists.

    Args:
      done: number of cells that have a result.
      cells: number of cells in the study.
      seconds: how long they took together.
    Returns: plain JSON.
    """
    words = [shlex.quote(word) for word in sys.argv[1:] if word != "--report-only"]  # it runs nothing
    return {
        "command": " ".join(["python -m training", *words]),
        "commit": commit(),
        "machine": machine(),
        "date": date.today().isoformat(),
        "cells": f"{done} of {cells}",
        "minutes": round(seconds / 60, 1),
    }


def commit() -> str:
    """The checkout's commit, with a + if files differ from it; "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def machine() -> str:
    """Processor, cores, accelerator, versions."""
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    chips = "no accelerator" if device.platform == "cpu" else f"{jax.device_count()} x {device.device_kind}"
    return (
        f"{cores} cores of {_processor()}, {chips}; Python {platform.python_version()}, jax {jax.__version__}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
