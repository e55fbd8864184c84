"""Small code problems made from seeds, and the text on which a small code model is pretrained.

A problem is a pipeline of one to three branching rules over a number or a list: "If it is even, halve it.
Twice, grow it if it is small." Some words are clear (even, halve), others mean something that nobody tells:
"grow" is +3. The pretraining text is code by authors who guess: each unclear word stands for its real meaning
in 35 % of the programs, and a misreading is commoner. So a pretrained model writes the right program now and
then, its likeliest one is wrong, and what "grow" means can be learned from the tests alone.

Problems of the kind `branches` are one rule of two to four cases instead, so that one test leaves much of a
program unexecuted: "If it is even, halve it, if it is large, grow it, otherwise flip it."

Tests are chosen by mutation: for each program that misreads one word there is a test that it fails, if one of
sixty random inputs tells the two apart. As APPS+ JSON: `python -m jaxmoe.datasets.programs FILE`.
"""

import argparse
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from jaxmoe.datasets.formats.fields import Row

Value = int | list[int]
Kind = Literal["rules", "branches"]
Tests = tuple[list[list[Value]], list[Value | None]]  # arguments of each call, and what is returned

# word -> what it means, then how it is misread; `x` is the value
CONDITIONS: dict[str, tuple[str, ...]] = {
    "even": ("x % 2 == 0",),
    "odd": ("x % 2 == 1",),
    "negative": ("x < 0",),
    "positive": ("x > 0",),
    "large": ("x > 20", "x > 10", "x > 50"),
    "small": ("x < 5", "x < 10", "x < 3"),
    "round": ("x % 10 == 0", "x % 5 == 0", "x % 4 == 0"),
    "lucky": ("x % 7 == 0", "x % 3 == 0", "x == 7"),
}
ACTIONS: dict[str, tuple[str, ...]] = {
    "halve": ("x // 2",),
    "double": ("x * 2",),
    "flip": ("-x",),
    "mirror": ("10 - x",),
    "grow": ("x + 3", "x + 10", "x + 1"),
    "shrink": ("x - 4", "x - 1", "x - 10"),
    "stretch": ("x * 3", "x * 4", "x * 5"),
    "squeeze": ("x // 3", "x // 4", "x // 5"),
}
COUNTS: dict[str, tuple[str, ...]] = {"Twice": ("2",), "Three times": ("3",), "A few times": ("4", "3", "5")}
# A while loop ends soon however its words are read: these conditions fail at 0, these actions get there.
HIGH, DOWN = ("large", "positive"), ("halve", "squeeze")
MEANING_SHARES = (0.35, 0.40, 0.25)
RULES = {"easy": (1, 1), "medium": (2, 2), "hard": (3, 3)}
DIFFICULTIES = tuple(RULES)


class Form(NamedTuple):
    """A kind of rule: its wordings and its code, over slots: conditions, actions and counts (`SLOTS`).

    In the code a small letter stands for the word, a capital for what it means.
    """

    wordings: tuple[str, ...]
    code: str
    slots: str
    value: str  # what x is in the code
    commented: bool = False  # the code says in comments of its own what is wanted


NUMBER_FORMS = {
    "if": Form(("If it is {c}, {a} it.", "When {c}, {a} it."), "if {C}:\n    n = {A}", "ca", "n"),
    "else": Form(
        ("If it is {c}, {a} it, otherwise {b} it.", "When {c}, {a} it, else {b} it."),
        "if {C}:\n    n = {A}\nelse:\n    n = {B}",
        "cab",
        "n",
    ),
    "while": Form(("While it is {h}, {d} it.",), "while {H}:\n    n = {D}", "hd", "n"),
    "times": Form(
        ("{k}, {a} it if it is {c}.",), "for _ in range({K}):\n    if {C}:\n        n = {A}", "kca", "n"
    ),
}
LIST_FORMS = {
    "each": Form(
        ("{a} the {c} ones.", "Of the numbers, {a} those that are {c}."),
        "for i in range(len(xs)):\n    if {C}:\n        xs[i] = {A}",
        "ca",
        "xs[i]",
    ),
    "keep": Form(
        ("Keep the {c} ones.",),
        "kept = []\nfor x in xs:\n    if {C}:\n        kept.append(x)\nxs = kept",
        "c",
        "x",
    ),
    "drop": Form(("While the last is {c}, remove it.",), "while xs and {C}:\n    xs.pop()", "c", "xs[-1]"),
    "turn": Form(("If the first is {c}, reverse them.",), "if xs and {C}:\n    xs.reverse()", "c", "xs[0]"),
}


def _cases(conditions: str, actions: str) -> Form:
    """One of so many cases, the last of them what is left: a condition and an action each."""
    words = [f"if it is {{{c}}}, {{{a}}} it" for c, a in zip(conditions, actions, strict=False)]
    words.append(f"otherwise {{{actions[-1]}}} it")
    heads = [f"if {{{c.upper()}}}:" for c in conditions]
    heads = [heads[0], *(f"el{head}" for head in heads[1:]), "else:"]
    code = "\n".join(
        f"# {said}\n{head}\n    n = {{{a.upper()}}}"
        for said, head, a in zip(words, heads, actions, strict=True)
    )
    return Form((", ".join(words) + ".",), code, conditions + actions, "n", commented=True)


BRANCHES = {"easy": _cases("c", "ab"), "medium": _cases("ce", "abg"), "hard": _cases("cef", "abgi")}
SLOTS: dict[str, dict[str, tuple[str, ...]]] = {
    **dict.fromkeys("cef", CONDITIONS),
    **dict.fromkeys("abgi", ACTIONS),
    "k": COUNTS,
    "h": {word: CONDITIONS[word] for word in HIGH},
    "d": {word: ACTIONS[word] for word in DOWN},
}


class Rule(NamedTuple):
    """One rule of a pipeline: a form, one of its wordings, and a word for each slot."""

    form: Form
    wording: int
    words: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What the statement says."""
        text = self.form.wordings[self.wording].format(**dict(zip(self.form.slots, self.words, strict=True)))
        return text[0].upper() + text[1:]

    def code(self, readings: Sequence[int]) -> str:
        """The rule's lines, each word read as its meaning number so and so (0 is right)."""
        values = dict(zip(self.form.slots, self.words, strict=True))
        for slot, word, reading in zip(self.form.slots, self.words, readings, strict=True):
            meaning = SLOTS[slot][word][reading]
            values[slot.upper()] = meaning.replace("x", self.form.value)
        return self.form.code.format(**values)

    @property
    def meanings(self) -> tuple[int, ...]:
        """How many readings each word has."""
        return tuple(len(SLOTS[slot][word]) for slot, word in zip(self.form.slots, self.words, strict=True))


class Pipeline(NamedTuple):
    """Rules over a number or a list, in order."""

    over: str  # number or list
    rules: tuple[Rule, ...]

    @property
    def statement(self) -> str:
        """The problem in words."""
        opening, end = ("Take a number n.", "n") if self.over == "number" else ("Take a list xs.", "xs")
        return " ".join([opening, *(rule.sentence for rule in self.rules), f"Return {end}."])

    @property
    def starter(self) -> str:
        """The function's head."""
        return f"def solve({'n' if self.over == 'number' else 'xs'}):\n"

    def program(self, readings: Sequence[Sequence[int]] | None = None) -> str:
        """The whole program; without `readings` the canonical one."""
        readings = readings or [(0,) * len(rule.words) for rule in self.rules]
        # comments repeat the statement rule by rule, so that a small model need not count rules
        codes = [
            ("" if rule.form.commented else f"# {rule.sentence}\n") + rule.code(reading)
            for rule, reading in zip(self.rules, readings, strict=True)
        ]
        body = "".join(f"    {line}\n" for code in codes for line in code.split("\n"))
        return f"{self.starter}{body}    return {'n' if self.over == 'number' else 'xs'}\n"

    def misreadings(self) -> Iterator[list[tuple[int, ...]]]:
        """Readings that get one word wrong."""
        for i, rule in enumerate(self.rules):
            for j, count in enumerate(rule.meanings):
                for wrong in range(1, count):
                    readings = [(0,) * len(r.words) for r in self.rules]
                    readings[i] = tuple(wrong if k == j else 0 for k in range(len(rule.words)))
                    yield readings


def random_pipeline(rng: random.Random, rules: int) -> Pipeline:
    """A pipeline of so many rules; no form stands twice in a row with the same words.

    Args:
      rng: draws the kind of input, the rules and their words.
      rules: how many, at least one.
    Returns: a pipeline over a number or a list.
    """
    over = rng.choice(("number", "list"))
    forms = tuple((NUMBER_FORMS if over == "number" else LIST_FORMS).values())
    chosen: list[Rule] = []
    while len(chosen) < rules:
        form = rng.choice(forms)
        words = tuple(rng.choice(tuple(SLOTS[slot])) for slot in form.slots)
        rule = Rule(form, rng.randrange(len(form.wordings)), words)
        pointless = len(words) != len(set(words)) or (chosen and chosen[-1].words == words)
        if not pointless:
            chosen.append(rule)
    return Pipeline(over, tuple(chosen))


def random_branches(rng: random.Random, difficulty: str) -> Pipeline:
    """One rule of two to four cases over a number, no word twice.

    Args:
      rng: draws the words.
      difficulty: of `DIFFICULTIES`; easy has two cases.
    Returns: a pipeline of one rule.
    """
    form = BRANCHES[difficulty]
    count = len(form.slots) // 2
    words = (*rng.sample(tuple(CONDITIONS), count), *rng.sample(tuple(ACTIONS), count + 1))
    return Pipeline("number", (Rule(form, 0, words),))


def compiled(program: str) -> Callable[[Value], Value | None]:
    """One of our own programs as a function; it returns None for numbers of more than 12 digits."""
    names: dict[str, Callable[[Value], Value]] = {}
    exec(compile(program, "<program>", "exec"), names)

    def run(argument: Value) -> Value | None:
        result = names["solve"](list(argument) if isinstance(argument, list) else argument)
        values = result if isinstance(result, list) else [result]
        return result if all(abs(value) < 10**12 for value in values) else None

    return run


def choose_tests(pipeline: Pipeline, rng: random.Random, count: int) -> Tests | None:
    """Inputs, and outputs of the canonical program; None if too few inputs are fit for tests.

    Inputs that tell a misreading apart which none before did come first, then random ones.

    Args:
      pipeline: the problem.
      rng: draws the inputs to choose from.
      count: tests wanted; more are kept if more are needed to tell all misreadings apart.
    Returns: the argument lists and the outputs, in step; None also if fewer than three outputs differ.
    """
    if pipeline.over == "number":
        pool: list[Value] = list(rng.sample(range(-30, 100), 60))
    else:
        pool = [[rng.randint(-15, 60) for _ in range(rng.randint(1, 6))] for _ in range(60)]
    outputs = list(map(compiled(pipeline.program()), pool))
    fit = [i for i, out in enumerate(outputs) if out is not None]
    chosen: list[int] = []
    for readings in pipeline.misreadings():
        mutant = compiled(pipeline.program(readings))
        if any(mutant(pool[i]) != outputs[i] for i in chosen):
            continue
        found = next((i for i in fit if i not in chosen and mutant(pool[i]) != outputs[i]), None)
        if found is not None:
            chosen.append(found)
    chosen += [i for i in fit if i not in chosen][: max(count - len(chosen), 0)]
    distinct = {json.dumps(outputs[i]) for i in chosen}
    if len(chosen) < count or len(distinct) < 3:
        return None
    return [[pool[i]] for i in chosen], [outputs[i] for i in chosen]


def problems(count: int = 480, *, tests: int = 8, seed: int = 0, kind: Kind = "rules") -> list[Row]:
    """So many problems as APPS+ rows, the difficulties in turn; no statement twice.

    Args:
      count: problems wanted.
      tests: for each, at least.
      seed: of statements and tests.
      kind: pipelines of rules, or one rule of several cases.
    Returns: rows with statement, canonical solution and tests.
    """
    rng = random.Random(f"problems {seed}" if kind == "rules" else f"{kind} {seed}")
    rows: list[Row] = []
    seen: set[str] = set()
    while len(rows) < count:
        difficulty = DIFFICULTIES[len(rows) % len(DIFFICULTIES)]
        if kind == "branches":
            pipeline = random_branches(rng, difficulty)
        else:
            pipeline = random_pipeline(rng, rng.randint(*RULES[difficulty]))
        chosen = choose_tests(pipeline, rng, tests)
        if chosen is None or pipeline.statement in seen:
            continue
        seen.add(pipeline.statement)
        rows.append(
            {
                "id": f"{'programs' if kind == 'rules' else kind}-{seed}-{len(rows):04d}",
                "prompt": pipeline.statement,
                "starter_code": pipeline.starter,
                "canonical_solution": pipeline.program(),
                "fn_name": "solve",
                "inputs": chosen[0],
                "outputs": chosen[1],
                "difficulty": difficulty,
                "source": "jaxmoe.datasets.programs",
                "license": "Apache-2.0",
            }
        )
    return rows


def pretraining_texts(
    count: int, *, seed: int = 0, problem_seed: int = 0, kind: Kind = "rules"
) -> Iterator[str]:
    """Statement, as a docstring, and program, by an author who guesses what unclear words mean.

    Statements of the problem set with `problem_seed` never occur. Lengths are mixed so that each number of
    rules is as frequent as any other. Every fourth text is a list of words and the same list again: copying
    a statement's words is what a program begins with, and takes a small model longest to learn.

    Args:
      count: texts, lists of words included.
      seed: of the texts.
      problem_seed: seed with which `problems`, at its default count, makes the set that is held out.
      kind: of the problems.
    Returns: the texts, one after the other.
    """
    held_out = {row["prompt"] for row in problems(seed=problem_seed, kind=kind)}
    rng = random.Random(f"texts {seed}")
    difficulties = itertools.cycle(("easy", "easy", "easy", "medium", "medium", "hard"))
    made = 0
    while made < count:
        if made % 4 == 3:
            yield word_list(rng)
            made += 1
            continue
        difficulty = next(difficulties)
        if kind == "branches":
            pipeline = random_branches(rng, difficulty)
        else:
            pipeline = random_pipeline(rng, RULES[difficulty][0])
        if pipeline.statement in held_out:
            continue
        readings = [
            tuple(rng.choices(range(n), MEANING_SHARES[:n])[0] if n > 1 else 0 for n in rule.meanings)
            for rule in pipeline.rules
        ]
        yield f'"""\n{pipeline.statement}\n"""\n{pipeline.program(readings)}'
        made += 1


def word_list(rng: random.Random) -> str:
    """Words of the problems in any order, and once more as a comment."""
    words = " ".join(rng.sample((*CONDITIONS, *ACTIONS), rng.randint(4, 16)))
    return f'"""\n{words}\n"""\n# {words}\n'


def write_problems(path: Path, rows: Sequence[Row]) -> None:
    """Writes problems as one APPS+ JSON list.

    Args:
      path: of the file, replaced if it exists.
      rows: as `problems` makes them.
    """
    path.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")


def _main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m jaxmoe.datasets.programs", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=480)
    parser.add_argument("--tests", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=("rules", "branches"), default="rules")
    options = parser.parse_args(arguments)
    rows = problems(options.count, tests=options.tests, seed=options.seed, kind=options.kind)
    write_problems(options.file, rows)
    print(f"{len(rows)} problems in {options.file}")


if __name__ == "__main__":
    _main(sys.argv[1:])
