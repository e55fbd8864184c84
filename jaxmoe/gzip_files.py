"""Gzip files that others wrote, unpacked within bounds."""

import gzip
import io
import zlib
from pathlib import Path

# Deflate packs zeros 1,030 to 1; problems and questions pack 3 to 1, generated tests up to 50 to 1.
MAX_RATIO = 200
SMALL_BYTES = 64 << 20  # a file that unpacks to less than this is always accepted
MAX_BYTES = 16 << 30


class GzipFileError(ValueError):
    """A gzip file that is damaged, or unpacks to more than will be read."""


def open_gzip(path: Path) -> io.BufferedReader:
    """Opens a gzip file for reading bytes, at most:

        min(16 GiB, max(64 MiB, 200 · the file's size))

    Args:
      path: of the file.
    Returns: a stream; reading from it raises GzipFileError, in one line that names the file, if the limit is
      exceeded or the file is damaged or cut short.
    Raises: OSError if there is no such file.
    """
    return io.BufferedReader(_Bounded(path), 1 << 16)


class _Bounded(io.RawIOBase):
    def __init__(self, path: Path):
        size = path.stat().st_size
        self._path, self._limit = path, min(MAX_BYTES, max(SMALL_BYTES, MAX_RATIO * size))
        self._file = gzip.open(path, "rb")  # noqa: SIM115 - closed with this one
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            count = self._file.readinto(buffer)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise GzipFileError(f"{self._path} is no whole gzip file: {error}") from error
        self._count += count
        if self._count > self._limit:
            raise GzipFileError(
                f"{self._path} unpacks to more than {self._limit:,} bytes, the most that is read from it; if "
                "that is right, unpack it and name the unpacked file"
            )
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
