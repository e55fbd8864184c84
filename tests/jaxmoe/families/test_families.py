"""Families: config.json as transformers reads it, both ways; what is not known is refused in one line."""

import copy
import dataclasses
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

import jaxmoe.families as families
from jaxmoe.families import FAMILIES, config_from_hf, config_to_hf, family_of
from jaxmoe.model.config import ModelConfig, MoeConfig, RopeConfig
from tests.tiny_checkpoints import SIZES

YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}


def theirs(file: dict[str, Any]) -> Any:
    """What transformers makes of the object in a config.json."""
    return AutoConfig.for_model(**copy.deepcopy(file))


def ours(theirs):
    """The parts of a transformers config that the decoder is made of."""
    window = getattr(theirs, "sliding_window", None) or 0
    kinds = getattr(theirs, "layer_types", None) or ["sliding_attention"] * theirs.num_hidden_layers
    windows = tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    rope = theirs.rope_parameters
    rope = rope.get("full_attention", rope)
    heads = theirs.num_attention_heads
    experts = getattr(theirs, "num_experts", getattr(theirs, "num_local_experts", None))
    caps = {"attention_cap": "attn_logit_softcapping", "logit_cap": "final_logit_softcapping"}
    return {name: getattr(theirs, key, None) for name, key in caps.items()} | {
        "experts": experts,
        "experts_per_token": getattr(theirs, "num_experts_per_tok", None),
        "vocab_size": theirs.vocab_size,
        "hidden_size": theirs.hidden_size,
        "intermediate_size": theirs.intermediate_size,
        "num_layers": theirs.num_hidden_layers,
        "num_heads": heads,
        "num_kv_heads": theirs.num_key_value_heads or heads,
        "head_dim": getattr(theirs, "head_dim", None) or theirs.hidden_size // heads,
        "max_positions": theirs.max_position_embeddings,
        "norm_eps": getattr(theirs, "rms_norm_eps", None) or theirs.layer_norm_eps,
        "tie_embeddings": bool(theirs.tie_word_embeddings),
        "windows": windows if any(windows) else (),
        "bos_token_id": theirs.bos_token_id,
        "eos_token_id": theirs.eos_token_id,
        "pad_token_id": theirs.pad_token_id,
        "rope_type": rope["rope_type"],
        "rope_theta": rope["rope_theta"],
        "original": rope.get("original_max_position_embeddings"),
    }


def flat(config: ModelConfig):
    rope = config.rope
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    moe = config.moe
    return values | {
        "experts": moe and moe.num_experts,
        "experts_per_token": moe and moe.experts_per_token,
        "rope_type": rope.rope_type,
        "rope_theta": rope.rope_theta,
        "original": rope.original_max_position_embeddings,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_that_a_file_leaves_out_mean_what_they_mean_in_transformers(family):
    config = config_from_hf({"model_type": family})
    wanted = ours(AutoConfig.for_model(family))
    assert {key: flat(config)[key] for key in wanted} == wanted


OLD_ROPE = [
    {},
    {"rope_theta": 5e5},
    {"rope_scaling": None, "rope_theta": 2e4},
    {"rope_theta": 1e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_theta": 3.0},
    {"rope_parameters": YARN, "max_position_embeddings": 99},
    {"rope_parameters": {"rope_theta": 7e3}, "rope_scaling": {"type": "yarn", "factor": 2.0}},
]


@settings(max_examples=60, deadline=None)
@given(
    family=st.sampled_from(["llama", "mistral", "qwen2", "qwen3"]),
    rope=st.sampled_from(OLD_ROPE),
    heads=st.sampled_from([(4, 2), (4, 4), (8, None)]),
    head_dim=st.sampled_from([None, 8, 16]),
    window=st.sampled_from([{}, {"sliding_window": None}, {"sliding_window": 7}]),
    sliding=st.sampled_from(
        [
            {},
            {"use_sliding_window": True},
            {"use_sliding_window": True, "max_window_layers": 1},
            {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]},
            {"use_sliding_window": False, "layer_types": ["sliding_attention", "full_attention"]},
        ]
    ),
    eos=st.sampled_from([None, 2, [2, 7]]),
    tied=st.booleans(),
)
def test_a_file_is_read_as_transformers_reads_it(family, rope, heads, head_dim, window, sliding, eos, tied):
    file = {
        "model_type": family,
        **SIZES,
        **rope,
        **window,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "eos_token_id": eos,
        "tie_word_embeddings": tied,
    }
    if family == "mistral":  # whose config in transformers takes no null here
        file["num_key_value_heads"] = heads[1] or 8
    if head_dim is not None:
        file["head_dim"] = head_dim
    if family.startswith("qwen"):
        file |= sliding
    config = config_from_hf(file)
    wanted = ours(theirs(file))
    if family == "llama":
        wanted["windows"] = ()  # Llama has none, whatever its file says
    if isinstance(eos, list):
        wanted["eos_token_id"] = tuple(eos)
    assert {key: flat(config)[key] for key in wanted} == wanted
    assert config_from_hf(config_to_hf(config)) == config


KINDS = ["full_attention", "sliding_attention"]
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
NESTED = {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {"rope_theta": 7.0}}


@pytest.mark.parametrize(
    ("family", "keys", "ropes"),
    [
        ("gemma2", {}, ()),
        ("gemma2", {"layer_types": KINDS, "sliding_window": 7, "rope_theta": 5e4}, ()),
        ("gemma2", {"sliding_window": None, "query_pre_attn_scalar": 100}, ()),
        ("gemma3_text", {}, (1e4, 1e4)),
        ("gemma3_text", {"sliding_window_pattern": 2, "rope_local_base_freq": 50.0}, (50.0, 1e6)),
        (
            "gemma3_text",
            {"rope_theta": 5e5, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
            (1e4, 1e4),
        ),
        ("qwen2_moe", {"use_sliding_window": False, "sliding_window": 0}, ()),
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 5}, ()),
        ("qwen2_moe", {"use_sliding_window": True, "layer_types": KINDS}, ()),
        (
            "qwen3_moe",
            {"num_experts": 6, "num_experts_per_tok": 3, "norm_topk_prob": True, "rope_theta": 5e5},
            (),
        ),
        ("olmo2", {"rope_theta": 5e5}, ()),
        ("granite", {"logits_scaling": 13.0, "attention_multiplier": 0.3}, ()),
        ("cohere", {"layer_norm_eps": 1e-3, "logit_scale": 0.3}, ()),
        ("smollm3", {"no_rope_layers": [0, 1]}, (1e4, 2e6)),
        (
            "smollm3",
            {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 5},
            (2e6, 2e6, 2e6, 1e4),
        ),
        ("mixtral", {"sliding_window": 6, "num_local_experts": 4}, ()),
        ("gpt_oss", {"sliding_window": 6, "num_local_experts": 4, "swiglu_limit": 5.0}, ()),
        ("gpt_oss", {"rope_scaling": {**YARN, "truncate": False}, "layer_types": KINDS[::-1]}, ()),
        ("phi3", {"rope_scaling": LONG, "original_max_position_embeddings": 32}, ()),
        ("phi3", {"rope_scaling": {**LONG, "original_max_position_embeddings": 16}}, ()),
        ("gemma3_text", {"rope_parameters": NESTED, "layer_types": KINDS}, (1e6, 7.0)),
    ],
    ids=str,
)
def test_layers_of_two_kinds_are_read_as_transformers_reads_them(family, keys, ropes):
    file = {"model_type": family, **SIZES, "head_dim": 8, **keys}
    config = config_from_hf(file)
    wanted = ours(theirs(file))
    assert {key: flat(config)[key] for key in wanted} == wanted
    assert tuple(rope.rope_theta for rope in config.layer_ropes) == ropes
    again = config_to_hf(config)
    assert config_from_hf(again) == config
    assert ours(theirs(again)) == wanted


def test_switches_of_the_block():
    sizes = {k: v for k, v in SIZES.items() if k != "initializer_range"}
    llama = config_from_hf({"model_type": "llama", **sizes, "attention_bias": True, "mlp_bias": True})
    assert (llama.qkv_bias, llama.out_bias, llama.mlp_bias, llama.qk_norm) == (True, True, True, False)
    # keys of other families change nothing
    mistral = config_from_hf({"model_type": "mistral", **sizes, "attention_bias": True, "mlp_bias": True})
    assert (mistral.qkv_bias, mistral.out_bias, mistral.mlp_bias) == (False, False, False)
    qwen2 = config_from_hf({"model_type": "qwen2", **sizes, "attention_bias": False})
    assert (qwen2.qkv_bias, qwen2.out_bias, qwen2.qk_norm) == (True, False, False)
    qwen3 = config_from_hf({"model_type": "qwen3", **sizes, "attention_bias": True})
    assert (qwen3.qkv_bias, qwen3.out_bias, qwen3.qk_norm) == (True, True, True)


def test_an_unknown_family_is_refused_with_those_that_are_known():
    known = ", ".join(FAMILIES)
    for unknown in ("rwkv", None, 7, [], {"a": 1}):
        with pytest.raises(ValueError, match=f"model_type must be one of {known}; got ") as caught:
            config_from_hf({"model_type": unknown}, "x/config.json")
        assert "in x/config.json; " in str(caught.value)
        assert str(caught.value).endswith("docs/guides/add-a-model-family.md")
    with pytest.raises(ValueError, match=f"one of {known}; got 'rwkv' in model.family"):
        config_to_hf(ModelConfig(96, 32, 48, 2, 4, 2, 8, family="rwkv"))


def test_a_family_names_its_classes_and_the_weights_that_differ():
    import transformers

    for name, family in FAMILIES.items():
        assert name == family.MODEL_TYPE
        theirs = getattr(transformers, f"{family.BODY_PREFIX or family.CLASS_PREFIX}Config")
        assert theirs.model_type == name
        assert getattr(transformers, f"{family.CLASS_PREFIX}ForCausalLM").config_class is theirs
    assert family_of("llama") is FAMILIES["llama"]
    assert families.__doc__


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_act": "gelu"},
            "hidden_act must be one of swish, silu, gelu_pytorch_tanh; got 'gelu'",
        ),
        (
            {"rope_parameters": {"rope_type": "longrope"}},
            "rope_type is wrong: .*'default', 'linear'.*'longrope'",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_type linear needs factor; got none"),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 2.0}},
            "needs low_freq_factor, high_freq_factor",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor must be 1"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1"),
        ({"rope_parameters": {"factor": "x"}}, "rope_parameters: factor is wrong"),
        ({"rope_theta": -1.0}, "rope_theta is wrong: .*greater than 0"),
        ({"vocab_size": "many"}, "vocab_size is wrong"),
        ({"num_hidden_layers": 10**20}, "num_hidden_layers is wrong"),
        ({"num_hidden_layers": -3}, "num_hidden_layers is wrong"),
        ({"num_attention_heads": 0}, "num_attention_heads is wrong"),
        ({"num_key_value_heads": 3}, "num_kv_heads must divide num_heads"),
        ({"hidden_size": 2}, "head_dim must be at least 1"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is wrong"),
        ({"eos_token_id": {"a": 1}}, "eos_token_id"),
        ({"tie_word_embeddings": "perhaps"}, "tie_word_embeddings is wrong"),
    ],
    ids=str,
)
def test_values_that_cannot_be_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        config_from_hf({"model_type": "llama", **SIZES, **changes}, "x/config.json")
    assert str(caught.value).startswith("x/config.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        (
            "gemma2",
            {"hidden_activation": "gelu"},
            "hidden_activation must be one of .*; got 'gelu'",
        ),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is wrong: .*got True"),
        ("gemma2", {"final_logit_softcapping": 0.0}, "final_logit_softcapping is wrong: .*greater than 0"),
        ("gemma2", {"layer_types": KINDS[:1]}, r"layer_types must have one entry a layer \(2\); got 1"),
        ("gemma3_text", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping is wrong: .*got 5.0"),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": 3}},
            "full_attention must be an object; got 3",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"rope_type": "linear", "factor": 8.0}},
            "rope_parameters must have an object for each kind of layer; got 'rope_type'",
        ),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step must be 1, .*got 2"),
        ("qwen2_moe", {"mlp_only_layers": [1]}, r"mlp_only_layers must be empty, .*got \(1,\)"),
        (
            "mixtral",
            {"num_experts_per_tok": 9},
            "experts_per_token must lie between 1 and num_experts; got 9 and 8",
        ),
        ("phi3", {"partial_rotary_factor": 1.5}, r"partial_rotary_factor must lie in \(0, 1\]; got 1.5"),
        (
            "phi3",
            {"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [1.0]}},
            "short_factor must have 4 entries; got 1",
        ),
        ("smollm3", {"no_rope_layers": [1]}, r"no_rope_layers must have one entry a layer \(2\); got 1"),
        ("granite", {"logits_scaling": 0.0}, "logits_scaling is wrong: .*greater than 0"),
        ("gemma3", {}, "text_config of a gemma3 must be an object; got None"),
    ],
    ids=str,
)
def test_settings_that_a_family_does_not_compute_are_refused_by_name(family, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        config_from_hf({"model_type": family, **SIZES, **changes}, "x/config.json")
    assert "x/config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kinds_of_attention_that_the_decoder_lacks_are_refused():
    file = {"model_type": "qwen3", **SIZES, "use_sliding_window": True}
    with pytest.raises(ValueError, match="layer_types"):
        config_from_hf(file | {"layer_types": ["linear_attention", "full_attention"]})
    with pytest.raises(ValueError, match=r"layer_types must have one entry a layer \(2\); got 1"):
        config_from_hf(file | {"layer_types": ["full_attention"]})


@pytest.mark.parametrize(
    ("family", "switch"),
    [
        ("llama", {"qk_norm": True}),
        ("llama", {"windows": (4, 4)}),
        ("llama", {"qkv_bias": True}),  # Llama's bias is on all four projections
        ("mistral", {"windows": (4, 0)}),
        ("mistral", {"mlp_bias": True}),
        ("qwen2", {"qkv_bias": False}),
        ("qwen3", {"qk_norm": False}),
        ("llama", {"norms": "both"}),
        ("gemma2", {"embedding_scale": 2.0}),
        ("qwen3_moe", {"moe": None}),
        ("olmo2", {"joint_qk_norm": False}),
        ("cohere", {"parallel": False}),
        ("llama", {"residual_scale": 0.5}),
        ("mixtral", {"moe": MoeConfig(4, 2, 48, normalize=False)}),
        ("gpt_oss", {"attention_sinks": False}),
        ("mixtral", {"moe": MoeConfig(4, 2, 48, bias=True)}),
        ("gemma2", {"attention_scale": 0.3}),
        ("gemma3_text", {"attention_cap": 5.0}),
    ],
    ids=str,
)
def test_a_model_that_its_family_cannot_express_is_not_written(family, switch):
    """transformers would build another model from the file."""
    config = dataclasses.replace(
        config_from_hf({"model_type": family, **SIZES, "sliding_window": None}), **switch
    )
    with pytest.raises(
        ValueError, match=f"the family {family} of transformers cannot express {next(iter(switch))}"
    ):
        config_to_hf(config)


def test_scaled_rope_needs_its_original_length():
    for kind in ("llama3", "yarn"):
        with pytest.raises(ValueError, match=f"rope_type {kind} needs original_max_position_embeddings"):
            RopeConfig(kind, factor=2.0)
    kinds = get_args(RopeConfig.__annotations__["rope_type"])
    assert {*kinds} == {"default", "linear", "dynamic", "llama3", "yarn", "longrope", "none"}
    np.testing.assert_equal(RopeConfig().rope_theta, 10000.0)
