"""Small random checkpoints, written by torch transformers, and random adapters for them."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxmoe import LanguageModel
from jaxmoe.adapters.record import Adapter, ModuleExperts, module_specs
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig, ModelConfig
from tests.tolerances import double_precision, doubled, rounding_bound, torch_double_precision

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def write_checkpoint(folder: Path, **settings: Any) -> Any:
    """Saves a random model of the given family (model_type) and settings; returns the torch model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**SIZES, **settings})).eval()
    with torch.no_grad():  # norms start at 1 and biases at 0: neither would show a mistake
        for name, weight in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return model


def tokenizer_with_blanks() -> PreTrainedTokenizerFast:
    """Like Llama 2's: texts begin with <s>, and words with a blank that a word alone does not show."""
    pieces = ("▁", *"abcdefghijklmnopqrstuvwxyz", "▁t", "▁th", "▁the")
    vocabulary = {piece: n for n, piece in enumerate(("<s>", "</s>", "<unk>", *pieces))}
    core = Tokenizer(models.BPE(vocabulary, [("▁", "t"), ("▁t", "h"), ("▁th", "e")], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def padded_batch(vocab: int = 96, length: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask of three rows: padded on the left, padded on the right, whole."""
    ids = np.random.default_rng(seed).integers(3, vocab, (3, length))
    mask = np.ones_like(ids)
    mask[0, : length // 3] = 0
    mask[1, length - length // 3 :] = 0
    return ids * mask, mask


def torch_logits(model: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What transformers computes in double precision, positions counted from each row's first real token."""
    import torch

    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    double = copy.deepcopy(model).double()
    double.config._experts_implementation = "eager"  # torch's grouped product has no doubles
    with torch.no_grad(), torch_double_precision():
        out = double(
            torch.tensor(ids), attention_mask=torch.tensor(mask), position_ids=torch.tensor(positions)
        )
    return out.logits.numpy()


def in_double(lm: LanguageModel) -> LanguageModel:
    """The model with float64 weights and activations, inside `double_precision`."""
    weights = lm.weights._replace(trainable=doubled(lm.weights.trainable), frozen=doubled(lm.weights.frozen))
    return dataclasses.replace(lm, dtype=jnp.float64, weights=weights)


def logits_of(lm: LanguageModel, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """What we compute in double precision."""
    with double_precision():
        return np.asarray(in_double(lm)(ids, mask).logits)


def float32_logits(config: ModelConfig, length: int, largest: float) -> float:
    """How far two float32 computations of logits of at most `largest` may lie apart.

    On its way a value is summed in each layer over D for q, k or v, H for a score, T for a mean, N·H for the
    output, D for up, F for down, and D for each of two norms; then over D for the last norm and for the head.
    """
    width, heads = config.hidden_size, config.num_heads * config.head_dim
    layer = 4 * width + heads + config.head_dim + length + config.intermediate_size
    return rounding_bound(config.num_layers * layer + 2 * width, largest)


# The same of a checkpoint of `tiny_config`: two layers, D = N·H = 32, H = 8, T = 24, F = 48, logits below 6.
FLOAT32_LOGITS = rounding_bound(2 * (5 * 32 + 8 + 24 + 48) + 2 * 32, 6.0)


def random_adapter(config: ExpertConfig, model: ModelConfig, seed: int = 0) -> Adapter:
    """Experts whose weights are all drawn, B too, so that each of them matters."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    modules = {}
    for name, spec in module_specs(config, model).items():
        kinds = 1 if config.shared_a else spec.experts
        router = None if config.routing == "none" else draw(spec.experts, spec.in_features)
        a = draw(kinds, spec.rank, spec.in_features)
        modules[name] = ModuleExperts(a, draw(spec.experts, spec.out_features, spec.rank), router)
    return Adapter(config, BalanceConfig(weight=0.05, delta=0.2), modules)
