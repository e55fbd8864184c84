"""PEFT folders: what PEFT computes with them, for every kind that is read; and what is refused, by name."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxmoe
from jaxmoe.adapters.files import read_adapter
from jaxmoe.adapters.peft import FORMAT
from jaxmoe.adapters.record import start_experts_from
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig
from jaxmoe.pretrained import read_model_config
from tests.tiny_checkpoints import FLOAT32_LOGITS, logits_of, random_adapter
from tests.tolerances import assert_same, rounding_bound

LOGITS = 1e-4  # the rounding of PEFT's float32; ours are computed in double precision
TIED = (
    "dora-head",
    "embed-tied",
    "head-tied",
    "both-tied",
    "together-tied",
    "saved-embed-tied",
    "saved-head-tied",
    "saved-together-tied",
    "tokens-tied",
    "resized-tied",
)
BIASED = ("dora-biased", "bias-all", "bias-lora")
PLAIN = (
    "lora",
    "mica",
    "patterns",
    "dora",
    "embed",
    "head",
    "saved-embed",
    "saved-norms",
    "saved-mlp",
    "tokens",
    "tokens-both",
    "resized",
    "resized-saved",
)
CASES = {
    case: "tied" if case in TIED else "biased" if case in BIASED else "plain"
    for case in (*PLAIN, *TIED, *BIASED)
}


@pytest.fixture(scope="module")
def peft(goldens):
    return goldens / "peft"


@pytest.fixture(scope="module")
def expected(peft):
    return np.load(peft / "expected.npz")


def logits(lm, expected):
    return logits_of(lm, expected["input_ids"])


def test_every_golden_is_tested(expected):
    assert {*expected.files} == {*CASES, "input_ids"}


@pytest.mark.parametrize("case", CASES)
def test_computes_what_peft_computes(case, peft, expected, tmp_path):
    """As loaded; from a PEFT and a LoRAMoE folder that we wrote; merged; and as a whole model."""
    base = peft / f"base-{CASES[case]}"
    lm = jaxmoe.load(base, peft / case)
    wanted = expected[case]
    assert lm.config.vocab_size == wanted.shape[-1]
    np.testing.assert_allclose(logits(lm, expected), wanted, atol=LOGITS)
    unadapted = logits(jaxmoe.load(base), expected)
    width = min(unadapted.shape[-1], wanted.shape[-1])
    assert np.abs(unadapted[..., :width] - wanted[..., :width]).max() > 0.1  # the adapter matters
    for format in ("peft", "loramoe"):
        jaxmoe.save(lm, tmp_path / format, format=format)
        again = jaxmoe.load(base, tmp_path / format)
        np.testing.assert_allclose(logits(again, expected), wanted, atol=LOGITS, err_msg=format)
        assert again.experts is not None
        assert again.experts.dora == lm.experts.dora
    jaxmoe.save(lm, tmp_path / "hf", format="hf", merge=True)
    np.testing.assert_allclose(logits(jaxmoe.load(tmp_path / "hf"), expected), wanted, atol=LOGITS)


@pytest.mark.parametrize("case", ["dora", "dora-biased"])
def test_dora_generates_and_is_sharded(case, peft, expected):
    """The decoding loop and a mesh compute what the plain forward pass does."""
    base = peft / f"base-{CASES[case]}"
    lm = jaxmoe.load(base, peft / case)
    new = lm.generate(expected["input_ids"], max_new_tokens=4).tokens
    wanted = np.asarray(lm(new).logits).argmax(-1)[:, 7:-1]
    np.testing.assert_array_equal(new[:, 8:], wanted)
    spread = jaxmoe.load(base, peft / case, mesh=params.make_mesh(2, 2, 2))
    np.testing.assert_allclose(logits(spread, expected), expected[case], atol=LOGITS)


def test_new_dora_changes_nothing_and_trains_its_magnitudes(peft, expected):
    """B = 0 and m = ‖W0‖ at the start; the norm is held still where a gradient flows."""
    base = peft / "base-plain"
    experts = ExpertConfig(
        num_experts=(1, 0), rank=2, routing="none", dora=True, targets=("q_proj", "up_proj")
    )
    lm = jaxmoe.load(base, experts=experts)
    # the magnitudes start as norms in float32
    ours, plain = logits(lm, expected), logits(jaxmoe.load(base), expected)
    assert_same(ours, plain, tolerance=FLOAT32_LOGITS)
    path = ("blocks", "mlp", "up_proj", "experts", "magnitude")
    kernel = load_file(base / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    magnitude = lm.weights.trainable
    for key in path:
        magnitude = magnitude[key]
    norms = np.linalg.norm(kernel.astype(np.float64), axis=1)
    np.testing.assert_allclose(magnitude[0], norms, rtol=rounding_bound(17, 1.0))  # of 16 squares, and a root
    np.testing.assert_array_equal(magnitude[1], 0)

    def loss(trainable):
        moved = lm.weights._replace(trainable=trainable)
        model = params.merge(moved)
        linear = model.blocks.mlp.up_proj
        layer = jax.tree.map(lambda x: x[0], params.nnx.split(linear)[1])
        linear = params.nnx.merge(params.nnx.split(linear)[0], layer)
        return linear.combine(
            linear.base(np.ones((1, 1, 16), np.float32)), np.zeros((1, 1, 24), np.float32)
        ).sum()

    gradient = jax.grad(loss)(lm.weights.trainable)
    # d/dm of m · (W0 x) / ‖W0‖ with the norm constant: a sum over that column
    wanted, largest = kernel.sum(1) / norms, np.abs(kernel).sum(1) / norms
    got = gradient["blocks"]["mlp"]["up_proj"]["experts"]["magnitude"][0]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=rounding_bound(16 + 17 + 1, largest.max()))


def copy_with(source, target, **changes):
    shutil.copytree(source, target)
    config = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights='corda'"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights='lora_ga'"),
        ({"alora_invocation_tokens": [5, 6]}, r"alora_invocation_tokens must be None; got \[5, 6\]"),
        ({"use_qalora": True}, "use_qalora must be False"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication must be None"),
        ({"target_parameters": ["self_attn.q_proj.weight"]}, "target_parameters must be None"),
        ({"lora_bias": True}, "lora_bias must be False"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out must be False"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora={'nblocks': 2} .* is not understood here"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config=.* is not understood here"),
        ({"kasa_config": {"beta": 1e-4}}, "kasa_config=.* is not understood here"),
        ({"monteclora_config": {"num_samples": 2}}, "monteclora_config=.* is not understood here"),
        ({"velora_config": {"num_groups": 4}}, "velora_config=.* is not understood here"),
        ({"megatron_config": {"a": 1}}, "megatron_config=.* is not understood here"),
        ({"use_something_new": True}, "use_something_new=True .* is not understood here"),
        ({"something_new": 0}, "something_new=0 .* is not understood here"),
        ({"bias": "some"}, "bias is wrong: Input should be 'none', 'all' or 'lora_only'; got 'some'"),
        ({"lora_alpha": float("nan")}, "lora_alpha is wrong"),
        ({"target_modules": None}, "target_modules"),
        ({"target_modules": "("}, "is no regular expression"),
        ({"target_modules": r"(.*){1,30}\d{3}"}, "takes too long"),
        ({"target_modules": ["embed_tokens"]}, "match no projection"),
        ({"target_modules": ["q_proj", "down_proj", "embed_tokens"]}, "lacks .*lora_embedding_A"),
        ({"trainable_token_indices": {"wte": [1]}}, "trainable_token_indices .* names 'wte'"),
        ({"modules_to_save": ["score"]}, "lacks 'score', which modules_to_save says"),
        ({"r": 10**9}, r"lora_A.weight is \[2, 16\], not \[1000000000, 16\]"),
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes, message, peft, tmp_path):
    folder = copy_with(peft / "lora", tmp_path / "x", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        read_adapter(folder, read_model_config(peft / "base-plain"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"use_something_new": False, "other": None, "more": [], "text": "", "options": {}},
        {"init_lora_weights": "gaussian"},
        {
            "eva_config": {"rho": 2.0},
            "peft_version": "0.7.1",
            "qalora_group_size": 32,
            "init_lora_weights": "eva",
        },
        {"modules_to_save": [], "layers_to_transform": None, "revision": "main", "auto_mapping": {"a": "b"}},
    ],
    ids=str,
)
def test_options_that_are_off_or_change_nothing_are_let_pass(changes, peft, expected, tmp_path):
    folder = copy_with(peft / "lora", tmp_path / "x", **changes)
    lm = jaxmoe.load(peft / "base-plain", folder)
    np.testing.assert_allclose(logits(lm, expected), expected["lora"], atol=LOGITS)


def change_tensors(folder, change):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


PREFIX = "base_model.model."


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        (
            "lora",
            lambda t: t.update({f"{PREFIX}model.norm.weight": np.ones(16, np.float32)}),
            "unexpected: .*model.norm.weight",
        ),
        ("lora", lambda t: t.update({"surplus": np.ones(2, np.float32)}), "unexpected: surplus"),
        (
            "saved-norms",
            lambda t: t.update({f"{PREFIX}model.norm.weight": np.ones(15, np.float32)}),
            r"model.norm.weight in .* has shape \[15\], not \[16\]",
        ),
        (
            "resized",
            lambda t: t.pop(f"{PREFIX}lm_head.weight"),
            "34 rows in the embedding and 31 in the head: it must bring both",
        ),
        (
            "resized",
            lambda t: t.update({f"{PREFIX}lm_head.weight": np.ones((34, 15), np.float32)}),
            "it must have 16 columns",
        ),
        (
            "embed",
            lambda t: t.update(
                {f"{PREFIX}model.embed_tokens.lora_embedding_A": np.ones((2, 30), np.float32)}
            ),
            "makes a 30 x 16 matrix; the weight is 31 x 16",
        ),
        (
            "tokens",
            lambda t: t.update(
                {
                    f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta": np.ones(
                        (3, 16), np.float32
                    )
                }
            ),
            r"trains 2 rows of the embedding, up to 30; its tensor is \[3, 16\]",
        ),
        (
            "resized-tied",
            lambda t: t.update({f"{PREFIX}lm_head.weight": np.ones((34, 16), np.float32)}),
            "ties one",
        ),
    ],
    ids=lambda value: "change" if callable(value) else str(value),  # addresses differ by process
)
def test_weights_of_the_base_that_do_not_fit_are_refused(case, change, message, peft, tmp_path):
    folder = copy_with(peft / case, tmp_path / "x")
    change_tensors(folder, change)
    with pytest.raises(ValueError, match=message) as caught:
        jaxmoe.load(peft / f"base-{CASES[case]}", folder)
    assert "\n" not in str(caught.value)


def test_dora_on_the_embedding_is_refused(peft, tmp_path):
    folder = copy_with(peft / "embed", tmp_path / "x", use_dora=True)
    with pytest.raises(ValueError, match="use_dora on embed_tokens"):
        jaxmoe.load(peft / "base-plain", folder)


def test_named_adapters_lie_in_folders_of_their_own(peft, expected, tmp_path, caplog):
    shutil.copytree(peft / "lora", tmp_path / "out" / "mine")
    with caplog.at_level(logging.WARNING):
        lm = jaxmoe.load(peft / "base-plain", tmp_path / "out")
    assert "the adapter mine is the only one in" in caplog.text
    np.testing.assert_allclose(logits(lm, expected), expected["lora"], atol=LOGITS)
    shutil.copytree(peft / "mica", tmp_path / "out" / "yours")
    with pytest.raises(ValueError, match=r"holds 2 adapters \(mine, yours\): give the folder of one"):
        jaxmoe.load(peft / "base-plain", tmp_path / "out")
    lm = jaxmoe.load(peft / "base-plain", tmp_path / "out" / "yours")
    np.testing.assert_allclose(logits(lm, expected), expected["mica"], atol=LOGITS)


def test_changed_base_weights_are_said_and_kept_out_of_formats_without_room(peft, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        lm = jaxmoe.load(peft / "base-plain", peft / "embed")
    assert "changes weights of the base: model.embed_tokens.weight" in caplog.text
    assert lm.replaced == ("model.embed_tokens.weight",)
    adapter = read_adapter(peft / "embed", lm.config)
    fresh = random_adapter(ExpertConfig(num_experts=2, rank=2, targets=("q_proj",)), lm.config)
    with pytest.raises(ValueError, match="does more than add a low-rank product"):
        start_experts_from(fresh, [adapter], lm.config)


def test_the_folder_that_is_written_says_what_it_brings(peft, tmp_path):
    lm = jaxmoe.load(peft / "base-tied", peft / "both-tied")
    jaxmoe.save(lm, tmp_path / "out", format="peft")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert FORMAT.recognizes(config)
    assert config["modules_to_save"] == ["lm_head", "model.embed_tokens"]
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {n for n in tensors if "lora" not in n} == {
        f"{PREFIX}lm_head.weight",
        f"{PREFIX}model.embed_tokens.weight",
    }
