"""Checks which filed results the current code would still produce: python docs/results/provenance.py

A result depends on the functions, classes and constants that its command reaches, on configs and on data.
Their hash is recorded when the result is filed; a test names every result whose hash has changed since.
Comments, layout, docstrings, annotations, error messages and the position of a definition do not count.

    python docs/results/provenance.py                        what is current, what is not
    python docs/results/provenance.py file demo.json         after the command was run and the result written
    python docs/results/provenance.py stale demo.json WHY    it cannot be run again today; its page says so
"""

import argparse
import ast
import hashlib
import json
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGES = ("jaxmoe", "rl", "evals", "training", "benchmarks")
RECORD = HERE / "provenance.json"
EMBEDDED = ("jaxmoe/datasets/**/*.csv", "jaxmoe/datasets/**/*.json")
# Code that moves files in and out, draws and writes pages: it changes no number and has tests of its own.
OUTSIDE = (
    "jaxmoe.adapters",
    "jaxmoe.base_folder",
    "jaxmoe.cache",
    "jaxmoe.export",
    "jaxmoe.named_models",
    "jaxmoe.weights",
    "training.plots",
    "training.runtime.checkpoint",
    "training.studies.page",
)
QUESTIONNAIRES = ("evals/questionnaires/**/*.csv", "evals/questionnaires/**/*.json")


class Depends(NamedTuple):
    """What a result comes from.

    Attributes:
      command: the command that produces it.
      start: `module` or `module:name` that the command runs first.
      files: globs of the configs and data it uses.
    """

    command: str
    start: tuple[str, ...]
    files: tuple[str, ...] = ()


def _plan(config: str) -> Depends:
    command = f"python -m training plan --config configs/sft/{config}.yaml"
    return Depends(command, ("training.commands.plan",), (f"configs/sft/{config}.yaml",))


def _study(name: str, *configs: str, config: str = "") -> Depends:
    """A study with its own config or another one; `configs` are those that this config names."""
    files = tuple(f"configs/reproduce/{one}.yaml" for one in (config or name, *configs))
    start = (f"training.studies.{name}.study",)
    chosen = f" --config reproduce/{config}" if config else ""
    command = f"python -m training reproduce {name}{chosen} --out runs/{config or 'reproduce'}"
    return Depends(command, start, (*files, *EMBEDDED))


# Benchmarks with their own result file, and what they start.
APART = ("faults", "fuzz_readers", "sandbox", "sandbox_peers")
RESULTS = {
    "answers.json": Depends(
        "python -m evals.questionnaires.reading_accuracy tests/goldens/answers.jsonl",
        ("evals.questionnaires.reading_accuracy",),
        ("tests/goldens/answers.jsonl", "evals/questionnaires/templates.json"),
    ),
    "demo.json": Depends(
        "make demo", ("training.demo.pretrained",), ("configs/demo/pretrained/*.yaml", *EMBEDDED)
    ),
    "demo_scratch.json": Depends(
        "make demo demo=scratch", ("training.demo.scratch",), ("configs/demo/scratch/*.yaml", *EMBEDDED)
    ),
    "faults.json": Depends("make faults", ("benchmarks.faults",)),
    "null_study.json": Depends(
        "python -m evals.faithfulness.null_study --seeds 100 --workers 2 "
        "--output docs/results/null_study.json",
        ("evals.faithfulness.null_study",),
        QUESTIONNAIRES,
    ),
    "plan_llama2_7b_h100.json": _plan("llama2_7b_h100"),
    "plan_llama2_7b_v5e_16.json": _plan("llama2_7b_v5e_16"),
    "plan_llama2_7b_v5e_64.json": _plan("llama2_7b_v5e_64"),
    "ppo_quickstart.json": Depends(
        "python -m training ppo --config configs/ppo/quickstart.yaml",
        ("training.ppo.train",),
        ("configs/pretrain/code_small.yaml", "configs/ppo/quickstart.yaml"),
    ),
    "ppo_smollm2.json": Depends(
        "python -m training ppo --config configs/ppo/smollm2.yaml seed=0 (and 1)",
        ("training.ppo.train", "training.suites.coding"),
        ("configs/ppo/smollm2.yaml",),
    ),
    "reproduce/loramoe/loramoe.json": _study("loramoe", "base"),
    "reproduce/loramoe_smollm2/loramoe.json": _study("loramoe", config="loramoe_smollm2"),
    "reproduce/loramoe_smollm2_instructions/loramoe.json": _study(
        "loramoe", config="loramoe_smollm2_instructions"
    ),
    "reproduce/loramoe_smollm2_long/loramoe.json": _study("loramoe", config="loramoe_smollm2_long"),
    "reproduce/realbehavior/realbehavior.json": _study("realbehavior", "base", "code_base"),
    "reproduce/realbehavior_smollm2/realbehavior_pretrained.json": Depends(
        "python -m training reproduce realbehavior --config reproduce/realbehavior_smollm2 "
        "--out runs/reproduce",
        ("training.studies.realbehavior.pretrained",),
        (
            "configs/reproduce/realbehavior_smollm2.yaml",
            "configs/demo/pretrained/*.yaml",
            *QUESTIONNAIRES,
            *EMBEDDED,
        ),
    ),
    "reproduce/stepcoder/stepcoder.json": _study("stepcoder", "code_base"),
    "reproduce/stepcoder_branches/stepcoder.json": _study(
        "stepcoder", "branches_base", config="stepcoder_branches"
    ),
    "reproduce/stepcoder_smollm2/stepcoder.json": _study("stepcoder", config="stepcoder_smollm2"),
    "sandbox.json": Depends(
        "python -m benchmarks.sandbox --problems HumanEval.jsonl.gz --peers PYTHON --file",
        ("benchmarks.sandbox",),
    ),
    # made with the code at its commit; what changed since, the tests have tried with fewer files
    "fuzz_readers.json": Depends("python -m benchmarks.fuzz_readers --file", ("benchmarks.fuzz_readers",)),
    "speed.json": Depends(
        "make bench",
        tuple(
            sorted(
                f"benchmarks.{path.stem}"
                for path in (ROOT / "benchmarks").glob("*.py")
                if path.stem not in APART
            )
        ),
    ),
}


class Module(NamedTuple):
    """Definitions of a module by name, and what its imported names refer to."""

    defined: dict[str, ast.stmt]
    imported: dict[str, str]


def parse(source: str) -> Module:
    """The definitions and imports of a module; imports inside functions and under TYPE_CHECKING count too."""
    tree, defined, imported = ast.parse(source), {}, {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                defined |= {n.id: node for n in ast.walk(target) if isinstance(n, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                imported[alias.asname or first] = alias.name if alias.asname else first
    return Module(defined, imported)


class _Plain(ast.NodeTransformer):
    """Removes what does not affect behavior."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._without_docstring(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._without_docstring(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Name("_", ast.Load())
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return node

    def _without_docstring(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return self.generic_visit(node)


@cache
def plain(node: ast.stmt) -> str:
    """A definition as text, without the parts that do not count."""
    return ast.dump(_Plain().visit(ast.parse(ast.unparse(node)).body[0]))


def reached(start: tuple[str, ...], modules: dict[str, Module]) -> dict[str, ast.stmt]:
    """Every definition reachable from `start`, by `module.name`, as far as names show it.

    Methods are not separated: a class is reached as a whole. Anything looked up by a string alone is missed.
    """
    found: dict[str, ast.stmt] = {}
    seen: set[str] = set()  # names form cycles where a package's __init__ imports its own modules
    waiting: list[str] = []
    for one in start:
        module, _, name = one.partition(":")
        waiting += [f"{module}.{n}" for n in ([name] if name else modules[module].defined)]
    while waiting:
        full = waiting.pop()
        if full in seen:
            continue
        seen.add(full)
        module, name = _home(full, modules)
        if f"{module}.{name}" in found or module not in modules or module.startswith(OUTSIDE):
            continue
        here = modules[module]
        if name in here.imported and name not in here.defined:
            waiting.append(here.imported[name])
        elif name in here.defined:
            found[f"{module}.{name}"] = here.defined[name]
            for used in _names(here.defined[name]):
                first, _, rest = used.partition(".")
                if first in here.defined:
                    waiting.append(f"{module}.{first}")
                elif first in here.imported:
                    waiting.append(f"{here.imported[first]}.{rest}".rstrip("."))
    return found


def _home(full: str, modules: dict[str, Module]) -> tuple[str, str]:
    """The longest module that a dotted name begins with, and the name after it."""
    parts = full.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        if ".".join(parts[:cut]) in modules:
            return ".".join(parts[:cut]), parts[cut]
    return "", full


def _names(node: ast.AST) -> set[str]:
    """Dotted names used in a definition."""
    found = set()
    for one in ast.walk(node):
        parts: list[str] = []
        inner: ast.AST = one
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            found.add(".".join([inner.id, *reversed(parts)]))
    return found


@cache
def project() -> dict[str, Module]:
    """All modules of the packages, parsed."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = parse(path.read_text(encoding="utf-8"))
    return found


def fingerprint(depends: Depends, modules: dict[str, Module], root: Path = ROOT) -> str:
    """The hash of everything that a result comes from.

    Raises: ValueError if the command's start or a glob matches nothing.
    """
    found = reached(depends.start, modules)
    if not found:
        raise ValueError(f"nothing is reached from {depends.start}")
    parts = sorted(f"{name.rsplit('.', 1)[-1]} {plain(node)}" for name, node in found.items())
    for pattern in depends.files:
        paths = sorted(root.glob(pattern))
        if not paths:
            raise ValueError(f"no file matches {pattern}")
        for path in paths:
            text = path.read_text(encoding="utf-8")
            content = json.dumps(yaml.safe_load(text)) if path.suffix == ".yaml" else text
            parts.append(f"{path.name} {content}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def record() -> dict[str, dict[str, str]]:
    """By result: the hash of what produced it, and why it is stale, if it is."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def problem(name: str) -> str:
    """How a result differs from its record; empty if it does not."""
    entry, depends = record().get(name), RESULTS[name]
    if entry is None:
        return f"{name} has no record; file it: python docs/results/provenance.py file {name}"
    same = entry["hash"] == fingerprint(depends, project())
    if entry["stale"]:
        return f"{name} is marked stale but is not; file it" if same else ""
    if same:
        return ""
    return (
        f"{name} was made by other code, config or data: run `{depends.command}` and file it, or mark it "
        f"(python docs/results/provenance.py stale {name} WHY)"
    )


def note(name: str) -> str:
    """What a page says about a stale result; empty if the result is current."""
    reason = record().get(name, {}).get("stale", "")
    return f"*Not measured with the current code: {reason}.*" if reason else ""


def notes(pattern: str) -> str:
    """The notes of all results whose names match a glob, each once."""
    said = (note(name) for name in RESULTS if fnmatch(name, pattern))
    return "\n\n".join(dict.fromkeys(one for one in said if one))


def _write(name: str, stale: str) -> None:
    found = record()
    found[name] = {"hash": fingerprint(RESULTS[name], project()), "stale": ""}
    if stale:
        found[name] = {"hash": "", "stale": stale}
    RECORD.write_text(json.dumps(dict(sorted(found.items())), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("show", "file", "stale"), nargs="?", default="show")
    parser.add_argument("name", choices=sorted(RESULTS), nargs="?")
    parser.add_argument("why", nargs="?", default="")
    given = parser.parse_args()
    if given.what == "show":
        for result in RESULTS:
            print(problem(result) or f"{result} {note(result) or 'is current'}")
    elif given.name is None or (given.what == "stale") != bool(given.why):
        parser.error("give the result's name; and for a stale one why it cannot be run again")
    else:
        _write(given.name, given.why)
