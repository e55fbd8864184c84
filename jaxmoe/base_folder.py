"""What a base's name stands for: a folder, a GGUF file, a named model, a repository on the hub."""

import re
from pathlib import Path

from jaxmoe.cache import cache_folder
from jaxmoe.named_models import NAMED_MODELS, named_model
from jaxmoe.weights.gguf_folder import gguf_folder

# one download serves every use: weights, tokenizer, chat template, generation config
SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
HUB_FILES = (*SMALL_FILES, "*.safetensors")


def is_gguf(base: str | Path) -> bool:
    """Whether a base is a GGUF file (by its suffix) or a named model, which is one."""
    return str(base) in NAMED_MODELS or (Path(base).suffix == ".gguf" and not Path(base).is_dir())


def _folder_of_gguf(base: str | Path) -> Path:
    file = named_model(str(base)) if str(base) in NAMED_MODELS else Path(base)
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    return gguf_folder(file, cache_folder("gguf"))


def local_folder(base_dir: str | Path, revision: str | None = None) -> Path:
    """The checkpoint folder that a base's name stands for, fetched once if it is not here.

    Args:
      base_dir: a folder, a GGUF file, a named model or a hub id (owner/name, or owner/name@revision).
      revision: commit, branch or tag on the hub; the main branch if not given.
    Returns: a folder with config.json and tokenizer; that of a GGUF file notes where the weights are, that of
      a repository on the hub is named by its commit.
    Raises: ValueError if it is none of these or cannot be fetched, and for a revision if it is no hub id.
    """
    folder = Path(base_dir)
    if folder.is_dir() or is_gguf(base_dir):
        if revision is not None:
            raise ValueError(
                f"a revision is of a repository on the hub; {base_dir} is none (got {revision!r})"
            )
        return folder if folder.is_dir() else _folder_of_gguf(base_dir)
    if not is_hub_id(base_dir):
        raise ValueError(
            f"a base is a folder, a .gguf file, a hub id (owner/name) or one of {', '.join(NAMED_MODELS)}; "
            f"{base_dir} is none of them"
        )
    return hub_folder(str(base_dir), revision)


def is_hub_id(name: str | Path) -> bool:
    """Whether a name has the form of a hub id, owner/name or owner/name@revision."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", str(name)) is not None


def pinned(name: str, before: str | None = None, *, weights: bool = True) -> str:
    """A name that stands for the same bytes from now on: owner/name@commit for a hub id.

    Args:
      name: as `local_folder` takes it.
      before: what the name was pinned to; this is kept, unless the name has a revision of its own.
      weights: whether to fetch the weights too.
    Returns: the name with its commit; the name of a folder, GGUF file or named model is unchanged.
    Raises: ValueError, in one line, if the repository cannot be fetched.

    >>> pinned("smollm2-135m-instruct")
    'smollm2-135m-instruct'
    """
    if Path(name).exists() or is_gguf(name) or not is_hub_id(name):
        return name
    if before is not None and before.partition("@")[0] == name:
        return before
    return f"{name.partition('@')[0]}@{hub_folder(name, weights=weights).name}"


def hub_folder(hub_id: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """A repository on the hub as a folder, fetched once; it is named by its commit.

    Args:
      hub_id: owner/name or owner/name@revision.
      revision: commit, branch or tag; the main branch if not given.
      weights: fetch them too; a tokenizer needs none.
    Returns: the snapshot in the hub's cache.
    Raises: ValueError, in one line, if it cannot be fetched, or two revisions are given.
    """
    from huggingface_hub import snapshot_download

    given = hub_id
    hub_id, _, named = hub_id.partition("@")
    if named and revision not in (None, named):
        raise ValueError(f"{hub_id}@{named} names a revision; got {revision!r} besides")
    revision, patterns = named or revision, HUB_FILES if weights else SMALL_FILES
    try:
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns)))
        if weights and not list(folder.glob("*.safetensors*")):
            patterns = [*HUB_FILES, "*.bin"]  # of the same commit: a branch may have moved in between
            folder = Path(snapshot_download(hub_id, revision=folder.name, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises many kinds
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"there is no folder {given}, and as a hub id: {reason}") from error
    return folder
