"""`jaxmoe.save`: adapters, full weights and LoRAMoE models as folders that other programs load."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxmoe.adapters.base_changes import BaseChanges
from jaxmoe.adapters.exported import EXPORT_KEY, exported_names, exported_section, exported_tensors
from jaxmoe.adapters.files import FORMATS, AdapterFormat, write_adapter
from jaxmoe.adapters.record import Adapter, tree_path, unpack
from jaxmoe.families import HfConfig, config_to_hf, family_of
from jaxmoe.json_files import read_json
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import EXPERT_BLOCK, PROJECTIONS
from jaxmoe.model.quantized import as_array, is_quantized
from jaxmoe.model.shapes import Array, Weight
from jaxmoe.progress import say
from jaxmoe.text.stop_tokens import as_ids, stop_tokens
from jaxmoe.tokenizer import save_tokenizer
from jaxmoe.weights import convert
from jaxmoe.weights.convert import CheckpointTensor, checkpoint_tensors, weight_table
from jaxmoe.weights.export_folder import MAX_SHARD_BYTES, export_folder, write_shards
from jaxmoe.weights.fused import joined
from jaxmoe.weights.gguf_folder import file_behind
from jaxmoe.weights.weight_files import stored_array

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Format = Literal["hf"] | AdapterFormat
MODELING_FILE = Path(__file__).parent / "weights" / "hf" / "modeling_loramoe.py"
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
    `AutoModelForCausalLM.from_pretrained(out_dir, trust_remote_code=True)`. The base's tokenizer, chat
    template and generation config are included. A quantized base is written dequantized, in the model's
    dtype.

    Args:
      tokenizer: written instead of the base's ("hf" only).
      merge: with "hf", plain LoRA is added to the weights, and any program loads the result.
      max_shard_bytes: of each safetensors file.
    Returns: the folder.
    Raises: ValueError for an unknown format, one that cannot hold these experts, merge with one that holds no
      base, and a folder that holds anything but an earlier export.
    """
    if format not in ("hf", *FORMATS):
        raise ValueError(f"format must be one of {', '.join(('hf', *FORMATS))}; got {format!r}")
    check_merge(format, merge)
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
                base = base_name(lm.source)
                write_adapter(folder, adapter, lm.config, format, base)
                if base.endswith(".gguf"):
                    say(
                        f"the adapter's base is {base}; other programs need it as a folder: "
                        f"jaxmoe export base={base} format=hf output=FOLDER"
                    )
    return Path(out_dir)


def check_merge(format: Format, merge: bool) -> None:
    """Refuses to merge into a base that a format does not hold.

    Args:
      format: to write.
      merge: whether an adapter is to be added to the weights.
    Raises: ValueError that names the format.
    """
    if merge and format != "hf":
        raise ValueError(
            f"format {format!r} holds an adapter alone, so there is nothing to merge it with: use format "
            "'hf', or leave merge out"
        )


def base_name(source: Path | None) -> str:
    """How an adapter names its base: the hub id of a downloaded one, else the path of its folder or file."""
    if source is None:
        return ""
    if file := file_behind(source):
        return str(file)
    repository = source.parent.parent.name
    if source.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/", 1)
    return str(source.absolute())


def flat_weights(lm: LanguageModel) -> dict[str, Weight]:
    """All weights by path, trained or not."""
    return convert.flatten(lm.weights.frozen) | convert.flatten(lm.weights.trainable)


def extract_adapter(lm: LanguageModel) -> Adapter:
    """The model's experts on this host, with the weights in which its base differs from the checkpoint.

    Raises: ValueError if it has no experts.
    """
    if lm.experts is None:
        raise ValueError("the model has no experts")
    flat = flat_weights(lm)
    adapter = unpack(flat, lm.experts, lm.balance, lm.config)
    brought = {
        tensor.name: stored_array(tensor.read())
        for tensor in checkpoint_tensors(weight_table(lm.config), flat)
        if tensor.name in lm.replaced
    }
    # a head that is still tied follows the embedding itself; a head of its own does not
    tied = lm.config.tie_embeddings
    changes = BaseChanges(replaced=brought) if tied else BaseChanges(copied=brought)
    return dataclasses.replace(adapter, base=changes)


def merged(lm: LanguageModel) -> LanguageModel:
    """Plain LoRA added to the weights: W = W0 + scale · Σᵢ Aᵢ Bᵢ, in float32, stored in the weights' dtype.

    A quantized W0 is dequantized first, and the sum is stored in the model's dtype. With DoRA each column of
    the sum is rescaled to its magnitude.

    Raises: ValueError if the model has no experts, or has a router: what routed experts add depends on the
      token, so no single weight matrix can do the same.
    """
    if lm.experts is None:
        raise ValueError("there is no adapter to merge")
    if lm.experts.routing != "none":
        raise ValueError(
            f"routed experts ({lm.experts.routing}) cannot be merged into the base: what they add depends on "
            "the token; export without merging, the folder then brings its own modeling file"
        )
    flat = flat_weights(lm)
    if f"{tree_path(EXPERT_BLOCK)}.a" in flat:
        raise ValueError(
            "an adapter beside a block of experts is no part of any weight matrix: export without merging"
        )

    @jax.jit
    def add(kernel: Weight, a: Array, b: Array, scale: Array, magnitude: Array | None) -> Array:
        a = jnp.broadcast_to(a, (*a.shape[:2], b.shape[1], a.shape[3]))
        delta = jnp.einsum("lier,lero->lio", a, b) * scale[:, None, None]
        whole = as_array(kernel, jnp.float32) + delta
        if magnitude is not None:  # a layer without experts has magnitude 0 and keeps its weights
            factor = magnitude / jnp.linalg.norm(whole, axis=1)
            whole *= jnp.where(magnitude == 0, 1.0, factor)[:, None, :]
        return whole.astype(lm.dtype if is_quantized(kernel) else kernel.dtype)

    for projection in PROJECTIONS:
        experts = tree_path(projection)
        kernel = f"{experts.removesuffix('.experts')}.kernel"
        if f"{experts}.a" in flat:
            old = flat[kernel]
            where = old.values.sharding if is_quantized(old) else old.sharding
            parts = [flat[f"{experts}.{part}"] for part in ("a", "b", "scale")]
            parts.append(flat.get(f"{experts}.magnitude"))
            flat[kernel] = jax.device_put(add(old, *parts), where)
    base = {path: value for path, value in flat.items() if ".experts." not in path}
    plain = params.split(params.abstract(lm.config))
    weights = params.ModelParams(plain.definition, plain.trainable, convert.unflatten(base))
    return dataclasses.replace(lm, weights=weights, experts=None)


def _write_model(
    lm: LanguageModel, folder: Path | None, tokenizer: "PreTrainedTokenizerBase | None", max_shard_bytes: int
) -> None:
    config = config_to_hf(lm.config)
    family = family_of(lm.config.family)
    tensors = list(checkpoint_tensors(weight_table(lm.config), flat_weights(lm), lm.dtype))
    if lm.experts is not None or family.FUSED_FILES:
        tensors = joined(tensors, family.FUSED, lm.config.num_layers)
    config["dtype"] = str(next(t.dtype for t in tensors))
    if lm.experts is not None:
        if lm.experts.dora:
            raise ValueError("format 'hf' holds no DoRA beside the weights: use merge=True, or format 'peft'")
        adapter = extract_adapter(lm)
        config |= _entry_points(family) | {EXPORT_KEY: exported_section(adapter, lm.config)}
        names = exported_names([t.name for t in tensors], adapter)
        tensors = [t._replace(name=name) for t, name in zip(tensors, names, strict=True)]
        tensors += [_host_tensor(name, array) for name, array in exported_tensors(adapter)]
        if folder is not None:
            (folder / MODELING_FILE.name).write_text(modeling_file(family), encoding="utf-8")
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
    _write_generation_config(lm, folder, tokenizer)


def _entry_points(family: type[HfConfig]) -> dict[str, object]:
    """Config.json's entries for the classes in the modeling file: what servers load, and what generates."""
    name = f"{family.CLASS_PREFIX}LoraMoe"
    classes = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
    return {
        "model_type": f"{EXPORT_KEY}_{family.MODEL_TYPE}",
        "architectures": [f"{name}ForCausalLM"],
        "auto_map": {auto: f"{MODELING_FILE.stem}.{name}{kind}" for auto, kind in classes.items()},
    }


def modeling_file(family: type[HfConfig]) -> str:
    """The modeling file for a family: the one for Llama with the family's names."""
    text = MODELING_FILE.read_text(encoding="utf-8")
    text = text.replace(f"{EXPORT_KEY}_llama", f"{EXPORT_KEY}_{family.MODEL_TYPE}")
    for kind in ("Config", "Model"):
        text = text.replace(f"Llama{kind}", f"{family.BODY_PREFIX or family.CLASS_PREFIX}{kind}")
    return text.replace("Llama", family.CLASS_PREFIX)


def _host_tensor(name: str, array: np.ndarray) -> CheckpointTensor:
    whole = np.ascontiguousarray(array)
    return CheckpointTensor(name, whole.shape, whole.dtype, lambda: whole)


def _write_generation_config(
    lm: LanguageModel, folder: Path, tokenizer: "PreTrainedTokenizerBase | None"
) -> None:
    """Writes the base's own, or else one with the model's special tokens; both list every token that ends an
    answer, so that other programs stop where ours do."""
    base = None if lm.source is None else lm.source / "generation_config.json"
    settings: dict[str, object]
    if base is not None and base.is_file():
        settings = read_json(base)
    else:
        given = {"bos_token_id": lm.config.bos_token_id, "pad_token_id": lm.config.pad_token_id}
        settings = {"_from_model_config": True, **{k: v for k, v in given.items() if v is not None}}
    ends = lm.stop_tokens if tokenizer is None else stop_tokens(tokenizer, lm.stop_tokens)
    if ends and {*ends} != {*as_ids(settings.get("eos_token_id"))}:
        settings["eos_token_id"] = [*ends] if len(ends) > 1 else next(iter(ends))
    text = json.dumps(settings, indent=2)
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
