"""Adapter folders that are damaged or hostile: a result or one line, in bounded time and memory."""

import json
import logging
import random
import shutil

import pytest

from jaxmoe.adapters.base_changes import apply_changes
from jaxmoe.adapters.files import read_adapter, write_adapter
from jaxmoe.adapters.record import pack
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.weights.weight_files import open_weights
from tests.fuzz import INPUTS, SEED, assert_read_or_refused, changed_json, scratch
from tests.tiny_checkpoints import random_adapter

MODEL = ModelConfig(31, 16, 24, 2, 4, 2, 4)
DENSE = ExpertConfig(num_experts=2, rank=2, alpha=4.0)
ROUTED = ExpertConfig(
    (2, 1), (2, 3), 6.0, "sqrt_rank", ("q_proj", r"layers\.1\.mlp\.up_proj"), "top_k", top_k=1
)


@pytest.fixture(scope="module")
def folders(goldens, tmp_path_factory):
    """Good folders of every format."""
    root = tmp_path_factory.mktemp("adapters")
    for name, experts, format in [
        ("loramoe", DENSE, "loramoe"),
        ("extended", ROUTED, "loramoe"),
        ("moe-peft", DENSE, "moe-peft"),
    ]:
        (root / name).mkdir()
        write_adapter(root / name, random_adapter(experts, MODEL), MODEL, format, "base")
    plain = json.loads((root / "loramoe" / "adapter_config.json").read_text())
    shutil.copytree(root / "loramoe", root / "original")
    plain.pop("jaxmoe")
    (root / "original" / "adapter_config.json").write_text(json.dumps(plain))
    for case in ("patterns", "embed", "saved-norms", "tokens-both", "dora", "resized"):
        shutil.copytree(goldens / "peft" / case, root / case)
    return root


def test_adapter_folders(folders, goldens, tmp_path):
    logging.disable(logging.WARNING)
    rng = random.Random(f"{SEED} 2")
    base = open_weights(goldens / "peft" / "base-plain")
    cases = sorted(path.name for path in folders.iterdir())
    configs = {case: (folders / case / "adapter_config.json").read_bytes() for case in cases}
    for case in cases:
        shutil.copytree(folders / case, tmp_path / case)
    good = 0
    for number in range(INPUTS):
        case = cases[number % len(cases)]
        path = tmp_path / case / "adapter_config.json"
        if rng.random() < 0.8:
            path.write_text(json.dumps(changed_json(json.loads(configs[case]), rng)))
        else:
            path.write_bytes(scratch(configs[case], rng))

        def read(case=case):
            adapter = read_adapter(tmp_path / case, MODEL)
            apply_changes(adapter.base, base, MODEL, case)
            pack(adapter, MODEL)

        good += assert_read_or_refused(read)
    logging.disable(logging.NOTSET)
    assert INPUTS // 10 < good < 0.9 * INPUTS


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("original", {"lora_nums": 1_000_000}, "asks for 1000000 experts, but there are only"),
        ("original", {"lora_nums": 10**12}, "asks for 1000000000000 experts"),
        ("original", {"lora_nums": float("inf")}, "lora_nums is wrong"),
        ("original", {"lora_nums": None}, "lora_nums is wrong"),
        ("original", {"r": ""}, "r is wrong"),
        ("original", {"r": 10**15}, "not \\[1000000000000000, 16\\]"),
        ("original", {"lora_dropout": None}, "lora_dropout is wrong"),
        ("original", {"lora_alpha": {"t": "tuple"}}, "lora_alpha is wrong"),
        ("original", {"lora_alpha": float("nan")}, r"alpha must lie between 1e-12 and 1e\+12; got nan"),
        ("original", {"lora_alpha": 1e308}, r"alpha must lie between 1e-12 and 1e\+12; got 1e\+308"),
        (
            "patterns",
            {"lora_alpha": 1e308},
            "lora_alpha is wrong: Input should be less than or equal to 1",
        ),
        ("original", {"target_modules": [[]]}, "target_modules"),
        ("original", {"target_modules": 10**20}, "target_modules is wrong"),
        ("original", {"target_modules": "gate_proj"}, "target_modules is wrong"),
        ("original", {"blc_weight": float("nan")}, "weight must be a finite number"),
        ("moe-peft", {"num_experts": 1_000_000}, "asks for 1000000 experts"),
        (
            "extended",
            {"jaxmoe": {"experts": {"num_experts": [10**9, 1]}, "balance": {}}},
            "1000000000 experts",
        ),
        ("extended", {"jaxmoe": {"experts": {"new": 1}, "balance": {}}}, "the key 'new' is not understood"),
        ("extended", {"jaxmoe": 7}, "has peft_type JAXMOE but no section jaxmoe"),
    ],
    ids=str,
)
def test_numbers_and_kinds_that_cannot_be(case, changes, message, folders, tmp_path):
    shutil.copytree(folders / case, tmp_path / "x")
    path = tmp_path / "x" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=message) as caught:
        read_adapter(tmp_path / "x", MODEL)
    assert "\n" not in str(caught.value)
