"""Gzip files are read whole, or refused in one line, in bounded memory."""

import gzip
import tracemalloc
from collections import deque

import pytest

from jaxmoe import gzip_files
from jaxmoe.gzip_files import GzipFileError, open_gzip


def test_what_is_packed_comes_back(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"one\ntwo\n") + gzip.compress(b"three\n"))
    with open_gzip(path) as file:
        assert list(file) == [b"one\n", b"two\n", b"three\n"]


def test_a_bomb_is_refused_where_it_passes_the_limit(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(gzip.compress(bytes(200 << 20))))  # 200 KB that hold a bomb
    with open_gzip(path) as file:
        inner = file.read()
    path.write_bytes(inner)
    tracemalloc.start()
    with (
        open_gzip(path) as file,
        pytest.raises(GzipFileError, match=r"a\.gz unpacks to more than 67,108,864 bytes") as error,
    ):
        deque(iter(lambda: file.read(1 << 20), b""), maxlen=1)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert "\n" not in str(error.value)


def test_large_files_may_be_large_but_not_endless(tmp_path, monkeypatch):
    path = tmp_path / "a.gz"
    monkeypatch.setattr(gzip_files, "SMALL_BYTES", 10)
    path.write_bytes(gzip.compress(bytes(1000)))
    with open_gzip(path) as file:
        assert len(file.read()) == 1000
    monkeypatch.setattr(gzip_files, "MAX_BYTES", 999)
    with pytest.raises(GzipFileError, match="more than 999 bytes"), open_gzip(path) as file:
        file.read()


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip", "wrong sum"])
def test_damage_is_told_in_one_line(damage, tmp_path):
    path = tmp_path / "a.gz"
    whole = gzip.compress(bytes(range(256)) * 4)
    changed = {
        "cut": whole[:-6],
        "flipped": whole[:20] + bytes([whole[20] ^ 255] * 30) + whole[50:],
        "no gzip": b"text",
        "wrong sum": whole[:-8] + bytes(4) + whole[-4:],
    }
    path.write_bytes(changed[damage])
    with pytest.raises(GzipFileError, match=r"a\.gz is no whole gzip file") as error, open_gzip(path) as file:
        file.read()
    assert "\n" not in str(error.value)
