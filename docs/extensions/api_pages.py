"""Writes the pages that follow from the code: API pages for each face and room, config keys for each command.

They go into folders of docs/reference that are not under version control.
"""

import pkgutil
from importlib import import_module
from pathlib import Path

from sphinx.application import Sphinx

PACKAGES = ("jaxmoe", "rl", "evals", "training")
# packages whose `__all__` is what users import
FACES = ("jaxmoe", "rl", "evals.psychometrics", "evals.questionnaires", "evals.faithfulness")
# runs inside transformers and needs torch
LEFT_OUT = ("jaxmoe.weights.hf",)


def rooms() -> dict[str, list[str]]:
    """Each package and subpackage with the modules directly in it."""
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        found[package] = []
        for info in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if info.name.startswith(LEFT_OUT) or info.name.endswith("__main__"):
                continue
            if info.ispkg:
                found.setdefault(info.name, [])
            else:
                found.setdefault(info.name.rpartition(".")[0], []).append(info.name)
    return {room: modules for room, modules in found.items() if modules}


def face_page(face: str) -> str:
    """A face's page: its docstring, then every name in its `__all__`."""
    module = import_module(face)
    lines = [f"# {face}", "", "```{eval-rst}", f".. automodule:: {face}", "   :no-members:", "", "```", ""]
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        is_class = isinstance(value, type)
        kind = "autoclass" if is_class else "autofunction" if callable(value) else "autodata"
        lines += ["```{eval-rst}", f".. {kind}:: {face}.{name}", *["   :members:"] * is_class, "```", ""]
    return "\n".join(lines)


def room_page(room: str, modules: list[str]) -> str:
    """A room's page: what it is for, then each module with its public names."""
    about = (import_module(room).__doc__ or "").strip().split("\n\n")[0]
    lines = [f"# {room}", "", about, ""]
    for module in modules:
        lines += [f"## {module}", "", "```{eval-rst}", f".. automodule:: {module}", "   :members:"]
        lines += ["   :show-inheritance:", "   :ignore-module-all:", "```", ""]
    return "\n".join(lines)


def help_of(name: str) -> str:
    """What `jaxmoe COMMAND --help` prints before the keys."""
    from typer.testing import CliRunner

    from training.__main__ import app

    printed = CliRunner().invoke(app, [name, "--help"], prog_name="jaxmoe").output
    return printed.split("\nKeys of the config")[0].strip()


def commands() -> dict[str, str]:
    """A page for every command: what it does, then the keys of its config or configs."""
    from training.__main__ import CONFIGS
    from training.commands import COMMANDS
    from training.runtime.config_help import summary

    pages = {}
    for name, module in COMMANDS.items():
        own = {"": CONFIGS[name]} if name in CONFIGS else getattr(import_module(module), "CONFIGS", {})
        lines = [f"# {name}", "", f"`jaxmoe {name}`: {summary(module)}", ""]
        for title, (where, schema) in own.items():
            lines += [f"## {title}", ""] if title else []
            lines += [f"```{{config-keys}} {where} {schema}", "```", ""]
        if name not in CONFIGS:
            lines += ["```text", help_of(name), "```", ""]
        pages[name] = "\n".join(lines)
    return pages


def write(folder: Path, pages: dict[str, str]) -> None:
    """Writes pages that have changed and removes pages that no longer exist."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.md"):
        if path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def generate(app: Sphinx) -> None:
    """builder-inited: before Sphinx looks for pages."""
    reference = Path(app.srcdir) / "reference"
    write(reference / "faces", {face: face_page(face) for face in FACES})
    write(reference / "rooms", {room: room_page(room, modules) for room, modules in rooms().items()})
    write(reference / "commands", commands())


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the hook."""
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
