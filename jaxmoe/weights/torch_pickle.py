"""torch.save files of plain tensor dictionaries, read and written without torch.

Such a file is an uncompressed zip: `<root>/data.pkl`, a pickle whose tensors refer to storages by persistent
id, and `<root>/data/<key>`, one storage each. A pickle can call anything it can name, so the files are read
by a reader of our own (`jaxmoe.weights.pickle_values`) that knows the few names a dictionary of tensors needs
and nothing else. Not covered: files from before torch 1.6, big-endian files, whole pickled modules, sparse
and quantized tensors, tensors that repeat their values (stride 0).
"""

import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from jaxmoe.weights.pickle_values import Offered, PickleError, load

STORAGES: dict[str, np.dtype] = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
MAX_PICKLE_BYTES = 1 << 24  # names and shapes only; 16 MiB is some 100,000 tensors


# Errors that a damaged file may raise: our own, and many kinds of zipfile's.
_DAMAGE = (
    PickleError,
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a torch.save file, memory-mapped: nothing is read before it is used.

    Args:
      path: of the file.
    Returns: arrays by name, read-only.
    Raises: ValueError, in one line, if the file is damaged, or holds anything but a dictionary of tensors.
    """
    path = Path(path)
    try:
        loaded = _load_pickle(path)
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be read as a torch.save file of plain tensors: {reason}") from error
    tensors: dict[str, np.ndarray] = {}
    for name, value in loaded.items() if isinstance(loaded, dict) else [("", None)]:
        if not isinstance(name, str) or not isinstance(value, _Values):
            raise ValueError(f"{path} must hold a dictionary of tensors and nothing else")
        tensors[name] = value.array
    return tensors


def _load_pickle(path: Path) -> object:
    with zipfile.ZipFile(path) as archive:
        members = {m.filename: m for m in archive.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise PickleError("there is no data.pkl in it")
        if any(m.compress_type != zipfile.ZIP_STORED for m in members.values()):
            raise PickleError("it is compressed, which torch.save never does")
        root = pickles[0].removesuffix("data.pkl")
        order = members.get(f"{root}byteorder")
        if order is not None and (order.file_size > 16 or archive.read(order) != b"little"):
            raise PickleError("it was written on a big-endian machine")
        if members[pickles[0]].file_size > MAX_PICKLE_BYTES:
            raise PickleError("its pickle is larger than names and shapes can be")
        storages = {name.removeprefix(f"{root}data/"): member for name, member in members.items()}
        data = archive.read(pickles[0])

    def refer(pid: object) -> _Values:
        if not isinstance(pid, tuple) or len(pid) != 5:
            raise PickleError("it refers to what is no storage")
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _StorageType):
            raise PickleError("it refers to what is no storage")
        if not isinstance(key, str) or key not in storages or type(count) is not int:
            raise PickleError("it refers to a storage that is not there")
        return _Values(_open_storage(path, storages[key], storage.dtype, count))

    return load(data, Offered(_named, _called, refer))


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file that torch.load reads, also with weights_only=True.

    Args:
      path: of the file, replaced if it exists.
      tensors: arrays of any shape by name; their order is kept.
    Raises: ValueError for a dtype that torch has no storage for.
    """
    names = {dtype: name for name, dtype in STORAGES.items()}
    root = Path(path).stem
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    for name, array in arrays.items():
        if array.dtype not in names:
            raise ValueError(f"torch has no storage for {array.dtype}; got it for {name}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        described = [(n, names[a.dtype], a.shape) for n, a in arrays.items()]
        archive.writestr(f"{root}/data.pkl", _state_dict_pickle(described))
        archive.writestr(f"{root}/byteorder", "little")
        for key, array in enumerate(arrays.values()):
            with archive.open(f"{root}/data/{key}", "w", force_zip64=True) as file:
                file.write(array.tobytes())
        archive.writestr(f"{root}/version", "3\n")


class _StorageType(NamedTuple):
    """Stands for torch.FloatStorage and the like."""

    dtype: np.dtype


class _Values(NamedTuple):
    """One storage as a flat array, or one tensor."""

    array: np.ndarray


_REBUILD, _ORDERED_DICT = object(), object()


def _named(module: str, name: str) -> object:
    """What a global of the pickle stands for."""
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
        return _REBUILD
    if (module, name) == ("collections", "OrderedDict"):
        return _ORDERED_DICT
    if module == "torch" and name in STORAGES:
        return _StorageType(STORAGES[name])
    raise PickleError(f"it asks for {module}.{name}, which no tensor needs")


def _called(function: object, arguments: tuple[object, ...]) -> object:
    """The only calls allowed: a new dictionary, and a tensor from its storage."""
    if function is _ORDERED_DICT and not arguments:
        return {}
    if function is not _REBUILD or len(arguments) < 4:
        raise PickleError("it calls what cannot be called, which no tensor needs")
    storage, offset, shape, stride = arguments[:4]
    if not isinstance(storage, _Values) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise PickleError("a tensor has no storage, shape or strides")
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or len(shape) > 16:
        raise PickleError(f"a tensor has {len(shape)} axes and {len(stride)} strides")
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise PickleError("a tensor has a shape, stride or offset that is no size")
    return _Values(_view(storage.array, *_integers(numbers, len(shape))))


def _integers(numbers: tuple[object, ...], axes: int) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    offset, *rest = (n for n in numbers if isinstance(n, int))
    return offset, tuple(rest[:axes]), tuple(rest[axes:])


def _view(values: np.ndarray, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    """The tensor as a view of its storage."""
    if 0 in shape:
        return np.zeros(tuple(min(size, 1 << 31) for size in shape), values.dtype)
    if math.prod(shape) > values.size:
        raise PickleError(f"a tensor of shape {shape} repeats its {values.size} values")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if last >= values.size:
        raise PickleError(f"a tensor of shape {shape} reaches past its {values.size} values")
    steps = [step * values.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)


def _open_storage(path: Path, member: zipfile.ZipInfo, dtype: np.dtype, count: int) -> np.ndarray:
    """A storage as a flat, memory-mapped array."""
    if count < 0 or member.file_size != count * dtype.itemsize:
        raise PickleError(f"{member.filename} has {member.file_size} bytes for {count} {dtype}")
    if count == 0:
        return np.zeros(0, dtype)
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
    if header[:4] != b"PK\x03\x04":
        raise PickleError(f"{member.filename} is not where the archive says")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return np.memmap(path, dtype, "r", member.header_offset + 30 + name_length + extra_length, (count,))


def _state_dict_pickle(tensors: list[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """Protocol 2, written by hand: Python's pickler would need torch's functions in order to name them.

    Args:
      tensors: name, storage type and shape; the storages are keyed by position.
    """

    def text(value: str) -> bytes:
        encoded = value.encode()
        return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded

    def integer(value: int) -> bytes:
        if value < 1 << 31:
            return pickle.BININT + struct.pack("<i", value)
        return pickle.LONG1 + b"\x09" + value.to_bytes(9, "little", signed=True)

    def group(items: list[bytes]) -> bytes:
        return pickle.MARK + b"".join(items) + pickle.TUPLE

    def named(module: str, name: str) -> bytes:
        return pickle.GLOBAL + f"{module}\n{name}\n".encode()

    out = [pickle.PROTO + b"\x02", pickle.EMPTY_DICT, pickle.MARK]
    for key, (name, storage, shape) in enumerate(tensors):
        size = int(np.prod(shape, dtype=np.int64))
        strides = [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]
        pid = group([text("storage"), named("torch", storage), text(str(key)), text("cpu"), integer(size)])
        hooks = named("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
        arguments = [
            pid + pickle.BINPERSID,
            integer(0),
            group([integer(n) for n in shape]),
            group([integer(n) for n in strides]),
            pickle.NEWFALSE,
            hooks,
        ]
        out += [
            text(name),
            named("torch._utils", "_rebuild_tensor_v2"),
            group(arguments),
            pickle.REDUCE,
        ]
    return b"".join([*out, pickle.SETITEMS, pickle.STOP])
