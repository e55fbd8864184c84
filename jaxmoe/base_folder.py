"""What a base's name stands for: a folder, a GGUF file, a named model, a repository on the hub."""

import re
from pathlib import Path

from jaxmoe.cache import cache_folder
from jaxmoe.named_models import NAMED_MODELS, named_model
from jaxmoe.weights.gguf_folder import gguf_folder

# one download serves every use: weights, tokenizer, chat template, generation config
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def is_gguf(base: str | Path) -> bool:
    """Whether a base is a GGUF file, by its ending, or a named model, which is one."""
    return str(base) in NAMED_MODELS or (Path(base).suffix == ".gguf" and not Path(base).is_dir())


def _folder_of_gguf(base: str | Path) -> Path:
    file = named_model(str(base)) if str(base) in NAMED_MODELS else Path(base)
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    return gguf_folder(file, cache_folder("gguf"))


def local_folder(base_dir: str | Path) -> Path:
    """The checkpoint folder that a base's name stands for, fetched once where it is not here.

    Args:
      base_dir: a folder, a GGUF file, a named model or a hub id (owner/name).
    Returns: a folder with config.json and tokenizer; of a GGUF file it notes where the weights are.
    Raises: ValueError if it is none of these, or cannot be fetched.
    """
    folder = Path(base_dir)
    if folder.is_dir():
        return folder
    if is_gguf(base_dir):
        return _folder_of_gguf(base_dir)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(base_dir)):
        raise ValueError(
            f"a base is a folder, a .gguf file, a hub id (owner/name) or one of {', '.join(NAMED_MODELS)}; "
            f"{base_dir} is none of them"
        )
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(base_dir), allow_patterns=list(HUB_FILES)))
        if not list(folder.glob("*.safetensors*")):
            folder = Path(snapshot_download(str(base_dir), allow_patterns=[*HUB_FILES, "*.bin"]))
    except Exception as error:  # the hub's client raises many kinds
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"there is no folder {base_dir}, and as a hub id: {reason}") from error
    return folder
