"""The tensors of a checkpoint folder by name, read a slice at a time."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxmoe.json_files import read_json
from jaxmoe.weights.torch_pickle import read_tensors

SAFETENSORS_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# a tensor in MXFP4 is stored as two byte tensors (`jaxmoe.weights.mxfp4`)
MXFP4_PARTS = ("_blocks", "_scales")


class StoredTensor(NamedTuple):
    """A tensor on disk.

    Attributes:
      read: the part at an index of slices, as a numpy array; nothing else is read.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[tuple[slice, ...]], np.ndarray]

    def all(self) -> np.ndarray:
        """The whole tensor."""
        return self.read((slice(None),) * len(self.shape))


def stored_array(array: np.ndarray) -> StoredTensor:
    """An array in memory as a stored tensor."""
    return StoredTensor(array.shape, array.dtype, array.__getitem__)


def open_weights(
    folder: str | Path, stem: str = "model", bin_stem: str | None = None
) -> dict[str, StoredTensor]:
    """Every tensor of a folder: `{stem}.safetensors` or its shards and index, else the same as .bin.

    Args:
      folder: of a checkpoint or an adapter.
      stem: name of the files without their ending.
      bin_stem: name of .bin files where it differs ("pytorch_model" instead of "model").
    Returns: the tensors by name; their values are read when they are asked for.
    Raises: ValueError for missing, truncated or unreadable files, naming them.
    """
    folder = Path(folder)
    for name in (f"{stem}.safetensors", f"{bin_stem or stem}.bin"):
        for path in (folder / name, folder / f"{name}.index.json"):
            if path.is_file():
                return _open_file(path) if path.name == name else _open_shards(path)
    raise ValueError(
        f"{folder} holds no weights: no {stem}.safetensors, no {bin_stem or stem}.bin, no index of either"
    )


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file as transformers and PEFT do, marked as torch's; arrays are made contiguous on the way.

    Args:
      path: of the file, replaced if it exists.
      tensors: arrays of any shape by name.
    """
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(arrays, path, {"format": "pt"})


def compare_names(found: Iterable[str], expected: Mapping[str, tuple[int, ...]], where: object) -> None:
    """Raises ValueError, listing names, if tensors are missing or unexpected.

    Args:
      found: names of the tensors that are there.
      expected: names of those that should be; the shapes do not count here.
      where: the folder, for the error message.
    """
    found = set(found)
    problems = []
    if missing := sorted(set(expected) - found):
        problems.append(f"missing: {some(missing)}")
    if unexpected := sorted(found - set(expected)):
        problems.append(f"unexpected: {some(unexpected)}")
    if problems:
        raise ValueError(f"the weights in {where} do not fit the model; {'; '.join(problems)}")


def compare_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: object
) -> None:
    """Raises ValueError, listing names with both shapes, if tensors do not have the shapes expected.

    Args:
      found: shapes by name, at least of all that are expected.
      expected: shapes by name.
      where: the folder, for the error message.
    """
    wrong = [f"{n} is {list(found[n])}, not {list(s)}" for n, s in expected.items() if found[n] != s]
    if wrong:
        raise ValueError(f"the weights in {where} do not fit the model; wrong shapes: {some(wrong, '; ')}")


def some(names: list[str], separator: str = ", ", most: int = 12) -> str:
    """A list for an error message, cut off before it fills the screen.

    Args:
      names: in the order in which they are to be shown.
      separator: between two of them.
      most: how many are shown, each up to 200 characters; the others are counted.
    Returns: the text, such as "a, b and 3 more".
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(name[:200] for name in names[:most]) + more


def same_values(first: StoredTensor, second: StoredTensor, rows: int = 4096) -> bool:
    """Whether two tensors hold the same numbers, read `rows` at a time.

    Args:
      first: a matrix.
      second: the one to compare it with.
      rows: read into memory at once.
    Returns: False also where the shapes differ.
    """
    if first.shape != second.shape:
        return False
    total = first.shape[0]
    parts = [(slice(r, min(r + rows, total)), slice(None)) for r in range(0, total, rows)]
    return all(np.array_equal(first.read(part), second.read(part)) for part in parts)


def _is_plain_name(name: str) -> bool:
    """Whether a text names a file in a folder, rather than a path elsewhere."""
    possible = 0 < len(name.encode(errors="surrogatepass")) < 256 and not {"\\", "\0"} & set(name)
    return possible and name == Path(name).name and name not in (".", "..")


def _open_shards(index: Path) -> dict[str, StoredTensor]:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise ValueError(f"{index} is no weight index: it has no weight_map from tensors to files")
    files = sorted({str(file) for file in where.values()})
    # a name must be that of a file next to the index, never a path to one elsewhere
    if outside := [f for f in files if not _is_plain_name(f)]:
        raise ValueError(
            f"{index} must name files that lie beside it; got {some([repr(f[:80]) for f in outside], most=3)}"
        )
    if absent := [f for f in files if not (index.parent / f).is_file()]:
        raise ValueError(f"{index} names files that are missing beside it: {some(absent)}")
    tensors = {name: t for f in files for name, t in _open_file(index.parent / f).items()}
    if lost := sorted(set(where) - set(tensors)):
        raise ValueError(f"{index} names tensors that its files lack: {some(lost)}")
    return tensors


def _open_file(path: Path) -> dict[str, StoredTensor]:
    if path.suffix == ".bin":
        return {name: stored_array(array) for name, array in read_tensors(path).items()}
    try:
        file = safe_open(path, framework="np")
        views = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} is damaged or truncated ({reason}); fetch it again") from error
    return {name: _stored(path, name, view) for name, view in views.items()}


class _View(Protocol):
    """What safetensors returns for a tensor: it reads the part that it is asked for."""

    def get_dtype(self) -> str: ...

    def get_shape(self) -> list[int]: ...

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray: ...


def _stored(path: Path, name: str, view: _View) -> StoredTensor:
    kind = view.get_dtype()
    if kind == "U8" and name.endswith(MXFP4_PARTS):
        return StoredTensor(tuple(view.get_shape()), np.dtype(np.uint8), view.__getitem__)
    if kind not in SAFETENSORS_DTYPES:
        raise ValueError(
            f"tensors must be one of {', '.join(SAFETENSORS_DTYPES)}; {name} in {path} is {kind}: "
            "give the checkpoint before quantization"
        )
    return StoredTensor(tuple(view.get_shape()), SAFETENSORS_DTYPES[kind], view.__getitem__)
