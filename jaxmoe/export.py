"""`jaxmoe.save`: adapters, full weights and LoRAMoE models as folders that other programs load."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmoe.adapters.files import write_adapter
from jaxmoe.adapters.record import Adapter, module_specs, tree_path, unpack
from jaxmoe.adapters.tensors import EXPORT_KEY
from jaxmoe.language_model import Format, LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import PROJECTIONS
from jaxmoe.model.layers import as_array
from jaxmoe.tokenizer import save_tokenizer
from jaxmoe.weights import convert
from jaxmoe.weights.convert import CheckpointTensor, checkpoint_tensors
from jaxmoe.weights.export_folder import MAX_SHARD_BYTES, export_folder, write_shards

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMATS = ("loramoe", "hf", "peft", "moe-peft")
MODELING_FILE = Path(__file__).parent / "weights" / "hf" / "modeling_loramoe.py"
CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


def save(
    lm: LanguageModel,
    out_dir: str | Path,
    format: Format = "loramoe",
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    merge: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Writes a model or its adapter; the folder appears whole or not at all.

    Formats: "loramoe", the original's adapter folder (.bin and safetensors); "peft", plain LoRA; "moe-peft";
    "hf", a model that transformers loads: full weights, or with experts a folder for
    `AutoModelForCausalLM.from_pretrained(out_dir, trust_remote_code=True)`. Tokenizer, chat template and
    generation config of the base come along.

    Args:
      tokenizer: written instead of the base's ("hf" only).
      merge: with "hf", plain LoRA is added to the weights, and any program loads the result.
      max_shard_bytes: of each safetensors file.
    Returns: the folder.
    Raises: ValueError for an unknown format, one that cannot hold these experts, and a folder that holds
      anything but an earlier export.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}; got {format!r}")
    if format == "hf":
        lm = merged(lm) if merge else lm
        with export_folder(out_dir, "hf") as folder:
            _write_model(lm, folder, tokenizer, max_shard_bytes)
    else:
        if lm.experts is None:
            raise ValueError(f"format {format!r} holds an adapter, but the model has none: use format 'hf'")
        adapter = extract_adapter(lm)
        with export_folder(out_dir, format) as folder:
            if folder is not None:
                write_adapter(folder, adapter, lm.config, format, base_name(lm.source))
    return Path(out_dir)


def base_name(source: Path | None) -> str:
    """How an adapter names its base: the hub id of a downloaded one, else the absolute path."""
    if source is None:
        return ""
    repository = source.parent.parent.name
    if source.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/", 1)
    return str(source.absolute())


def flat_weights(lm: LanguageModel) -> dict[str, Any]:
    """All weights by path, trained or not."""
    return convert.flatten(lm.weights.frozen) | convert.flatten(lm.weights.trainable)


def extract_adapter(lm: LanguageModel) -> Adapter:
    """The model's experts on this host; raises ValueError if it has none."""
    if lm.experts is None:
        raise ValueError("the model has no experts")
    return unpack(flat_weights(lm), lm.experts, lm.balance, lm.config)


def merged(lm: LanguageModel) -> LanguageModel:
    """Plain LoRA added to the weights: W = W0 + scale · Σᵢ Aᵢ Bᵢ, in float32, stored in the weights' dtype.

    Raises: ValueError if the model has no experts, or has a router: what routed experts add depends on the
      token, so no single weight matrix does the same.
    """
    if lm.experts is None:
        raise ValueError("there is no adapter to merge")
    if lm.experts.routing != "none":
        raise ValueError(
            f"routed experts ({lm.experts.routing}) cannot be merged into the base: what they add depends on "
            "the token; export without merging, the folder then brings its own modelling file"
        )
    flat = flat_weights(lm)

    @jax.jit
    def add(kernel, a, b, scale):
        a = jnp.broadcast_to(a, (*a.shape[:2], b.shape[1], a.shape[3]))
        delta = jnp.einsum("lier,lero->lio", a, b) * scale[:, None, None]
        return (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)

    for projection in PROJECTIONS:
        experts = tree_path(projection)
        kernel = f"{experts.removesuffix('.experts')}.kernel"
        if f"{experts}.a" in flat:
            old = flat[kernel]
            old = as_array(old, lm.dtype) if convert.is_leaf(old) else old
            parts = (flat[f"{experts}.{part}"] for part in ("a", "b", "scale"))
            flat[kernel] = jax.device_put(add(old, *parts), old.sharding)
    base = {path: value for path, value in flat.items() if ".experts." not in path}
    plain = params.split(params.abstract(lm.config))
    weights = params.ModelParams(plain.definition, plain.trainable, convert.unflatten(base))
    return dataclasses.replace(lm, weights=weights, experts=None)


def _write_model(
    lm: LanguageModel, folder: Path | None, tokenizer: "PreTrainedTokenizerBase | None", max_shard_bytes: int
) -> None:
    config = lm.config.to_hf()
    flat = flat_weights(lm)
    tensors = list(checkpoint_tensors(flat))
    config["dtype"] = str(next(t.dtype for t in tensors))
    if lm.experts is not None:
        adapter = extract_adapter(lm)
        config |= _experts_section(lm, adapter)
        tensors += _expert_tensors(adapter)
        if folder is not None:
            shutil.copy(MODELING_FILE, folder / MODELING_FILE.name)
    write_shards(folder, tensors, max_shard_bytes)
    if folder is None:
        return
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    elif lm.source is not None:
        for name in TOKENIZER_FILES:
            if (lm.source / name).is_file():
                shutil.copy(lm.source / name, folder / name)
    _write_generation_config(lm, folder)


def _write_generation_config(lm: LanguageModel, folder: Path) -> None:
    """The base's own, else one with the model's special tokens, so that generation ends where it should."""
    if lm.source is not None and (lm.source / "generation_config.json").is_file():
        shutil.copy(lm.source / "generation_config.json", folder / "generation_config.json")
        return
    config = lm.config.to_hf()
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    tokens = {name: config[name] for name in names if config[name] is not None}
    text = json.dumps({"_from_model_config": True, **tokens}, indent=2)
    (folder / "generation_config.json").write_text(text, encoding="utf-8")


def _experts_section(lm: LanguageModel, adapter: Adapter) -> dict[str, Any]:
    """What config.json says of the experts: to transformers by module, and to `jaxmoe.load` as configured."""
    experts = adapter.config
    specs = module_specs(experts, lm.config).items()
    modules = {n: {"experts": s.experts, "rank": s.rank, "scale": s.scale} for n, s in specs}
    name = f"{CLASSES[lm.config.family]}LoraMoe"
    file = MODELING_FILE.stem
    return {
        "model_type": f"{EXPORT_KEY}_{lm.config.family}",
        "architectures": [f"{name}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{file}.{name}Config",
            "AutoModelForCausalLM": f"{file}.{name}ForCausalLM",
        },
        EXPORT_KEY: {
            "routing": experts.routing,
            "top_k": experts.top_k,
            "top_p": experts.top_p,
            "shared_a": experts.shared_a,
            "modules": modules,
            "experts": dataclasses.asdict(experts),
            "balance": dataclasses.asdict(adapter.balance),
        },
    }


def _expert_tensors(adapter: Adapter) -> Iterator[CheckpointTensor]:
    for name, module in adapter.modules.items():
        for part, array in zip(("lora_a", "lora_b", "router"), module, strict=True):
            if array is not None:
                whole: np.ndarray = np.ascontiguousarray(array)
                yield CheckpointTensor(
                    f"model.{name}.{part}", whole.shape, whole.dtype, lambda whole=whole: whole
                )
