"""The layout rules of the project: which way imports run, what stands where, names."""

import ast
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("jaxmoe", "rl", "evals", "training")
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))

# Top to bottom: a room may import those below it, of its own package and of the packages below that.
# Rooms on one line know nothing of each other.
FLOORS = """
training.__main__
training.commands
training.demo
training.studies
training.planning
training.ppo
training.supervised
training.plots training.suites training.serving
training.runtime
training.data
training

evals.administer evals.import_instruments evals.score evals.study evals.psychometrics.__main__
evals.faithfulness evals.analysis
evals.questionnaires evals.knowledge evals.coding
evals.psychometrics evals.models
evals

rl.stepcoder
rl.policy
rl.sandbox.__main__
rl.hosts
rl.feedback
rl.sandbox
rl

jaxmoe.averaging jaxmoe.export jaxmoe.pretrained
jaxmoe.language_model jaxmoe.tokenizer
jaxmoe.adapters jaxmoe.generation jaxmoe.text
jaxmoe.base_folder
jaxmoe.weights
jaxmoe.families
jaxmoe.model
jaxmoe.named_models
jaxmoe.datasets jaxmoe.cache jaxmoe.given_paths jaxmoe.gzip_files jaxmoe.json_files jaxmoe.progress
jaxmoe.json_values
jaxmoe
"""
FLOOR_OF = {room: floor for floor, line in enumerate(reversed(FLOORS.split("\n"))) for room in line.split()}
# Imports inside functions, each for a reason: what they save at start-up.
DEFERRED = {
    # jax only where there is a model
    ("evals.administer", "jaxmoe"),
    ("evals.administer", "evals.models.engine_texts"),
    ("evals.administer", "evals.models.local_model"),
    ("evals.administer", "evals.models.model_identity"),
    ("evals.administer", "evals.questionnaires.respondents.local_respondent"),
    ("evals.administer", "jaxmoe.tokenizer"),
    # the command line starts without a command's libraries
    ("training.__main__", "training.runtime.config"),
    ("training.commands.plan", "training.planning.plan_run"),
    ("training.commands.plan", "training.planning.plan_serve"),
    ("training.commands.plan", "training.runtime.config"),
    ("training.commands.reproduce", "training.runtime.config"),
    ("training.commands.reproduce", "training.studies.reproduce"),
    # starlette and uvicorn, of the extra `serve`
    ("rl.sandbox.__main__", "rl.hosts.serve"),
    # tensorflow-datasets, where data sets are prepared or made
    ("training.data.sources", "jaxmoe.datasets.builders"),
    ("training.data.sources", "jaxmoe.datasets.instruction_files"),
    ("training.ppo.problems", "jaxmoe.datasets.programs"),
    ("training.ppo.problems", "jaxmoe.datasets.small_functions"),
    # matplotlib, where something is drawn
    ("training.commands.plot", "training.plots.plot_run"),
    ("training.supervised.finish", "training.plots.plot_run"),
}
# Names of classes that two modules have, in lower case, each to be renamed; the list only shrinks.
SAME_NAMES: set[str] = set()
# `Any` may stand so often in the whole project; the number only goes down.
MOST_ANY = 50
# Packages whose `__init__` is what users import.
FACES = ("jaxmoe", "rl", "evals", "evals.psychometrics", "evals.questionnaires", "evals.faithfulness")


class Import(NamedTuple):
    """One import of a module of ours: who imports what, and whether it waits inside a function."""

    importer: str
    imported: str
    deferred: bool


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in SOURCES}


def imports_of(path: Path) -> list[Import]:
    """Every import of ours in a file: at its top, in functions, under TYPE_CHECKING."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from rl.sandbox import values` imports rl.sandbox.values
            both = [(f"{node.module}.{alias.name}", str(node.module)) for alias in node.names]
            names = [full if full in MODULES else module for full, module in both]
        ours = {name for name in names if name.split(".")[0] in PACKAGES}
        found += [Import(module_name(path), name, node in inside) for name in sorted(ours)]
    return found


IMPORTS = [one for path in SOURCES for one in imports_of(path)]


def room(module: str) -> str:
    """A room is a folder of a package; one that is a command too has that command on a floor of its own."""
    return module if module in FLOOR_OF else ".".join(module.split(".")[:2])


def identifier(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_room_has_a_floor():
    assert {room(module) for module in MODULES} == set(FLOOR_OF)


def test_every_import_is_of_a_module_that_is_there():
    assert [one for one in IMPORTS if one.imported not in MODULES] == []


def test_imports_run_downwards():
    """Deferred and TYPE_CHECKING imports too; a package's `__init__` names its face and stands apart."""
    upwards = [
        f"{one.importer} imports {one.imported}"
        for one in IMPORTS
        if one.importer not in PACKAGES
        and room(one.importer) != room(one.imported)
        and FLOOR_OF[room(one.imported)] >= FLOOR_OF[room(one.importer)]
    ]
    assert upwards == []


def test_no_import_circles():
    """Within a room as well; faces are left out: they only name what is inside."""
    graph = {module: {one.imported for one in IMPORTS if one.importer == module} for module in MODULES}
    for face in FACES:
        graph[face] = set()
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]):
        assert name not in trail, f"import circle: {' -> '.join((*trail, name))}"
        if name not in done:
            for target in graph[name] - {name}:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_deferred_imports_are_those_that_save_time():
    deferred = {(one.importer, one.imported) for one in IMPORTS if one.deferred}
    assert deferred == DEFERRED


@pytest.mark.parametrize("path", sorted((ROOT / "jaxmoe" / "datasets").rglob("*.py")), ids=identifier)
def test_datasets_import_nothing_of_ours_but_themselves(path: Path):
    assert all(one.imported.startswith("jaxmoe.datasets") for one in imports_of(path))


@pytest.mark.parametrize("path", SOURCES, ids=identifier)
def test_only_training_reads_yaml(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imports |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    if path.relative_to(ROOT).parts[0] != "training":
        assert "yaml" not in imports, f"{identifier(path)} reads YAML"


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=identifier)
def test_folders_are_rooms(folder: Path):
    """None that is crowded, none that one only passes through."""
    modules = [p for p in folder.glob("*.py") if p.name != "__init__.py"]
    assert len(modules) <= 24, f"{identifier(folder)} holds {len(modules)} modules"
    if folder.parent != ROOT and not modules:
        assert any(p.is_file() and p.suffix != ".py" for p in folder.iterdir()), (
            f"{identifier(folder)} is empty"
        )


@pytest.mark.parametrize("path", SOURCES, ids=identifier)
def test_names_say_something(path: Path):
    assert not {"utils", "common", "misc", "helpers"} & set(path.with_suffix("").parts[-2:])


@pytest.mark.parametrize("path", SOURCES, ids=identifier)
def test_modules_open_with_a_docstring(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{identifier(path)} lacks one"


def test_tests_mirror_the_packages():
    """tests/rl/sandbox/ holds the tests of rl/sandbox/; no test file lies elsewhere."""
    here = ROOT / "tests"
    for path in sorted(here.rglob("test_*.py")):
        folder = path.parent.relative_to(here)
        assert folder == Path() or (ROOT / folder).is_dir(), f"{identifier(path)} mirrors no folder"


def public_classes(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]


def test_no_two_public_classes_of_one_name():
    """Upper and lower case alike: PPOConfig and PpoConfig are one name to a reader."""
    homes: dict[str, set[str]] = {}
    for path in SOURCES:
        for name in public_classes(path):
            homes.setdefault(name.lower(), set()).add(f"{module_name(path)}.{name}")
    twice = {name: places for name, places in homes.items() if len(places) > 1}
    assert twice.keys() == SAME_NAMES, twice


def lines_with_any(path: Path) -> list[int]:
    """Lines whose code names `Any`; where the values are a program's own, only where it stands alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.relative_to(ROOT).parts[:2] not in (("rl", "sandbox"), ("rl", "feedback")):
        return [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == "Any"]
    notes: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            notes.append(node.returns)
        elif isinstance(node, ast.AnnAssign | ast.arg):
            notes.append(node.annotation)
    return [note.lineno for note in notes if isinstance(note, ast.Name) and note.id == "Any"]


def test_few_things_may_be_anything():
    found = {identifier(path): lines for path in SOURCES if (lines := lines_with_any(path))}
    count = sum(map(len, found.values()))
    assert count <= MOST_ANY, f"Any {count} times, {MOST_ANY} allowed; name the type: {found}"


@pytest.mark.parametrize("path", [p for p in SOURCES if lines_with_any(p)], ids=identifier)
def test_what_may_be_anything_says_why(path: Path):
    """In a comment on the line, or on the line above it."""
    with path.open("rb") as file:
        comments = {t.start[0] for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT}
    assert [line for line in lines_with_any(path) if not comments & {line, line - 1}] == []


@pytest.mark.parametrize("path", SOURCES, ids=identifier)
def test_layout_is_the_formatters(path: Path):
    """A line that the formatter may not touch hides a line that wants another shape."""
    assert not re.search(r"#\s*fmt:\s*(skip|off)", path.read_text(encoding="utf-8")), identifier(path)
