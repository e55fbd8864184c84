"""A GGUF file as a checkpoint folder: config, tokenizer, chat template, and a note of where the weights are.

The folder lies in the cache and holds no weights: those are dequantized from the GGUF file whenever they are
read. So anything that takes a Hugging Face folder takes a GGUF file, and export writes its tokenizer and
template.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from jaxmoe.json_values import JsonObject
from jaxmoe.weights.gguf_file import GGUF, read_gguf
from jaxmoe.weights.gguf_tokenizer import build_tokenizer

# In a folder whose weights are those of a GGUF file: {"file": where it is, "bytes": its size}
NOTE = "gguf.json"
# raised when the written content changes, so that older folders are rebuilt
_LAYOUT = 2
_HASHED_BYTES = 1 << 20


def gguf_folder(file: str | Path, cache: Path) -> Path:
    """The checkpoint folder of a GGUF file, made on first use.

    Args:
      file: the .gguf file; it is read again for the weights and must stay where it is.
      cache: the folder that holds such folders.
    Returns: a folder with config.json, generation_config.json, tokenizer.json, chat template and the note.
    Raises: ValueError for a file that `read_gguf` or the tokenizer refuses.
    """
    path = Path(file).resolve()
    folder = cache / f"{path.stem}-{file_fingerprint(path)}"
    if (noted := _noted(folder)) is None or noted["file"] != str(path):
        cache.mkdir(parents=True, exist_ok=True)
        # made beside it and moved there whole, so that no other process reads a half
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=cache))
        made = work / folder.name
        try:
            _write(read_gguf(path), made)
            content = {"file": str(path), "bytes": path.stat().st_size}
            (made / NOTE).write_text(json.dumps(content), encoding="utf-8")
            _put(made, folder, work / "old")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def _put(made: Path, folder: Path, old: Path) -> None:
    """Moves a folder into its place; another process may have put the same one there first."""
    try:
        if folder.exists():
            folder.rename(old)
        made.rename(folder)
    except OSError:
        if _noted(folder) is None:
            raise


def _noted(folder: Path) -> JsonObject | None:
    """A folder's note; None if there is none, or half of one."""
    try:
        noted = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return noted if isinstance(noted, dict) and {"file", "bytes"} <= noted.keys() else None


def file_fingerprint(path: Path) -> str:
    """Identifies a GGUF file by its size and both ends: the beginning holds every field, the end weights.

    Args:
      path: of the file.
    Returns: 16 hexadecimal digits.
    Raises: ValueError if it cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            parts = [file.read(_HASHED_BYTES)]
            file.seek(max(0, size - _HASHED_BYTES))
            parts.append(file.read(_HASHED_BYTES))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    return hashlib.sha256(f"{_LAYOUT} {size} ".encode() + b"".join(parts)).hexdigest()[:16]


def _write(model: GGUF, folder: Path) -> None:
    folder.mkdir()
    tokenizer = _tokenizer(model, folder)
    tokenizer.save_pretrained(folder)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ends = {name: model.config[name] for name in names if model.config[name] is not None}
    for name, content in (("config.json", model.config), ("generation_config.json", ends)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _tokenizer(model: GGUF, folder: Path) -> PreTrainedTokenizerFast:
    try:
        return _build(model)
    except ValueError:
        raise
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ValueError(
            f"the tokenizer in the GGUF file of {folder.name} is damaged: {str(error) or repr(error):.120}"
        ) from error


def _build(model: GGUF) -> PreTrainedTokenizerFast:
    fields = model.tokenizer
    tokens = fields.get("ggml.tokens") or []
    built = build_tokenizer(fields, gemma=str(model.config["model_type"]).startswith("gemma"))
    named: JsonObject = {
        name: tokens[fields[f"ggml.{key}_token_id"]]
        for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"))
        if fields.get(f"ggml.{key}_token_id") is not None
    }
    if fields.get("ggml.padding_token_id") is not None:
        named["pad_token"] = tokens[fields["ggml.padding_token_id"]]
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        chat_template=fields.get("chat_template"),
        model_max_length=model.config["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
        **named,
    )


def file_behind(folder: Path) -> Path | None:
    """The GGUF file that a folder stands for, whether or not it exists; None if it has weights of its own."""
    return Path(noted["file"]) if (noted := _noted(folder)) is not None else None


def noted_gguf(folder: Path) -> GGUF | None:
    """The GGUF file whose weights a folder stands for; None if it has weights of its own.

    Raises: ValueError if the file is no longer there, or has another size.
    """
    if (noted := _noted(folder)) is None:
        return None
    path = Path(noted["file"])
    if not path.is_file() or path.stat().st_size != noted["bytes"]:
        raise ValueError(
            f"{folder} stands for {path}, which is no longer there as it was; give the file again"
        )
    return read_gguf(path)
