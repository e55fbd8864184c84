"""Adapter folders: which format one has, reading, writing. A format is a file, and a line in `FORMATS`."""

import json
import logging
from pathlib import Path
from typing import Literal

from jaxmoe.adapters import loramoe, moe_peft, peft
from jaxmoe.adapters.record import Adapter
from jaxmoe.adapters.tensors import CONFIG_FILE, AdapterFolder, FileFormat
from jaxmoe.json_files import read_json
from jaxmoe.model.config import ModelConfig
from jaxmoe.weights.torch_pickle import write_tensors
from jaxmoe.weights.weight_files import open_weights, some, write_safetensors

AdapterFormat = Literal["loramoe", "moe-peft", "peft"]
FORMATS: dict[str, FileFormat] = {
    format.name: format
    for format in (
        loramoe.FORMAT,
        moe_peft.FORMAT,
        peft.FORMAT,
    )
}
log = logging.getLogger(__name__)


def read_adapter(folder: str | Path, model: ModelConfig) -> Adapter:
    """Reads an adapter folder of any known format, recognized by its adapter_config.json.

    Args:
      folder: with adapter_config.json and adapter_model.safetensors or .bin; or one that contains such a
        folder, as PEFT writes a named adapter.
      model: the base model that the adapter is for.
    Returns: the adapter, its tensors in float32.
    Raises: ValueError, in one line, for a missing or malformed config, an unknown kind of adapter, unknown
      settings that change what the adapter computes, and tensors that do not fit.
    """
    format, opened = open_adapter(folder)
    adapter = format.read(opened, model)
    if names := list(adapter.base.names):
        log.warning(
            "the adapter %s changes weights of the base: %s; they are loaded as part of it and stay as they "
            "are when experts are trained",
            opened.path,
            some(names, most=3),
        )
    return adapter


def open_adapter(folder: str | Path) -> tuple[FileFormat, AdapterFolder]:
    """Opens an adapter folder, as `read_adapter` does, without reading its tensors.

    Args:
      folder: as for `read_adapter`.
    Returns: its format, and the folder with its settings.
    Raises: ValueError, in one line, for a missing or malformed config or weight file, and an unknown kind of
      adapter.
    """
    found = adapter_folder(Path(folder))
    config = read_json(found / CONFIG_FILE)
    format = next((one for one in FORMATS.values() if one.recognizes(config)), None)
    if format is None:
        raise ValueError(
            f"peft_type must be LORA, LORAMOE or {loramoe.EXTENDED}; got {config.get('peft_type')!r:.80} in "
            f"{found / CONFIG_FILE}"
        )
    return format, AdapterFolder(found, config, open_weights(found, "adapter_model"))


def adapter_folder(folder: Path) -> Path:
    """The folder with adapter_config.json: this one, or the only one in it that has one.

    Raises: ValueError if there is none, or several named ones.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no adapter folder {folder}")
    if (folder / CONFIG_FILE).is_file():
        return folder
    named = sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))
    if len(named) > 1:
        names = some([path.name for path in named])
        raise ValueError(f"{folder} holds {len(named)} adapters ({names}): give the folder of one of them")
    if not named:
        raise ValueError(f"{folder} has no {CONFIG_FILE}")
    log.warning("the adapter %s is the only one in %s", named[0].name, folder)
    return named[0]


def write_adapter(
    folder: Path, adapter: Adapter, model: ModelConfig, format: AdapterFormat, base: str
) -> None:
    """Writes adapter_config.json and the tensors: as safetensors, and as .bin for what reads only that.

    Args:
      folder: an existing one.
      base: name or path of the base model, for base_model_name_or_path.
    Raises: ValueError for settings that the format cannot express.
    """
    config, tensors = FORMATS[format].write(adapter, model, base)
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    if FORMATS[format].needs_bin:
        write_tensors(folder / "adapter_model.bin", tensors)
