"""torch.save files without torch: equal tensors both ways, and nothing but tensors."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxmoe.weights.torch_pickle import read_tensors, write_tensors


def write_archive(path: Path, data: bytes, storages: dict[str, bytes] | None = None, **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        for key, values in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", values)
    return path


def pickled(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)


class Call:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_golden_bin_equals_its_safetensors_copy(goldens):
    from safetensors.numpy import load_file

    folder = goldens / "loramoe" / "llama" / "adapter"
    ours, theirs = read_tensors(folder / "adapter_model.bin"), load_file(folder / "adapter_model.safetensors")
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor, theirs[name])


def test_what_torch_writes_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(3, 2)  # a state dict is an OrderedDict with metadata
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        **layer.state_dict(),
        "transposed": base.T,
        "view": base[1:3, ::2],
        "half": base.half(),
        "bf16": base.bfloat16(),
        "ids": torch.arange(5),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
    }
    torch.save(tensors, tmp_path / "x.bin")
    torch.save(layer.state_dict(), tmp_path / "state.bin")
    read = read_tensors(tmp_path / "x.bin")
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(read[name].astype(np.float32), tensor.float().detach().numpy())
    np.testing.assert_array_equal(read_tensors(tmp_path / "state.bin")["bias"], layer.bias.detach().numpy())


def test_torch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors = {
        "a.weight": values,
        "bf16": values.astype(ml_dtypes.bfloat16),
        "transposed": values.T,
        "scalar": np.float32(2).reshape(()),
    }
    write_tensors(tmp_path / "adapter_model.bin", tensors)
    for safe in (True, False):
        read = torch.load(tmp_path / "adapter_model.bin", weights_only=safe)
        assert list(read) == list(tensors)
        assert read["bf16"].dtype == torch.bfloat16
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(read[name].float().numpy(), tensor.astype(np.float32))
    again = read_tensors(tmp_path / "adapter_model.bin")
    assert all(np.array_equal(again[n], t) and again[n].dtype == t.dtype for n, t in tensors.items())


def test_reading_takes_no_memory_for_values(tmp_path):
    write_tensors(tmp_path / "x.bin", {"x": np.zeros((1000, 10), np.float32)})
    tensor = read_tensors(tmp_path / "x.bin")["x"]
    while tensor.base is not None and not isinstance(tensor, np.memmap):
        tensor = tensor.base
    assert isinstance(tensor, np.memmap)


@pytest.mark.parametrize(
    "payload",
    [
        lambda marker: Call(os.system, f"touch {marker}"),
        lambda marker: Call(eval, f"open({marker!r}, 'w')"),
        lambda marker: Call(getattr, "", "join"),
        lambda marker: {"x": Call(open, marker, "w")},
    ],
    ids=["system", "eval", "getattr", "nested"],
)
def test_a_pickle_that_calls_anything_is_refused(tmp_path, payload):
    marker = tmp_path / "marker"
    path = write_archive(tmp_path / "evil.bin", pickled(payload(str(marker))))
    with pytest.raises(ValueError, match="which no tensor needs"):
        read_tensors(path)
    assert not marker.exists()


def tensor_pickle(key="0", count=4, offset=0, shape=(4,), stride=(1,), tail=b"") -> bytes:
    """A pickle of {"x": tensor}, with any numbers in it."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", "FLOAT", key, "cpu", count) if isinstance(obj, Storage) else None

    file = io.BytesIO()
    Pickler(file, protocol=2).dump({"x": (Storage(), offset, shape, stride, False, {})})
    data = file.getvalue()
    # storage type and rebuilding function are names, which Python's pickler could not write without torch
    data = data.replace(b"X\x05\x00\x00\x00FLOAT", b"ctorch\nFloatStorage\n")
    opening = data.index(b"X\x01\x00\x00\x00x") + len(b"X\x01\x00\x00\x00xq\x01")
    closing = data.rindex(b"tq")
    return (
        data[:opening]
        + b"ctorch._utils\n_rebuild_tensor_v2\n"
        + data[opening : closing + 3]
        + b"R"
        + tail
        + data[closing + 3 :]
    )


def test_the_hand_made_pickle_is_good(tmp_path):
    values = np.arange(4, dtype=np.float32)
    path = write_archive(tmp_path / "x.bin", tensor_pickle(), {"0": values.tobytes()})
    np.testing.assert_array_equal(read_tensors(path)["x"], values)


@pytest.mark.parametrize(
    "numbers",
    [
        {"shape": (5,)},
        {"stride": (2,)},
        {"offset": 1},
        {"offset": -1},
        {"shape": (-4,)},
        {"stride": (-1,)},
        {"stride": ()},
        {"count": 5},
        {"count": -4},
        {"key": "1"},
        {"key": "../0"},
        {"tail": b"}b"},  # sets the state of what was just built
    ],
    ids=str,
)
def test_a_tensor_that_reaches_out_of_its_storage_is_refused(tmp_path, numbers):
    values = np.arange(4, dtype=np.float32).tobytes()
    path = write_archive(tmp_path / "x.bin", tensor_pickle(**numbers), {"0": values})
    with pytest.raises(ValueError, match="cannot be read as a torch"):
        read_tensors(path)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    write_tensors(tmp_path / "x.bin", {"x": np.ones(100, np.float32)})
    whole = (tmp_path / "x.bin").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"not a zip at all", pickled({"x": 1})):
        (tmp_path / "y.bin").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            read_tensors(tmp_path / "y.bin")
    packed = write_archive(tmp_path / "z.bin", pickled({}), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        read_tensors(packed)
    with pytest.raises(ValueError, match="dictionary of tensors"):
        read_tensors(write_archive(tmp_path / "w.bin", pickled({"x": 1})))


def test_a_dtype_without_storage_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no storage for uint16"):
        write_tensors(tmp_path / "x.bin", {"x": np.ones(2, np.uint16)})
