"""Adapter folders: which format one has, read and written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from jaxmoe.adapters.loramoe import loramoe_files, read_loramoe
from jaxmoe.adapters.moe_peft import moe_peft_files, read_moe_peft
from jaxmoe.adapters.peft import peft_files, read_peft
from jaxmoe.adapters.record import Adapter
from jaxmoe.adapters.tensors import CONFIG_FILE, EXTENDED, AdapterFormat, Files, read_json
from jaxmoe.model.config import ModelConfig
from jaxmoe.weights.torch_pickle import write_tensors
from jaxmoe.weights.weight_files import open_weights


def read_adapter(folder: str | Path, model: ModelConfig) -> Adapter:
    """Reads an adapter folder of any of the three formats, told apart by adapter_config.json.

    Raises: ValueError for a missing or malformed config, a kind of adapter that is not known here, settings
      that change what the adapter computes in ways not known here, and tensors that do not fit.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no adapter folder {folder}")
    config = read_json(folder / CONFIG_FILE)
    stored = open_weights(folder, "adapter_model")
    kind = config.get("peft_type")
    try:
        if kind == "LORAMOE":
            return read_moe_peft(config, stored, model, folder)
        if kind == EXTENDED or (kind == "LORA" and "lora_nums" in config):
            return read_loramoe(config, stored, model, folder)
        if kind == "LORA":
            return read_peft(config, stored, model, folder)
    except KeyError as error:
        raise ValueError(f"{folder / CONFIG_FILE} lacks {error}") from error
    raise ValueError(f"peft_type must be LORA, LORAMOE or {EXTENDED}; got {kind!r} in {folder / CONFIG_FILE}")


def write_adapter(
    folder: Path, adapter: Adapter, model: ModelConfig, format: AdapterFormat, base: str
) -> None:
    """Writes adapter_config.json and the tensors: as safetensors, and as .bin for what reads only that.

    Args:
      base: name or path of the base model, for base_model_name_or_path.
    Raises: ValueError for settings that the format cannot express.
    """
    writers: dict[str, Callable[..., Files]] = {
        "loramoe": loramoe_files,
        "moe-peft": moe_peft_files,
        "peft": peft_files,
    }
    config, tensors = writers[format](adapter, model, base)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    if format != "peft":  # PEFT reads safetensors; the other two read only this
        write_tensors(folder / "adapter_model.bin", tensors)
