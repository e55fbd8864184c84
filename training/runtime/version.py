"""Which version of this library runs; pyproject.toml is the one place that says so."""

import tomllib
from importlib import metadata
from pathlib import Path


def version() -> str:
    """The installed package's version; in a checkout that is not installed, that of its pyproject.toml."""
    beside = Path(__file__).parents[2] / "pyproject.toml"
    if beside.is_file():
        return tomllib.loads(beside.read_text(encoding="utf-8"))["project"]["version"]
    return metadata.version("jaxmoe")
