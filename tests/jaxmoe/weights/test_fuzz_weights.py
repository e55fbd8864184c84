"""Weight files that are damaged or hostile: a result or one line, in bounded time and memory."""

import json
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxmoe.json_files import MAX_JSON_BYTES, read_json
from jaxmoe.weights.torch_pickle import read_tensors, write_tensors
from jaxmoe.weights.weight_files import open_weights
from tests.fuzz import INPUTS, SEED, assert_read_or_refused, changed_json, scratch

TENSORS = {f"layers.{i}.w": np.arange(6, dtype=np.float32).reshape(2, 3) for i in range(3)}


def archive_with(path, body):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", body)
        archive.writestr("a/data/0", struct.pack("<4f", 1, 2, 3, 4))
    return path


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"


def tensor_with(shape, stride):
    arguments = STORAGE + b"K\x00" + shape + stride + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs."


NESTED = b"N" + b"".join(b"q\x00h\x00\x86" for _ in range(45))
BOMBS = {
    "nested-pairs-as-a-key": b"\x80\x02}" + NESTED + b"Ns.",
    "nested-pairs-as-a-reference": b"\x80\x02" + NESTED + b"Q.",
    "three-million-groups": b"\x80\x02" + b"(" * 3_000_000 + b".",
    "three-million-dictionaries": b"\x80\x02" + b"}" * 3_000_000 + b".",
    "deep-tuples": b"\x80\x02N" + b"\x85" * 100_000 + b".",
    "billions-of-one-value": tensor_with(b"(J\x00\xca\x9a;J\x00\xca\x9a;t", b"(K\x00K\x00t"),
    "a-hundred-axes": tensor_with(b"(" + b"K\x01" * 100 + b"t", b"(" + b"K\x01" * 100 + b"t"),
    "a-dictionary-in-itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "state-of-a-type": b"\x80\x02ctorch\nFloatStorage\n}b.",
    "a-string-of-4-GiB": b"\x80\x02X\xff\xff\xff\xff.",
    "a-number-of-255-bytes": b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".",
    "no-end": b"\x80\x02}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickle_bombs_are_refused_at_once(name, tmp_path):
    path = archive_with(tmp_path / "x.bin", BOMBS[name])
    assert not assert_read_or_refused(lambda: read_tensors(path), mib=200)


def test_a_large_number_in_the_memo_takes_no_memory(tmp_path):
    path = archive_with(tmp_path / "x.bin", b"\x80\x02}r\xff\xff\xff\x7f.")
    assert assert_read_or_refused(lambda: read_tensors(path), mib=100)
    assert read_tensors(path) == {}


def test_the_hand_made_tensor_is_good(tmp_path):
    path = archive_with(tmp_path / "x.bin", tensor_with(b"K\x04\x85", b"K\x01\x85"))
    np.testing.assert_array_equal(read_tensors(path)["x"], [1, 2, 3, 4])


def test_torch_pickles(tmp_path):
    """Changed archives, and changed pickles inside whole archives."""
    rng = random.Random(f"{SEED} 0")
    path = tmp_path / "x.bin"
    write_tensors(path, TENSORS)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        body = archive.read("x/data.pkl")
    good = 0
    for number in range(INPUTS):
        if number % 2:
            path.write_bytes(scratch(whole, rng))
        else:
            archive_with(path, scratch(body.replace(b"K\x06", b"K\x04"), rng))
        good += assert_read_or_refused(lambda: read_tensors(path))
    assert 0 < good < INPUTS


def test_safetensors_and_their_index(tmp_path):
    rng = random.Random(f"{SEED} 1")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    halves = dict(zip(names, (list(TENSORS)[:1], list(TENSORS)[1:]), strict=True))
    for file, tensors in halves.items():
        save_file({n: TENSORS[n] for n in tensors}, tmp_path / file)
    first = (tmp_path / names[0]).read_bytes()
    header_length = struct.unpack("<Q", first[:8])[0]
    header = json.loads(first[8 : 8 + header_length])
    index = {"metadata": {"total_size": 72}, "weight_map": {n: f for f, ns in halves.items() for n in ns}}
    path = tmp_path / "model.safetensors.index.json"
    good = 0
    for number in range(INPUTS):
        text, content = json.dumps(index).encode(), first
        match number % 4:
            case 0:
                text = json.dumps(changed_json(index, rng)).encode()
            case 1:
                text = scratch(text, rng)
            case 2:
                content = scratch(first, rng)
            case _:
                changed = json.dumps(changed_json(header, rng)).encode()
                content = struct.pack("<Q", len(changed)) + changed + first[8 + header_length :]
        path.write_bytes(text)
        (tmp_path / names[0]).write_bytes(content)

        def read():
            for tensor in open_weights(tmp_path).values():
                tensor.all()

        good += assert_read_or_refused(read)
    assert 0 < good < INPUTS


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../outside.safetensors", "inner/x.safetensors", "..", "", "a\\b", "a\0b", 5, ["x"]],
)
def test_an_index_opens_nothing_but_files_beside_it(name, tmp_path):
    save_file(TENSORS, tmp_path / "outside.safetensors")
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    save_file(TENSORS, folder / "inner" / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"layers.0.w": name}}))
    with pytest.raises(ValueError, match=r"must name files that lie beside it|has no weight_map") as caught:
        open_weights(folder)
    assert "\n" not in str(caught.value)


def test_json_bombs(tmp_path):
    path = tmp_path / "config.json"
    for text, message in [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply|must hold a JSON object"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 6000 + "}", "is not valid JSON"),
        ("[1]", "must hold a JSON object; got a list"),
        ("{", "is not valid JSON"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message) as caught:
            read_json(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_json(path)
    with path.open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)  # takes no room on disk
    with pytest.raises(ValueError, match="a JSON file here has at most"):
        read_json(path)


def test_protocols_that_torch_can_be_asked_for(tmp_path):
    torch = pytest.importorskip("torch")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        torch.save({"x": torch.arange(4.0)}, tmp_path / "x.bin", pickle_protocol=protocol)
        np.testing.assert_array_equal(read_tensors(tmp_path / "x.bin")["x"], [0, 1, 2, 3])
