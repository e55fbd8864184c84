"""Writes the pages that follow from the code: of API for each face and room, of config keys for each command.

They stand in folders of docs/reference that are not under version control.
"""

import pkgutil
from importlib import import_module
from pathlib import Path

from sphinx.application import Sphinx

PACKAGES = ("jaxmoe", "rl", "evals", "training")
# packages whose `__all__` is what users import
FACES = ("jaxmoe", "rl", "evals.psychometrics", "evals.questionnaires", "evals.faithfulness")
# runs inside transformers, with torch
LEFT_OUT = ("jaxmoe.weights.hf",)


def rooms() -> dict[str, list[str]]:
    """Each package and subpackage with the modules that stand directly in it."""
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
    for name in module.__all__:
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
        lines += ["   :show-inheritance:", "```", ""]
    return "\n".join(lines)


def commands() -> dict[str, tuple[str, str, str]]:
    """Every command that has a config, the studies of `reproduce` too: module, schema, what it does."""
    from training.__main__ import CONFIGS
    from training.commands import COMMANDS, reproduce
    from training.runtime.config_help import summary

    found = {name: (*config, summary(COMMANDS[name])) for name, config in CONFIGS.items()}
    text = "The study of the same name; see [](../../guides/reproduce.md)."
    return found | {f"reproduce {name}": (*config, text) for name, config in reproduce.CONFIGS.items()}


def command_page(name: str, module: str, schema: str, summary: str) -> str:
    """A command's page: its summary and its keys."""
    return f"# {name}\n\n{summary}\n\n```{{config-keys}} {module} {schema}\n```\n"


def write(folder: Path, pages: dict[str, str]) -> None:
    """Writes what has changed and removes what is no more."""
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
    pages = {name.replace(" ", "-"): command_page(name, *command) for name, command in commands().items()}
    write(reference / "commands", pages)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the hook."""
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
