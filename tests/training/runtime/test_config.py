"""Configs: what is read, what is refused and how, and help that matches what is read."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from typer.testing import CliRunner

from evals.questionnaires import behaviors
from tests.fuzz import INPUTS, check, scratched
from training.__main__ import CONFIGS, app
from training.ppo.config import PPORunConfig
from training.runtime import config as configs
from training.runtime import yaml_values
from training.runtime.config_help import keys
from training.studies.loramoe.study import LoramoeConfig
from training.supervised.config import PretrainConfig, SftConfig

ROOT = Path(__file__).parents[3]


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    sizes: int | tuple[int, ...] = 1
    label: str = "a"

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must not be negative; got {self.rate}")


Kind = Literal["one", "two"]


@dataclasses.dataclass(frozen=True)
class Outer:
    __pydantic_config__ = configs.STRICT

    steps: int
    kind: Kind = "one"
    inner: Inner = dataclasses.field(default_factory=Inner)
    maybe: Inner | None = None
    several: tuple[Inner, ...] = ()
    form: Kind | Literal["auto"] = "auto"
    names: dict[str, str] = dataclasses.field(default_factory=dict)


def load(tmp_path: Path, text: str, *overrides: str) -> Outer:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return configs.load(Outer, path, overrides)


def test_values_lists_and_overrides(tmp_path):
    text = "steps: 1e3\ninner:\n  rate: 1e-4\n  sizes: [1, 2]\nseveral:\n  - rate: 2\n  - {}\n"
    got = load(tmp_path, text, "inner.label=7", "several.1.rate=3e-1", "maybe.sizes=4")
    assert got == Outer(1000, "one", Inner(1e-4, (1, 2), "7"), Inner(sizes=4), (Inner(2.0), Inner(0.3)))
    assert isinstance(got.inner.rate, float)


@pytest.mark.parametrize("text", ["2024_06_01", "3.10", "1e3", "+7", "0x10", "1_000", "-1.50", "7"])
def test_a_text_that_looks_like_a_number_stays_as_it_was_written(tmp_path, text):
    given = load(
        tmp_path, "steps: 1", f"inner.label={text}", f"several=[{{label: {text}}}]", f"names.a={text}"
    )
    assert (given.inner.label, given.several[0].label, given.names["a"]) == (text, text, text)
    assert load(tmp_path, f"steps: 1_000\ninner: {{label: {text}, rate: 1e0}}") == Outer(
        1000, inner=Inner(1.0, label=text)
    )
    assert type(load(tmp_path, "steps: 1\ninner: {rate: 1e0}").inner.rate) is float


def test_files_are_read_as_plain_values(tmp_path):
    (tmp_path / "a.yaml").write_text("steps: 1_000\ninner: {rate: 1e-4, sizes: [+1]}")
    read = configs.read(tmp_path / "a.yaml")
    numbers = (read["steps"], read["inner"]["rate"], read["inner"]["sizes"][0])
    assert [type(number) for number in numbers] == [int, float, int]


def test_an_override_may_hold_a_quoted_hash(tmp_path):
    assert load(tmp_path, "steps: 1", "inner.label='exp #3'").inner.label == "exp #3"
    assert load(tmp_path, "steps: 1", "inner.label=exp#3").inner.label == "exp#3"


def test_saved_config_reads_back_as_the_same(tmp_path):
    config = Outer(3, inner=Inner(sizes=(1, 2)), maybe=Inner(1e-9))
    configs.save(configs.to_dict(config), tmp_path / "saved.yaml")
    assert configs.load(Outer, tmp_path / "saved.yaml") == config


# each line ten of the line before: ten billion values in 200 characters
LAUGHS = "".join(f", &a{i} [{', '.join([f'*a{i - 1}' if i else '*a'] * 10)}]" for i in range(9))


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("steps: 1\ninner: {rat: 1}", (), "unknown key inner.rat; did you mean inner.rate?"),
        ("steps: 1\nrate: 1", (), "unknown key rate; did you mean inner.rate?"),
        (
            "steps: 1\nseveral: [{}, {lable: x}]",
            (),
            "unknown key several.1.lable; did you mean several.1.label?",
        ),
        (
            "steps: 1",
            ("zzz=1",),
            "unknown key zzz; the top level has steps, kind, inner, maybe, several, form, names",
        ),
        ("steps: 1\nin-ner: {rate: 1}", (), "unknown key in-ner; did you mean inner?"),
        ('steps: 1\ninner: {"": 1}', (), "unknown key inner.; inner has rate, sizes, label"),
        ("kind: one", (), "steps is missing"),
        ("steps: many", (), "steps: should be a valid integer"),
        ("steps: 1.5", (), "steps: should be a valid integer"),
        ("steps: 1\nkind: three", (), "kind: should be 'one' or 'two'; got 'three'"),
        ("steps: 1\nform: three", (), "form: should be 'one', 'two' or 'auto'; got 'three'"),
        ("steps: 1\ninner: 3", (), "inner is a section with keys of its own; got 3"),
        ("steps: 1\ninner: {rate: -1}", (), "rate must not be negative; got -1.0"),
        ("steps: 1\nsteps: 2", (), "line 2: the key 'steps' stands there twice"),
        ("steps: [1", (), "is not valid YAML: line 1"),
        ("- 1", (), "must hold `key: value` lines; got a list"),
        ("steps: 010", (), "line 1: 010 is octal to some readers and decimal to others: write 10, or quote"),
        ("steps: 1", ("steps=-007",), "-007 is octal to some"),
        (
            "steps: 1:30",
            (),
            "steps: should be a valid integer, unable to parse string as an integer; got '1:30'",
        ),
        ("steps: off", (), "steps: should be a valid integer"),
        ("steps: true", (), "steps: should be a number; got true"),
        ("steps: 1\ninner: {rate: no}", (), "inner.rate: should be a valid number"),
        ("steps: 1\ninner: {rate: True}", (), "inner.rate: should be a number; got true"),
        ("steps: 1\ninner: {sizes: [1, false]}", (), "inner.sizes.1: should be a number; got false"),
        ("steps: 1\nseveral: {a: {}}", (), "several: should be a list; got {'a': {}}"),
        ("steps: 1\nseveral: [{}, {rate: true}]", (), "several.1.rate: should be a number; got true"),
        ("steps: 2001-99-99", (), "steps: should be a valid integer"),
        ("steps: 0o10", (), "steps: should be a valid integer"),
        ("steps: " + "9" * 6000, (), "line 1: a number of over 300 digits"),
        ("steps: " + "[" * 5000 + "]" * 5000, (), "nested too deeply"),
        ("steps: 1", ("steps=" + "[" * 5000,), "nested too deeply"),
        ("steps: &a [*a]", (), "an alias stands for something that it is a part of"),
        ("steps: [&a [1,1,1,1,1,1,1,1,1,1]" + LAUGHS + "]", (), "more than 100,000 values, its aliases"),
        ("? [a]\n: 1", (), "line 1: a key must be text"),
        ("null: 1", (), "line 1: a key must be text"),
        ("steps: !!python/object/apply:os.system [ls]", (), "line 1: could not determine a constructor"),
        ("steps: !!set {a}", (), "a value must be text, a number"),
        ("steps: \x00", (), "is not valid YAML: unacceptable character"),
        ("steps: 1" + " " * 1_000_001, (), "more than 1,000,000 characters"),
        ("steps: 1\nkind: " + "x" * 5000, (), "should be 'one' or 'two'; got 'xxx"),
        ("steps: 1", ("steps",), "an override reads key=value"),
        ("steps: 1", ("inner.label=exp #3",), "in YAML # begins a comment; quote the value"),
        ("steps: 1", ("inner.label=#3",), "in YAML # begins a comment; quote the value"),
        ("steps: 1", ("steps.x=1",), "steps is a value, not a section"),
        (
            "steps: 1\nseveral: [{}]",
            ("several.3.rate=1",),
            "several.3 must name one of the 1 items by number",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, text, overrides, said):
    with pytest.raises(ValueError) as error:
        load(tmp_path, text, *overrides)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "text", ["off", "no", "1:30", "010", "2001-01-01", "1e3", "0x1f", "~", ".5", "1_000", "<<"]
)
def test_text_that_looks_like_something_else_survives_saving(tmp_path, text):
    config = Outer(3, inner=Inner(label=text))
    configs.save(configs.to_dict(config), tmp_path / "saved.yaml")
    assert configs.load(Outer, tmp_path / "saved.yaml") == config
    assert configs.load(Outer, None, ("steps=3", f"inner.label='{text}'")) == config


def test_numbers_of_yaml_1_2(tmp_path):
    text = "steps: 1_000\ninner: {rate: .5, sizes: 0x10, label: off}"
    assert load(tmp_path, text) == Outer(1000, inner=Inner(0.5, 16, "off"))
    assert load(tmp_path, "\ufeffsteps: +3\r\nmaybe: ~\r\n") == Outer(3)


def test_an_alias_is_a_copy_and_merges_are_read(tmp_path):
    text = (
        "steps: 1\ninner: &one {rate: 2}\nmaybe: *one\nseveral: [{<<: *one, label: b}, {<<: *one, rate: 3}]"
    )
    got = load(tmp_path, text, "maybe.rate=5")
    assert got == Outer(1, "one", Inner(2.0), Inner(5.0), (Inner(2.0, label="b"), Inner(3.0)))


def test_damaged_configs(tmp_path):
    """Whatever stands in a config, it is read or refused in one line, and soon."""
    file = tmp_path / "run.yaml"
    whole = (
        b"base: a\noutput: b\nsteps: 100\nadapter: loramoe\nexperts:\n  num_experts: 4\n  dropout: 0.05\n"
        b"data:\n  form: instruction\n"
        b"  sources:\n    - name: demo\n      limit: 2000\n    - {path: x, weight: 2}\n"
        b"optimizer: &o\n  lr: 2e-3\n# a word\nwatch: {routing_every: 50}\n"
    )
    snippets = [
        b"&a [*a]",
        b"*a",
        b"!!python/object:os.system x",
        b"<<: *a",
        b"? ",
        b"%s",
        b"!!set {a}",
        b"[1]: 2",
    ]
    snippets += [
        b"2001-99-99",
        b"0x_",
        b"1_000",
        b"010",
        b"off",
        b"1:30",
        b"true",
        b"- ",
        b"\t",
        b"#",
        b"|\n",
    ]

    def read(data: bytes):
        file.write_bytes(data)
        return configs.load(SftConfig, file)

    read_well = check(read, scratched(whole, INPUTS, seed=5, snippets=snippets), (ValueError,))
    assert read_well > INPUTS // 70


def test_differences_name_dotted_keys():
    old, new = ({"a": {"b": b, "c": [1]}, "d": 1} for b in (1, 2))
    assert configs.differences(old, new | {"e": None}) == {"a.b": (1, 2)}


@pytest.mark.parametrize("schema", [PretrainConfig, SftConfig, LoramoeConfig])
def test_help_names_exactly_the_keys_that_are_read(schema):
    """Help is read from source, configs by pydantic from the classes: they must not drift apart."""
    listed = {key.name.replace(".0.", ".") for key in keys(schema.__module__, schema.__name__)}
    assert listed == set(configs.dotted_keys(schema))


SCHEMAS = [
    ("training.supervised.config", "PretrainConfig"),
    ("training.supervised.config", "SftConfig"),
    ("training.ppo.config", "PPORunConfig"),
    ("training.suites.config", "EvalConfig"),
]


@pytest.mark.parametrize(("module", "schema"), SCHEMAS)
def test_keys_have_docs(module, schema):
    undocumented = [
        key.name
        for key in keys(module, schema)
        if not key.doc and not key.name.startswith(("model.", "base_model.", "base_shape."))
    ]
    assert not undocumented


def test_defaults_are_shown_as_a_config_has_them():
    """Values, not the names of constants in the source."""
    shown = {key.name: key for key in keys("training.suites.config", "EvalConfig")}
    assert shown["step"].default == "null"
    assert shown["overwrite"].default == "false"
    assert shown["coding.k"].default == "[1]"  # which equals True
    assert shown["behavior.item_wordings"].default == "[published]"
    assert shown["behavior.tasks"].default == f"[{', '.join(behaviors.FAMILIES)}]"
    assert shown["coding.form"].type == "completion|instruction|chat|auto"
    shown = {key.name: key for key in keys("training.serving.config", "ServeConfig")}
    assert shown["adapters"].default == "{}"
    assert shown["limits.body_bytes"].default == str(4 << 20)
    exported = {key.name: key for key in keys("training.commands.export", "ExportConfig")}
    assert exported["format"].type == "hf|loramoe|moe-peft|peft"


STUDY = ("training.studies.loramoe.config", "LoramoeConfig")
NEEDED = {
    "PretrainConfig": {
        "output": "out",
        "base": "base",
        "steps": 1,
        "data": {"sources": [{"path": "a.json"}]},
    },
    "PPORunConfig": {"output": "out", "base": "base", "rounds": 1},
    "EvalConfig": {"output": "out", "base": "base"},
    "LoramoeConfig": {"rows": {"full": {"label": "full", "rates": [1e-4]}}},
}
NEEDED["SftConfig"] = NEEDED["PretrainConfig"]


@pytest.mark.parametrize(("module", "schema"), [*SCHEMAS, STUDY])
def test_defaults_are_read_as_what_they_are(module, schema):
    """Each default, given back as YAML, is the value of a config without the key."""
    needed = NEEDED[schema]
    config = configs.parse(getattr(importlib.import_module(module), schema), needed)
    compared = 0
    for key in keys(module, schema):
        value: Any = config
        for name in key.name.split("."):
            value = getattr(value, name, dataclasses.MISSING)
        # null and the algorithm's own values are settled by what else is given
        settled = key.name == "optimizer.lr" or key.name.startswith("ppo.")
        if key.default is None or value is dataclasses.MISSING or key.name in needed or settled:
            continue
        told = yaml_values.parse(key.default)
        assert (tuple(told) if isinstance(told, list) else told) == value, key
        compared += 1
    assert compared > 20


def test_a_section_given_in_part_keeps_the_rest_of_its_own_default():
    """One key of the policy's optimizer used to bring the learning rate and schedule of fine-tuning."""
    given = ["output=out", "base=base", "rounds=1"]
    whole = configs.load(PPORunConfig, None, given)
    parts = ["optimizer.clip_norm=0.5", "critic.optimizer.clip_norm=0.5", "checkpoint.keep=3"]
    part = configs.load(PPORunConfig, None, given + parts)
    assert part.optimizer == dataclasses.replace(whole.optimizer, clip_norm=0.5)
    assert part.critic.optimizer == dataclasses.replace(whole.critic.optimizer, clip_norm=0.5)
    assert part.checkpoint == dataclasses.replace(whole.checkpoint, keep=3)
    assert configs.load(PPORunConfig, None, [*given, "optimizer.lr=1e-3"]).optimizer.schedule == "constant"
    # what a section settles by itself is no default of the place where it stands
    assert configs.load(PPORunConfig, None, [*given, "ppo.kl.place=loss"]).ppo.kl.estimator == "k2"


HEADS = "num_heads: 1, num_kv_heads: 1, head_dim: 8"
TINY = f"model={{vocab_size: 8, hidden_size: 8, intermediate_size: 8, num_layers: 1, {HEADS}}}"


@pytest.mark.parametrize(
    ("schema", "given", "lr"),
    [
        (SftConfig, ["adapter=none"], 2.5e-5),
        (SftConfig, ["adapter=lora"], 2.5e-4),
        (SftConfig, [], 2.5e-4),
        (SftConfig, ["adapter=none", "optimizer.lr=1e-3"], 1e-3),
        (SftConfig, ["adapter=none", "base=null", TINY], 2.5e-4),
        (PretrainConfig, [], 2.5e-5),
    ],
)
def test_the_learning_rate_follows_what_is_trained(schema, given, lr):
    """And is the one that the run saves."""
    needed = ["output=out", "base=base", "steps=1", "data.sources=[{path: a.json}]"]
    assert configs.to_dict(configs.load(schema, None, needed + given))["optimizer"]["lr"] == lr


def test_reinforcement_learning_has_its_own_learning_rate():
    given = ["output=out", "base=base", "rounds=1", "critic.optimizer.lr=null"]
    with pytest.raises(ValueError, match="must be numbers; got null"):
        configs.load(PPORunConfig, None, given)


@dataclasses.dataclass(frozen=True)
class Middle:
    inner: Inner = dataclasses.field(default_factory=lambda: Inner(rate=0.5, label="own"))
    several: tuple[Inner, ...] = ()
    named: dict[str, Inner] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Whole:
    middle: Middle = dataclasses.field(default_factory=lambda: Middle(Inner(rate=0.7)))


def test_defaults_of_sections_reach_down_and_lists_have_their_classs():
    read = configs.parse(Whole, {"middle": {"inner": {"sizes": 2}, "several": [{}], "named": {"x": {}}}})
    assert read.middle.inner == Inner(rate=0.7, sizes=2)  # the outermost default wins
    assert read.middle.several == (Inner(),)
    assert read.middle.named == {"x": Inner()}
    assert configs.parse(Middle, {"inner": {}}).inner == Inner(rate=0.5, label="own")
    assert configs.parse(Whole, {}) == Whole()


@pytest.mark.parametrize("command", sorted(CONFIGS))
def test_every_command_explains_its_config(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Keys of the config" in result.output
    assert "mesh.fsdp: int = 1" in result.output or command not in ("pretrain", "sft")


def all_configs() -> list[Path]:
    return sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", all_configs(), ids=lambda p: str(p.relative_to(ROOT)))
def test_shipped_configs_are_valid_and_explain_themselves(path):
    text = path.read_text()
    assert "python -m training" in text.splitlines()[0]
    assert isinstance(yaml.safe_load(text), dict)
    schema = {"pretrain": PretrainConfig, "sft": SftConfig}.get(path.parent.name)
    if schema is not None:
        configs.load(schema, path)
