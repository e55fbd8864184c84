"""Every command that takes base_dtype, on a tiny model: quantized from training to export."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxmoe
from jaxmoe.datasets.programs import pretraining_texts, problems, write_problems
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.model.quantized import is_quantized, quantize
from jaxmoe.tokenizer import train_bpe
from jaxmoe.weights import convert
from training.commands import evaluate, export, generate
from training.planning import plan_run
from training.planning.plan_step import experts_of, shape_of
from training.ppo import train as ppo
from training.ppo.config import PPORunConfig
from training.runtime import config as configs
from training.runtime.model import held_as, new_model
from training.suites.config import EvalConfig
from training.supervised import sft
from training.supervised.config import SftConfig

ROOT = Path(__file__).parents[2]
DTYPES = ("int8", "nf4")
WATCH = {"tensorboard": False, "progress": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model with random weights, instructions and problems, in files."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_bpe([text for text, _ in zip(pretraining_texts(60), range(60), strict=True)], 320)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = ModelConfig(320, 16, 24, 1, 2, 1, 8, **ends)
    lm = LanguageModel(
        config, params.split(params.build(config, std=0.3), "all"), params.single_device_mesh()
    )
    jaxmoe.save(lm, folder / "model", "hf", tokenizer=tokenizer)
    rows = [{"instruction": f"Say {i}.", "input": "", "output": str(i)} for i in range(40)]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "text.jsonl").write_text(
        json.dumps({"question": "1 + 1?", "answers": ["2"], "stem": "1 + 1 =", "cluster": "a"}) + "\n"
    )
    write_problems(folder / "problems.json", problems(24)[::3])
    return folder


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The first of the session's devices."""
    monkeypatch.setattr(
        "training.runtime.distributed.MeshConfig.make", lambda self: params.single_device_mesh()
    )


def kernels(lm: LanguageModel) -> dict:
    return {p: k for p, k in convert.flatten(lm.weights.frozen).items() if is_quantized(k)}


@pytest.mark.parametrize(("dtype", "adapter"), [("int8", "lora"), ("nf4", "loramoe")])
def test_fine_tuning_from_config_to_export(base, dtype, adapter, tmp_path):
    values = {
        "output": str(tmp_path / "run"),
        "base": str(base / "model"),
        "base_dtype": dtype,
        "adapter": adapter,
        "steps": 3,
        "experts": {"num_experts": 2, "rank": 2},
        "data": {"sources": [{"path": str(base / "rows.json")}], "length": 64, "batch_size": 2},
        "watch": WATCH | {"plots": False},
    }
    assert sft.main(configs.parse(SftConfig, values)).finished
    lm, _ = export.load_run(tmp_path / "run", params.single_device_mesh())
    assert lm.experts is not None
    half, _ = export.load_run(tmp_path / "run", params.single_device_mesh(), average=0.5)
    whole = lm.weights.trainable["blocks"]["mlp"]["up_proj"]["experts"]
    for name, weight in half.weights.trainable["blocks"]["mlp"]["up_proj"]["experts"].items():
        np.testing.assert_allclose(weight, whole[name] * (0.5 if name == "b" else 1.0), err_msg=name)
    original = convert.flatten(jaxmoe.load(base / "model").weights.frozen)
    assert len(kernels(lm)) == 7
    for path, kernel in kernels(lm).items():
        assert kernel.quantized_dtype == dtype
        jax.tree.map(np.testing.assert_array_equal, kernel, quantize(original[path], dtype))
    saved = [str(path) for path in (tmp_path / "run" / "checkpoints").rglob("*")]
    assert saved
    assert not [path for path in saved if "kernel" in path]  # a checkpoint holds what is trained
    jaxmoe.save(lm, tmp_path / "hf", format="hf", merge=adapter == "lora")
    again = jaxmoe.load(tmp_path / "hf", dtype="bfloat16")
    ids = np.arange(3, 15).reshape(1, 12)
    ours, theirs = (np.asarray(model(ids).logits) for model in (lm, again))
    # the merged sums are rounded to bfloat16 once more: of two layers' worth, 8 bits each
    np.testing.assert_allclose(ours, theirs, atol=0 if adapter == "loramoe" else 2**-5 * np.abs(ours).max())


def test_rounds_of_reinforcement_learning(base, tmp_path, capsys):
    values = {
        "base": str(base / "model"),
        "base_dtype": "nf4",
        "output": str(tmp_path / "run"),
        "rounds": 1,
        "experts": {"num_experts": 2, "rank": 2},
        "problems": {"path": str(base / "problems.json")},
        "rollout": {
            "prompts": 2,
            "samples": 2,
            "response_tokens": 64,
            "prompt_tokens": 512,
            "room": 1.0,
            "smallest_bucket": 512,
            "form": "completion",
        },
        "ppo": {"epochs": 1, "minibatches": 1},
        "critic": {"body": "frozen"},
        "watch": WATCH,
    }
    assert ppo.main(configs.parse(PPORunConfig, values)).finished
    lm, _ = export.open_model(str(tmp_path / "run"), None, None, None, params.single_device_mesh(), "float16")
    assert "dtype=float16 is of a base; a run keeps its own, bfloat16" in capsys.readouterr().err
    assert {kernel.quantized_dtype for kernel in kernels(lm).values()} == {"nf4"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_evaluation_and_generation_of_a_quantized_base(base, dtype, tmp_path):
    values = {
        "base": str(base / "model"),
        "base_dtype": dtype,
        "output": str(tmp_path / "eval"),
        "progress": False,
        "knowledge": {
            "sources": [{"path": str(base / "text.jsonl")}],
            "templates": ["completion"],
            "max_new_tokens": 4,
        },
    }
    assert evaluate.main(configs.parse(EvalConfig, values))["config"]["base_dtype"] == dtype
    asked = {"base": str(base / "model"), "prompts": ["def f"], "form": "text", "max_new_tokens": 4}
    config = configs.parse(generate.GenerateConfig, asked | {"base_dtype": dtype})
    assert len(generate.main(config)) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_plan_counts_the_bytes_that_a_run_holds(base, dtype, tmp_path):
    shape = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_layers": 2}
    shape |= {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16}
    overrides = [f"model={json.dumps(shape)}", f"base_dtype={dtype}", "mesh.data=1"]
    file = ROOT / "configs" / "sft" / "tiny.yaml"
    found = plan_run.plan_run(file, overrides, "cpu:1", tmp_path / "plan.json")
    assert found is not None
    source = configs.load(SftConfig, file, overrides).source
    config = shape_of(source)
    made = new_model(
        config, experts_of(source, config), params.single_device_mesh(), base_dtype=source.base_dtype
    )
    assert {kernel.quantized_dtype for kernel in kernels(made.lm).values()} == {dtype}
    assert found.memory["base"] == params.storage_bytes(made.lm.weights.frozen)
    generation = json.loads((tmp_path / "plan.json").read_text())["decode"]["memory"]
    assert generation["base"] == found.memory["base"]


@pytest.mark.parametrize(
    ("schema", "values", "said"),
    [
        (SftConfig, {"base_dtype": "int4"}, "float32.*bfloat16.*int8.*nf4"),
        (
            SftConfig,
            {"base_dtype": "nf4", "adapter": "none"},
            "adapter=none trains every weight: take adapter=lo",
        ),
        (
            PPORunConfig,
            {"base_dtype": "int8", "adapter": "none", "rounds": 1},
            "base_dtype=int8 holds frozen",
        ),
        (EvalConfig, {"base_dtype": "bfloat16"}, "int8.*nf4"),
        (EvalConfig, {"base_dtype": "nf4", "base": None, "run": "r"}, "base_dtype goes with base"),
        (
            generate.GenerateConfig,
            {"base_dtype": "nf4", "base": None, "run": "r"},
            "base_dtype goes with base",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(schema, values, said):
    given = {"base": "b", **({} if schema is generate.GenerateConfig else {"output": "o"}), **values}
    if schema is SftConfig:
        given |= {"data": {"sources": [{"path": "p"}]}, "steps": 1}
    with pytest.raises(ValueError, match=said) as error:
        configs.parse(schema, given)
    assert "\n" not in str(error.value)


def test_beside_quantized_kernels_all_is_bfloat16():
    assert held_as("nf4") == ("bfloat16", "nf4")
    assert held_as("bfloat16") == ("bfloat16", None)
