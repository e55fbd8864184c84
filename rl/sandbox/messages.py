"""Messages between the trusted process and the services in the sandbox. Standard library only.

A message, in either direction: uint32 length, JSON of that length, uint32 length, bytes of that length.
"""

import json
import socket
import struct
from typing import Any


def pack(header: dict[str, Any], blob: bytes = b"") -> bytes:
    """A message as bytes, ready to be sent.

    Args:
      header: what JSON can hold.
      blob: carried alongside it, unchanged.
    Returns: both parts, each after its length.
    """
    text = json.dumps(header).encode()
    return b"".join((struct.pack("=I", len(text)), text, struct.pack("=I", len(blob)), blob))


def receive(channel: socket.socket, most_bytes: int = 1 << 31) -> tuple[dict[str, Any], bytes]:
    """The next message.

    Args:
      channel: a stream socket; its timeout applies to each read.
      most_bytes: longest part that is accepted.
    Returns: header and blob.
    Raises: EOFError at the end of the stream; ValueError for a part longer than `most_bytes`, or no JSON.
    """
    text = _receive_part(channel, most_bytes)
    return json.loads(text), _receive_part(channel, most_bytes)


def _receive_part(channel: socket.socket, most_bytes: int) -> bytes:
    (length,) = struct.unpack("=I", _receive_bytes(channel, 4))
    if length > most_bytes:
        raise ValueError("a message longer than may be sent")
    return _receive_bytes(channel, length)


def _receive_bytes(channel: socket.socket, count: int) -> bytes:
    parts: list[bytes] = []
    while count > 0:
        part = channel.recv(min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
