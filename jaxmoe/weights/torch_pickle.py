"""torch.save files of plain tensor dictionaries, read and written without torch.

Such a file is an uncompressed zip: `<root>/data.pkl`, a pickle whose tensors refer to storages by persistent
id, and `<root>/data/<key>`, one storage each. A pickle can call anything it can name, so reading goes through
an unpickler that knows the few names a dictionary of tensors needs and nothing else. Not covered: files from
before torch 1.6, big-endian files, whole pickled modules, sparse and quantised tensors.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

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
MAX_PICKLE_BYTES = 1 << 26  # names and shapes only; 64 MiB is some 500,000 tensors


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a torch.save file, memory-mapped: nothing is read before it is used.

    Raises: ValueError if the file is damaged, or holds anything but a dictionary of tensors.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {m.filename: m for m in archive.infolist()}
            pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(pickles) != 1:
                raise pickle.UnpicklingError("there is no data.pkl in it")
            if any(m.compress_type != zipfile.ZIP_STORED for m in members.values()):
                raise pickle.UnpicklingError("it is compressed, which torch.save never does")
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
                raise pickle.UnpicklingError("it was written on a big-endian machine")
            if members[pickles[0]].file_size > MAX_PICKLE_BYTES:
                raise pickle.UnpicklingError("its pickle is larger than names and shapes can be")
            storages = {name.removeprefix(f"{root}data/"): member for name, member in members.items()}
            loaded = _TensorUnpickler(io.BytesIO(archive.read(pickles[0])), path, storages).load()
    except FileNotFoundError:
        raise
    except Exception as error:  # a hostile pickle may raise anything at all
        raise ValueError(f"{path} cannot be read as a torch.save file of plain tensors: {error}") from error
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, _Values) for name, value in loaded.items()
    ):
        raise ValueError(f"{path} must hold a dictionary of tensors and nothing else")
    return {name: value.array for name, value in loaded.items()}


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file that torch.load reads, also with weights_only=True.

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


class _Closed:
    """What the pickle gets to hold: objects whose state it cannot set."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it tries to change the reader")


class _StorageType(_Closed):
    """Stands for torch.FloatStorage and the like."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


class _Values(_Closed):
    """One storage as a flat array, or one tensor."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray):
        self.array = array


class _Rebuild(_Closed):
    """Stands for torch._utils._rebuild_tensor_v2."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> _Values:
        if not isinstance(storage, _Values) or len(shape) != len(stride):
            raise pickle.UnpicklingError("a tensor has no storage, or more strides than axes")
        if min((offset, *shape, *stride)) < 0 or not all(type(n) is int for n in (offset, *shape, *stride)):
            raise pickle.UnpicklingError(f"a tensor has shape {shape}, stride {stride}, offset {offset}")
        values = storage.array
        if 0 in shape:
            return _Values(np.zeros(shape, values.dtype))
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if last >= values.size:
            raise pickle.UnpicklingError(f"a tensor of shape {shape} reaches past its {values.size} values")
        steps = [step * values.itemsize for step in stride]
        return _Values(np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False))


class _Mapping(dict):
    """An OrderedDict of a pickle; the metadata that a module's state dict carries is dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class _NewMapping(_Closed):
    """Stands for collections.OrderedDict."""

    __slots__ = ()

    def __call__(self) -> _Mapping:
        return _Mapping()


class _TensorUnpickler(pickle.Unpickler):
    """Knows tensors, their storages and ordered dictionaries; every other name is an error."""

    def __init__(self, file: io.BytesIO, path: Path, members: dict[str, zipfile.ZipInfo]):
        super().__init__(file)
        self.path, self.members = path, members  # by storage key

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Rebuild()
        if (module, name) == ("collections", "OrderedDict"):
            return _NewMapping()
        if module == "torch" and name in STORAGES:
            return _StorageType(STORAGES[name])
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no tensor needs")

    def persistent_load(self, pid: Any) -> _Values:
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _StorageType):
            raise pickle.UnpicklingError(f"it refers to {kind!r}, not to a storage")
        return _Values(_open_storage(self.path, self.members[key], storage.dtype, count))


def _open_storage(path: Path, member: zipfile.ZipInfo, dtype: np.dtype, count: int) -> np.ndarray:
    """A storage as a flat, memory-mapped array."""
    if count < 0 or member.file_size != count * dtype.itemsize:
        raise pickle.UnpicklingError(f"{member.filename} has {member.file_size} bytes for {count} {dtype}")
    if count == 0:
        return np.zeros(0, dtype)
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
    if header[:4] != b"PK\x03\x04":
        raise pickle.UnpicklingError(f"{member.filename} is not where the archive says")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return np.memmap(path, dtype, "r", member.header_offset + 30 + name_length + extra_length, (count,))


def _state_dict_pickle(tensors: list[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """Protocol 2, written out by hand: Python's pickler would need torch's functions to name them.

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
