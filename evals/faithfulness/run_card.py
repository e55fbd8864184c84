"""The run card: what a reader must know to repeat a report, and to judge it.

Not covered: which models and questions there were (study, and whoever asks).
"""

import importlib.metadata
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

from evals.faithfulness.criteria import Thresholds
from evals.models.api_spending import read_usage, total


def provenance() -> dict[str, str]:
    """Date, version, commit, Python and command of this process.

    Returns: values by label. The commit is that of the checkout that contains the package, with "and changes"
      where files differ from it; passwords in addresses are left out of the command.
    """
    version = importlib.metadata.version("jaxmoe")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": f"jaxmoe {version}, {_commit()}, Python {sys.version.split()[0]}",
        "command": _command(sys.orig_argv),
    }


def _command(arguments: Sequence[str]) -> str:
    # the interpreter's path is specific to this machine
    text = shlex.join([Path(arguments[0]).name, *arguments[1:]])
    return re.sub(r"(https?://)[^/@\s]+@", r"\1", text)


def _commit() -> str:
    """The commit of the checkout, or that there is none."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # a package installed into another project's checkout does not belong to its commit
        tracked = bool(git("ls-files", Path(__file__).name))
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return "no checkout"
    return f"commit {commit}{' and changes' if changed else ''}" if tracked else "no checkout"


def thresholds_told(limits: Thresholds) -> str:
    """Every threshold by name, those that differ from the defaults marked."""
    default = Thresholds()
    return ", ".join(
        f"{one.name} {getattr(limits, one.name):g}"
        + ("" if getattr(limits, one.name) == getattr(default, one.name) else " (not the default)")
        for one in fields(limits)
    )


def cost_told(*folders: Path) -> str:
    """What answers cost on servers, over all folders, from their usage.json; "no server" without one.

    Args:
      folders: of answers, one per model.
    Returns: the cost, requests and tokens in one line.
    Raises: ValueError if a usage.json is not a record of what was spent.
    """
    paid = [path for folder in folders if (path := folder / "usage.json").is_file()]
    if not paid:
        return "no server"
    usage = total(map(read_usage, paid))
    tokens = f"{usage.prompt_tokens} prompt and {usage.completion_tokens} completion tokens"
    price = f"{usage.cost:.4g}" if usage.cost else "no prices given"
    models = f", {len(paid)} models" if len(paid) > 1 else ""
    return f"{price} for {usage.requests} requests ({tokens}), all sessions{models}"
